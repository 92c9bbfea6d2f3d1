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
use crate::machine::{AfterPreview, MachineError, Machines, Preview, Undeclared};
use crate::model::{Machine, Project};
use crate::plan;
use crate::provision::Why;

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
        self.preview.problems.iter().map(|problem| told(self.project, problem))
    }
}

/// What comes after all machines.
struct After<'a> {
    project: &'a Project,
    preview: AfterPreview<'a>,
}

impl After<'_> {
    fn differs(&self) -> bool {
        self.preview.why.as_ref().is_ok_and(|why| why.runs() && *why != Why::Always)
    }

    /// Why `up` would fail, with what to do about it; masked.
    fn problem(&self) -> Option<(String, Option<String>)> {
        self.preview.why.as_ref().err().map(|problem| told(self.project, problem))
    }
}

/// All of it.
struct Plan<'a> {
    machines: Vec<Planned<'a>>,
    after: Vec<After<'a>>,
    gone: Vec<Undeclared>,
}

fn told(project: &Project, problem: &MachineError) -> (String, Option<String>) {
    let error = CliError::from_error(Kind::Failed, problem.code(), problem, problem.hint());
    let masker = &project.masker;
    (masker.mask(&error.one_line()), error.hint.map(|hint| masker.mask(&hint)))
}

/// Looks, and prints. Changes nothing and waits for nobody.
pub fn run(app: &App, args: &PlanArgs) -> Outcome {
    let mut machines = app.machines()?;
    let targets = target::resolve(app, &machines, &args.names)?;
    lock::apply(&mut machines, &targets, None)?;
    let declared: Vec<(&Project, &Machine)> =
        targets.iter().map(Target::declaration).collect::<Result<_, CliError>>()?;
    let list = look(app, &machines, &declared, args.names.is_empty())?;
    let after = look_after(&machines, &declared)?;
    let gone = match declared.first() {
        Some((project, _)) if args.names.is_empty() => machines.undeclared(project)?,
        _ => Vec::new(),
    };
    let plan = Plan { machines: list, after, gone };
    if app.json {
        app.ui.json(&document::document(&plan));
    } else {
        let color = app.ui.color(To::Stdout);
        app.ui.result(text::text(&plan, color).trim_end());
    }
    Ok(if args.exit_code { exit_code(&plan) } else { DONE })
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

/// Asks about what comes after all machines. As in `up`, the first machine's project is asked.
fn look_after<'a>(
    machines: &Machines<'_>,
    declared: &[(&'a Project, &'a Machine)],
) -> Result<Vec<After<'a>>, CliError> {
    let Some((project, _)) = declared.first() else { return Ok(Vec::new()) };
    let one = |after| Ok(After { project, preview: machines.preview_after(project, after)? });
    project.after_all.iter().map(one).collect()
}

impl Plan<'_> {
    fn differs(&self) -> bool {
        !self.gone.is_empty()
            || self.machines.iter().any(Planned::differs)
            || self.after.iter().any(After::differs)
    }

    fn has_problems(&self) -> bool {
        self.machines.iter().any(|planned| !planned.preview.problems.is_empty())
            || self.after.iter().any(|after| after.preview.why.is_err())
    }
}

fn exit_code(plan: &Plan<'_>) -> u8 {
    if plan.has_problems() {
        PROBLEMS
    } else if plan.differs() {
        DIFFERENCES
    } else {
        DONE
    }
}
