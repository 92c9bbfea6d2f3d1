//! A plan for people.

use super::{After, Plan, Planned};
use crate::cli::status::word;
use crate::cli::target::short;
use crate::cli::ui::table::bytes;
use crate::cli::ui::text::sanitise;
use crate::machine::StepPreview;
use crate::model::{Forward, KernelChoice, Machine, Nat, NatBackend, ProviderKind, Side, port_runs};
use crate::plan::{Change, How, card_text, describe, forward_text, host_card_text, mebibytes};
use crate::provision::Why;

/// What a line is about; its first character and its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Will be there.
    Add,
    /// Differs.
    Change,
    /// Is to go.
    Remove,
    /// Goes wrong.
    Trouble,
    /// To know.
    Plain,
}

impl Mark {
    /// The character, and the colour by its SGR code (ECMA-48).
    fn look(self) -> (char, &'static str) {
        match self {
            Mark::Add => ('+', "32"),
            Mark::Change => ('~', "33"),
            Mark::Remove => ('-', "31"),
            Mark::Trouble => ('!', "1;31"),
            Mark::Plain => (' ', ""),
        }
    }
}

/// Width of the words in the second column.
const SUBJECT_WIDTH: usize = 10;

struct Page {
    color: bool,
    text: String,
}

impl Page {
    fn head(&mut self, text: &str) {
        let (on, off) = if self.color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.text.push_str(&format!("{on}{}{off}\n", sanitise(text)));
    }

    fn line(&mut self, mark: Mark, subject: &str, text: &str) {
        let (sign, code) = mark.look();
        let (on, off) = if self.color && !code.is_empty() {
            (format!("\x1b[{code}m"), "\x1b[0m")
        } else {
            (String::new(), "")
        };
        let line = sanitise(&format!("{subject:<SUBJECT_WIDTH$} {text}")).replace('\n', "\n    ");
        self.text.push_str(&format!("  {on}{sign}{off} {line}\n"));
    }
}

/// The whole plan; lines end with a line feed.
pub(super) fn text(plan: &Plan<'_>, color: bool) -> String {
    let mut page = Page { color, text: String::new() };
    for planned in &plan.machines {
        block(&mut page, planned);
        page.text.push('\n');
    }
    after_all(&mut page, &plan.after);
    for machine in &plan.gone {
        page.head(&format!("{}: not in the Vagrantfile any more", machine.name));
        page.line(Mark::Remove, "machine", &format!("`rvm destroy {}` removes it", short(&machine.id)));
        page.text.push('\n');
    }
    page.text.push_str(&conclusion(plan));
    page.text.push('\n');
    page.text
}

fn block(page: &mut Page, planned: &Planned<'_>) {
    let (machine, preview) = (planned.machine, &planned.preview);
    page.head(&format!("{}: {}", machine.name, headline(planned)));
    if let Some(holder) = &preview.busy {
        page.line(Mark::Plain, "now", &format!("`{holder}` works on it: this may be out of date"));
    }
    if planned.left_alone && !preview.runs() {
        let text =
            format!("`rvm up` leaves it alone (autostart = false); `rvm up {}` brings it up", machine.name);
        return page.line(Mark::Plain, "autostart", &text);
    }
    if !machine.depends_on.is_empty() {
        page.line(Mark::Plain, "after", &machine.depends_on.join(", "));
    }
    if preview.is_new() {
        creation(page, planned);
    }
    for change in &preview.changes {
        self::change(page, &machine.name, change, preview.runs());
    }
    start(page, planned);
    for step in &preview.steps {
        self::step(page, step);
    }
    for (message, hint) in planned.problems() {
        problem(page, &message, hint);
    }
}

fn problem(page: &mut Page, message: &str, hint: Option<String>) {
    let hint = hint.map(|hint| format!("\n{:SUBJECT_WIDTH$} {hint}", "")).unwrap_or_default();
    page.line(Mark::Trouble, "problem", &format!("{message}{hint}"));
}

