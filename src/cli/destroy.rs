//! `rvm destroy`: machines and their disks removed.

use clap::Args;

use super::app::App;
use super::error::{CliError, Kind};
use super::prompt;
use super::target::{self, Target};
use super::{DONE, Outcome};
use crate::machine::Machines;

/// Exit code when all machines were declined.
const ALL_DECLINED: u8 = 1;
/// Exit code when some were declined and some removed.
const SOME_DECLINED: u8 = 2;

/// Words of `rvm destroy`.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Machines or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Asks and removes, the last machine of the file first. Exit codes as Vagrant has them: 0 all
/// gone, 1 all declined (or a failure), 2 some declined.
pub fn run(app: &App, args: &DestroyArgs) -> Outcome {
    let machines = app.machines()?;
    let mut targets = target::resolve(app, &machines, &args.names)?;
    targets.reverse();
    let mut created = Vec::new();
    for target in &targets {
        match target.id(&machines)? {
            Some(id) => created.push((target, id)),
            None => app.ui.stage(&target.name, "Machine not created."),
        }
    }
    if !created.is_empty() && !args.force && !prompt::can_ask() {
        return Err(CliError::failed("cannot ask whether to destroy: standard input is no terminal")
            .hint("`rvm destroy -f` does not ask"));
    }
    let (mut declined, mut failed) = (0, 0);
    for (target, id) in &created {
        app.check_cancelled()?;
        match destroy(app, &machines, target, id, args.force) {
            Ok(true) => {}
            Ok(false) => declined += 1,
            Err(error) if error.kind == Kind::Interrupted || targets.len() == 1 => return Err(error),
            Err(error) => {
                app.ui.error(&error, false);
                failed += 1;
            }
        }
    }
    if failed > 0 {
        return Err(CliError::failed(format!("{failed} of {} machines were not removed", targets.len()))
            .hint("`rvm destroy` again goes on with them"));
    }
    Ok(exit_code(declined, targets.len()))
}

fn exit_code(declined: usize, targets: usize) -> u8 {
    match declined {
        0 => DONE,
        n if n == targets => ALL_DECLINED,
        _ => SOME_DECLINED,
    }
}

fn destroy(
    app: &App,
    machines: &Machines<'_>,
    target: &Target,
    id: &str,
    force: bool,
) -> Result<bool, CliError> {
    let name = &target.name;
    if !force && !prompt::yes(app, &format!("    {name}: Destroy the machine and all its data? [y/N] "))? {
        app.ui.stage(name, "Kept.");
        return Ok(false);
    }
    machines.destroy(id)?;
    app.ui.stage(name, "Machine destroyed.");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_vagrant() {
        assert_eq!([exit_code(0, 2), exit_code(2, 2), exit_code(1, 2), exit_code(0, 0)], [0, 1, 2, 0]);
    }
}
