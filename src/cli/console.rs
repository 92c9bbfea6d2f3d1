//! `rvm console`: this terminal as a terminal of the machine, also when its network is broken.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use clap::Args;

use super::app::App;
use super::attach::{Attachment, End};
use super::error::CliError;
use super::target;
use super::{DONE, Outcome};
use crate::machine::{MachineError, Machines, State, Status};
use crate::model::Code;
use crate::provider::ProviderError;

/// Words of `rvm console`.
#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal, Ctrl-] detaches; the machine goes on. What was printed last is shown \
    first. Several may be attached at the same time; all see the same and all may type.\n\
    In a pipe, what comes in is typed; after its end, output is shown until there was none for a second."
)]
pub struct ConsoleArgs {
    /// Machine or id; needed where the project has several
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Attaches until the user detaches or the machine ends.
pub fn run(app: &App, args: &ConsoleArgs) -> Outcome {
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, &args.name, "console")?;
    let status = target.status(&machines)?;
    let name = &target.name;
    let stream = connect(&machines, &status)?;
    let attachment = Attachment::new(stream, &app.cancel).map_err(|e| {
        CliError::failed(Code::Console, format!("cannot attach to the console of {name}")).because(&e)
    })?;
    if attachment.is_terminal() {
        app.ui.note(&format!("Attached to the console of {name}. Ctrl-] detaches."));
    }
    let end = attachment.run(&app.ui, &app.cancel).map_err(|e| {
        CliError::failed(Code::Console, format!("the console of {name} broke off")).because(&e)
    })?;
    match end {
        End::Detached { typed: true } => app.ui.note(&format!("\nDetached; {name} goes on.")),
        End::Detached { typed: false } => {}
        End::Interrupted => return Err(CliError::interrupted("interrupted")),
        End::Closed if machines.has_ended(&status)? => {
            app.ui.note(&format!("\nThe machine {name} has ended."))
        }
        End::Closed => {
            return Err(CliError::failed(
                Code::Console,
                format!("the machine {name} has closed the console"),
            )
            .hint("too many may be attached to it: detach one"));
        }
    }
    Ok(DONE)
}

fn connect(machines: &Machines<'_>, status: &Status) -> Result<UnixStream, CliError> {
    let name = &status.name;
    if status.state != State::Running {
        let state = super::status::word(status.state);
        return Err(CliError::failed(
            Code::NotRunning,
            format!("cannot attach to the console of {name}: it is {state}"),
        )
        .hint(format!("`rvm up {name}` starts it")));
    }
    machines.console(status).map_err(|error| match &error {
        MachineError::Provider(ProviderError::File { source, .. })
            if source.kind() == ErrorKind::NotFound =>
        {
            CliError::failed(Code::Console, format!("{name} has no console: an older rvm started it"))
                .hint(format!("`rvm reload {name}` starts it again"))
        }
        _ => error.into(),
    })
}