/// What comes after all machines; nothing where nothing of it runs.
fn after_all(page: &mut Page, list: &[After<'_>]) {
    let told = |after: &&After<'_>| after.preview.why.as_ref().map_or(true, Why::runs);
    let mut told = list.iter().filter(told).peekable();
    if told.peek().is_none() {
        return;
    }
    page.head("after all machines");
    for after in told {
        let declared = after.preview.after;
        let place = match declared.side {
            Side::Host => "host".to_owned(),
            Side::Guest => declared.machines.join(", "),
        };
        let name = after.project.masker.mask(&declared.step.name);
        let what = format!("{name} ({}, {place})", declared.step.kind.type_name());
        match &after.preview.why {
            Ok(why) => reason(page, &what, why),
            Err(_) => {
                if let Some((message, hint)) = after.problem() {
                    problem(page, &message, hint);
                }
            }
        }
    }
    page.text.push('\n');
}

fn headline(planned: &Planned<'_>) -> String {
    let preview = &planned.preview;
    let now = word(preview.status.state);
    if planned.left_alone && !preview.runs() {
        return now.to_owned();
    }
    match (preview.runs(), preview.is_new(), planned.differs()) {
        (true, _, false) => format!("{now}, as the Vagrantfile says"),
        (true, _, true) => format!("{now}, differs from the Vagrantfile"),
        (_, true, _) => format!("{now}, will be created"),
        _ => format!("{now}, will be started"),
    }
}

fn creation(page: &mut Page, planned: &Planned<'_>) {
    let machine = planned.machine;
    let image = planned.preview.start.as_ref().and_then(|start| start.image.as_ref());
    let known = planned.preview.problems.iter().all(|problem| !is_about_box(problem));
    match image {
        Some(image) => {
            let digest = image.digest.get(..12).unwrap_or(&image.digest);
            page.line(Mark::Add, "box", &format!("{} ({digest})", image.name));
        }
        None if known => {
            page.line(Mark::Add, "box", &format!("{}, which is built first", machine.box_name));
        }
        None => {}
    }
    let cpus = if machine.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", machine.cpus) };
    let nested = if machine.nested { ", virtual machines inside" } else { "" };
    page.line(Mark::Add, "hardware", &format!("{cpus}, {} of memory{nested}", mebibytes(machine.memory)));
    let size = machine.disk.or_else(|| image.map(|image| image.default_disk));
    page.line(Mark::Add, "disk", &size.map_or("as large as the box makes it".into(), bytes));
    for disk in &machine.disks {
        page.line(Mark::Add, "disk", &format!("{}: {}", disk.name, describe(disk)));
    }
    if machine.nat != Nat::default() {
        page.line(Mark::Add, "nat", machine.nat.as_str());
    }
    if machine.nat_backend != NatBackend::default() {
        page.line(Mark::Add, "nat_backend", machine.nat_backend.as_str());
    }
    for card in &machine.cards {
        page.line(Mark::Add, "network", &format!("{}: {}", card.network, card_text(card)));
    }
    for card in &machine.host_cards {
        page.line(Mark::Add, "network", &format!("{}: {}", card.to, host_card_text(card)));
    }
    if machine.hostname != machine.name {
        page.line(Mark::Add, "hostname", &machine.hostname);
    }
}

fn is_about_box(problem: &crate::machine::MachineError) -> bool {
    use crate::image::ImageError::{BrokenBox, OtherRecipe, UnknownBox};
    let crate::machine::MachineError::Image(error) = problem else { return false };
    matches!(error, UnknownBox { .. } | BrokenBox { .. } | OtherRecipe { .. })
}

fn change(page: &mut Page, name: &str, change: &Change, runs: bool) {
    let mark = match (&change.old, &change.new) {
        (None, Some(_)) => Mark::Add,
        (Some(_), None) => Mark::Remove,
        _ => Mark::Change,
    };
    let value = match (&change.old, &change.new) {
        (None, Some(value)) | (Some(value), None) => value.clone(),
        _ => change.values(),
    };
    // What a start applies needs no word.
    let text = match change.how {
        How::Live if !runs => value,
        how => format!("{value}: {}", how.remedy(name)),
    };
    page.line(mark, &change.subject.to_string(), &text);
}

/// What a machine that does not run would be started with.
fn start(page: &mut Page, planned: &Planned<'_>) {
    let Some(start) = &planned.preview.start else { return };
    let machine = planned.machine;
    // Of a machine that exists these are no news.
    let (is_new, mark) = match planned.preview.is_new() {
        true => (true, Mark::Add),
        false => (false, Mark::Plain),
    };
    page.line(mark, "kernel", &kernel(machine, start.kernel.as_deref()));
    if let Some(kind) = start.provider {
        let is_clear = machine.provider.is_some() || kind == ProviderKind::Kvm;
        let note = if is_clear { "" } else { " (`rvm doctor` says why not kvm)" };
        page.line(mark, "provider", &format!("{kind}{note}"));
    }
    let (kept, moved): (Vec<_>, Vec<_>) =
        start.ports.iter().partition(|(declared, chosen)| declared.host == chosen.host);
    let kept: Vec<Forward> = kept.into_iter().map(|(declared, _)| declared.clone()).collect();
    for run in port_runs(&kept).iter().filter(|_| is_new) {
        page.line(mark, "port", &run.to_string());
    }
    for (declared, chosen) in moved {
        let text = format!("{}: taken, so {} instead", forward_text(declared), chosen.host);
        page.line(Mark::Change, "port", &text);
    }
}

fn kernel(machine: &Machine, version: Option<&str>) -> String {
    let word = machine.kernel.as_str();
    match (version, machine.kernel) {
        (Some(version), _) => format!("{word}, {version}"),
        (None, KernelChoice::Stock) => format!("{word}, which comes with the box"),
        (None, KernelChoice::Fast) => format!("{word}, which is built first"),
    }
}

fn step(page: &mut Page, step: &StepPreview) {
    reason(page, &format!("{} ({})", step.name, step.kind), &step.why);
}

fn reason(page: &mut Page, step: &str, why: &Why) {
    let (mark, why) = match why {
        Why::New => (Mark::Add, "has not succeeded yet".to_owned()),
        Why::Changed(parts) if parts.is_empty() => (Mark::Change, "changed since it succeeded".into()),
        Why::Changed(parts) => (Mark::Change, format!("changed since it succeeded: {}", parts.join(", "))),
        Why::Always => (Mark::Plain, "runs each time".into()),
        // Those that do nothing are no news.
        Why::Done | Why::Never => return,
    };
    page.line(mark, "step", &format!("{step}: {why}"));
}

fn conclusion(plan: &Plan<'_>) -> String {
    let list = plan.machines.as_slice();
    let count = |test: &dyn Fn(&Planned<'_>) -> bool| list.iter().filter(|planned| test(planned)).count();
    let named = |n: usize, what: &str| (n > 0).then(|| format!("{what} {n}"));
    let active = |planned: &Planned<'_>| !planned.left_alone || planned.preview.runs();
    let created = count(&|p| active(p) && p.preview.is_new());
    let started = count(&|p| active(p) && !p.preview.is_new() && !p.preview.runs());
    let changed = count(&|p| p.preview.runs() && does_something(p));
    let parts: Vec<String> = [named(created, "creates"), named(started, "starts"), named(changed, "changes")]
        .into_iter()
        .flatten()
        .collect();
    let mut text = match parts.split_last() {
        None if plan.after.iter().any(After::differs) => {
            "`rvm up` runs what comes after all machines.".to_owned()
        }
        None if plan.differs() => "`rvm up` changes nothing.".to_owned(),
        None => "Nothing to do.".to_owned(),
        Some((last, [])) => format!("`rvm up` {last} of {}.", machines(list.len())),
        Some((last, first)) => {
            format!("`rvm up` {} and {last} of {}.", first.join(", "), machines(list.len()))
        }
    };
    for how in [How::Reload, How::Recreate] {
        let names: Vec<&str> = list
            .iter()
            .filter(|planned| planned.preview.changes.iter().any(|change| change.how == how))
            .map(|planned| planned.machine.name.as_str())
            .collect();
        if !names.is_empty() {
            let what = if how == How::Reload { "`rvm reload`" } else { "`rvm destroy` and `rvm up`" };
            let (verb, names) = (if how == How::Reload { "is" } else { "are" }, names.join(", "));
            text.push_str(&format!(" {what} {verb} needed for {names}."));
        }
    }
    let problems = count(&|planned| !planned.preview.problems.is_empty());
    if problems > 0 {
        text.push_str(&format!(" It would fail for {}.", machines(problems)));
    } else if plan.has_problems() {
        text.push_str(" It would fail after all machines.");
    }
    text
}

/// `up` does something to this machine that runs, beside steps that run each time.
fn does_something(planned: &Planned<'_>) -> bool {
    let preview = &planned.preview;
    preview.changes.iter().any(|change| change.how == How::Live)
        || preview.steps.iter().any(|step| step.why.runs() && step.why != Why::Always)
}

fn machines(count: usize) -> String {
    if count == 1 { "1 machine".into() } else { format!("{count} machines") }
}

#[cfg(test)]
mod tests;
