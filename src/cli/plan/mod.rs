//! `rvm plan`: what `up` would do and why, and how machines differ from the file.

mod document;
mod text;

use clap::Args;

use super::app::App;
use super::error::{CliError, Kind};
use super::lock;
use super::target::{self, Target};
use super::ui::sink::To;
use super::{DONE, Json, Outcome};
use crate::machine::{Machines, Preview, Undeclared};
use crate::model::{Machine, Project};
use crate::plan;

/// Exit code of `--exit-code` when `up` would fail.
const PROBLEMS: u8 = 1;
/// Exit code of `--exit-code` when something differs.
const DIFFERENCES: u8 = 2;

/// Words of `rvm plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Machines or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Exit with 2 if something differs, 1 if `up` would fail
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

/// A machine with what `up` would do to it.
struct Planned<'a> {
    project: &'a Project,
    machine: &'a Machine,
    preview: Preview,
    /// `up` without names leaves it alone.
    left_alone: bool,
}

impl Planned<'_> {
    fn differs(&self) -> bool {
        // One that is not brought up by itself does not differ by not running.
        self.preview.differs() && (!self.left_alone || self.preview.runs())
    }

    /// Why `up` would fail, each with what to do about it; masked.
    fn problems(&self) -> impl Iterator<Item = (String, Option<String>)> {
        self.preview.problems.iter().map(|problem| {
            let error = CliError::from_error(Kind::Failed, problem.code(), problem, problem.hint());
            let masker = &self.project.masker;
            (masker.mask(&error.one_line()), error.hint.map(|hint| masker.mask(&hint)))
        })
    }
}

/// Looks, and prints. Changes nothing and waits for nobody.
pub fn run(app: &App, args: &PlanArgs) -> Outcome {
    let mut machines = app.machines()?;
    let targets = target::resolve(app, &machines, &args.names)?;
    machines.locks = lock::read(&targets, None)?;
    let declared: Vec<(&Project, &Machine)> =
        targets.iter().map(Target::declaration).collect::<Result<_, CliError>>()?;
    let list = look(app, &machines, &declared, args.names.is_empty())?;
    let gone = match declared.first() {
        Some((project, _)) if args.names.is_empty() => machines.undeclared(project)?,
        _ => Vec::new(),
    };
    if app.json {
        app.ui.json(&document::document(&list, &gone));
    } else {
        let color = app.ui.color(To::Stdout);
        app.ui.result(text::text(&list, &gone, color).trim_end());
    }
    Ok(if args.exit_code { exit_code(&list, &gone) } else { DONE })
}

/// Asks about each machine, in the order in which `up` brings them up.
fn look<'a>(
    app: &App,
    machines: &Machines<'_>,
    declared: &[(&'a Project, &'a Machine)],
    all: bool,
) -> Result<Vec<Planned<'a>>, CliError> {
    let mut given = Vec::new();
    let mut list = Vec::new();
    // Machines addressed by id may be of several projects: order is a matter of each.
    for (at, (project, _)) in declared.iter().enumerate() {
        if declared.iter().take(at).any(|(earlier, _)| earlier.root == project.root) {
            continue;
        }
        let of_project = declared.iter().filter(|(other, _)| other.root == project.root);
        for machine in plan::in_order(of_project.map(|(_, machine)| *machine)) {
            app.check_cancelled()?;
            let preview = machines.preview(project, machine, &mut given)?;
            list.push(Planned { project, machine, preview, left_alone: all && !machine.autostart });
        }
    }
    Ok(list)
}

fn exit_code(list: &[Planned<'_>], gone: &[Undeclared]) -> u8 {
    if list.iter().any(|planned| !planned.preview.problems.is_empty()) {
        PROBLEMS
    } else if !gone.is_empty() || list.iter().any(Planned::differs) {
        DIFFERENCES
    } else {
        DONE
    }
}
