//! `rvm destroy`: machines and their disks removed.

use clap::Args;

use super::app::App;
use super::error::CliError;
use super::hooks;
use super::left;
use super::many::{Many, ManyFlags, Order};
use super::target::{self, Target};
use super::{DONE, Outcome, halt, prompt};
use crate::model::Hooked;

/// Exit code when all machines were declined.
const ALL_DECLINED: u8 = 1;
/// Exit code when some were declined and some removed.
const SOME_DECLINED: u8 = 2;

/// Words of `rvm destroy`.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Machines, groups, /expressions/ or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Let the guests halt before they are removed
    #[arg(short, long)]
    graceful: bool,
    #[command(flatten)]
    many: ManyFlags,
}

/// Asks about each and removes, those that depend on others first, else the last machine of the file
/// first. Exit codes as Vagrant has them: 0 all gone, 1 all declined (or a failure), 2 some declined.
pub fn run(app: &App, args: &DestroyArgs) -> Outcome {
    let machines = args.many.patient(app.machines()?);
    let names = args.many.names(&args.names);
    let mut targets = target::resolve(app, &machines, &names)?;
    if names.is_empty() {
        left::tell(app, &machines, &targets);
    }
    targets.reverse();
    let all = targets.len();
    let mut created = halt::created(app, &machines, targets)?;
    if !created.is_empty() && !args.force && !prompt::can_ask(app) {
        return Err(CliError::failed(
            crate::model::Code::CannotAsk,
            match app.ui.is_machine_readable() {
                true => "cannot ask whether to destroy: --machine-readable",
                false => "cannot ask whether to destroy: standard input is no terminal",
            },
        )
        .hint("`rvm destroy -f` does not ask"));
    }
    let asked = created.len();
    if !args.force {
        created = agreed(app, created)?;
    }
    let declined = asked - created.len();
    Many::new(app, &machines, &created, "destroy", Order::Down, &args.many)?.each(&|target| {
        let Some(id) = target.id(&machines)? else { return Ok("not created".into()) };
        hooks::around(app, &machines, target, Hooked::Destroy, || {
            if args.graceful {
                let timeout = target.declaration().ok().map(|(_, machine)| machine.halt_timeout);
                machines.halt(&id, false, timeout)?;
            }
            Ok(machines.destroy(&id)?)
        })?;
        app.ui.stage(&target.name, "Machine destroyed.");
        Ok("destroyed".into())
    })?;
    Ok(exit_code(declined, all))
}

/// Those that the user agrees to lose. Nothing is removed before the last question is answered.
fn agreed(app: &App, targets: Vec<Target>) -> Result<Vec<Target>, CliError> {
    let mut agreed = Vec::new();
    for target in targets {
        let name = &target.name;
        if prompt::yes(app, &format!("    {name}: Destroy the machine and all its data? [y/N] "))? {
            agreed.push(target);
        } else {
            app.ui.stage(name, "Kept.");
        }
    }
    Ok(agreed)
}

fn exit_code(declined: usize, targets: usize) -> u8 {
    match declined {
        0 => DONE,
        n if n == targets => ALL_DECLINED,
        _ => SOME_DECLINED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_vagrant() {
        assert_eq!([exit_code(0, 2), exit_code(2, 2), exit_code(1, 2), exit_code(0, 0)], [0, 1, 2, 0]);
    }
}
