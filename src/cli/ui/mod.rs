//! What the user sees. All text leaves the process here, masked and free of terminal control.

pub mod crew;
pub mod machine;
pub mod progress;
pub mod sink;
pub mod table;
pub mod text;
pub mod xml;

use std::sync::{Mutex, MutexGuard, RwLock};
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::error::CliError;
use crate::model::{Event, Masker, Reporter, Stream};
use crew::Crew;
use machine::Tone;
use progress::{Bars, Lines};
use sink::{Sink, To};

/// When text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How the user wants to be talked to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// `--color`, `--no-color`.
    pub color: Color,
    /// `-q`: results, warnings and errors only.
    pub quiet: bool,
    /// `NO_COLOR` is set, or the terminal is a dumb one.
    pub plain_terminal: bool,
    /// A build server: no bars even if it pretends to have a terminal.
    pub ci: bool,
    /// `--machine-readable`: lines for scripts, all on standard output.
    pub machine_readable: bool,
}

/// The one writer to standard output and error.
pub struct Ui {
    style: Style,
    sink: Sink,
    /// Messages about the work; results always go to standard output.
    messages: To,
    maskers: RwLock<Vec<Masker>>,
    meter: Mutex<Meter>,
    /// The machines of the command, where they are several.
    crew: RwLock<Option<Crew>>,
}

enum Meter {
    Bars(Bars),
    Lines(Lines),
}

impl Ui {
    /// `messages`: where stages, details and the guest's output go.
    pub fn new(style: Style, messages: To, sink: Sink) -> Self {
        let calm = style.quiet || style.ci || style.plain_terminal || style.machine_readable;
        let bars = !calm && sink.is_terminal(To::Stderr);
        let meter = if bars { Meter::Bars(Bars::default()) } else { Meter::Lines(Lines::default()) };
        Ui::with(style, messages, sink, meter)
    }

    fn with(style: Style, messages: To, sink: Sink, meter: Meter) -> Self {
        let (maskers, meter, crew) = (RwLock::default(), Mutex::new(meter), RwLock::default());
        Ui { style, sink, messages, maskers, meter, crew }
    }

    /// From now on these values are masked too.
    pub fn add_masker(&self, masker: Masker) {
        self.maskers.write().unwrap_or_else(|e| e.into_inner()).push(masker);
    }

    /// Whether text on that stream is coloured.
    pub fn color(&self, to: To) -> bool {
        match self.style.color {
            _ if self.style.machine_readable => false,
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !self.style.plain_terminal && self.sink.is_terminal(to),
        }
    }

    /// Whether standard output is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.sink.is_terminal(To::Stdout)
    }

    /// Whether standard output has lost its reader.
    pub fn stdout_closed(&self) -> bool {
        self.sink.is_closed(To::Stdout)
    }

    /// Why results could not be written (a full disk), if so.
    pub fn stdout_error(&self) -> Option<String> {
        self.sink.stdout_error()
    }

    /// A result, made of our own words and names from the `Vagrantfile`: printed as it is, so
    /// that a name that happens to be a value of the ENV file stays readable.
    pub fn result(&self, text: &str) {
        match self.style.machine_readable {
            true => self.ui_line("", Tone::Info, text),
            false => self.line(To::Stdout, text),
        }
    }

    /// A line for scripts, where these are wanted (`docs/json.md` lists the types). Made of our own words.
    pub fn machine(&self, target: &str, kind: &str, data: &[&str]) {
        if self.style.machine_readable {
            self.line(To::Stdout, &machine::line(SystemTime::now(), target, kind, data));
        }
    }

    /// Whether scripts read us, so that nobody can be asked.
    pub fn is_machine_readable(&self) -> bool {
        self.style.machine_readable
    }

    fn ui_line(&self, target: &str, tone: Tone, text: &str) {
        self.machine(target, "ui", &[tone.as_str(), text]);
    }

    /// A result that others wrote (the guest's console): masked; terminal control is removed
    /// where it would reach a terminal.
    pub fn foreign(&self, text: &str) {
        let text = self.mask(text);
        if self.style.machine_readable {
            return self.ui_line("", Tone::Output, &text);
        }
        let safe = if self.sink.is_terminal(To::Stdout) { text::sanitise(&text) } else { text };
        self.write(To::Stdout, safe.as_bytes());
    }

    /// A JSON document: standard output holds just this one.
    pub fn json(&self, value: &impl Serialize) {
        // Our documents hold strings, numbers and lists: they always serialise.
        let text = serde_json::to_string_pretty(value).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"));
        self.line(To::Stdout, &text);
    }

    /// Bytes exactly as a command in the guest printed them.
    pub fn bytes(&self, stream: Stream, data: &[u8]) {
        let to = if stream == Stream::Stdout { To::Stdout } else { To::Stderr };
        self.write(to, data);
    }

    /// A question; the answer is typed behind it.
    pub fn question(&self, text: &str) {
        self.write(To::Stderr, self.mask(text).as_bytes());
    }

    /// A message about the work, not shown with `-q`.
    pub fn note(&self, text: &str) {
        let safe = text::sanitise(&self.mask(text));
        match self.style {
            Style { quiet: true, .. } => {}
            Style { machine_readable: true, .. } => self.ui_line("", Tone::Info, &safe),
            _ => self.line(self.messages, &safe),
        }
    }

    /// A message about one machine, as Vagrant shows it.
    pub fn stage(&self, machine: &str, text: &str) {
        self.event(Event::Stage { machine: Some(machine.to_owned()), text: text.to_owned() });
    }

    /// From now on several machines are at work; each comes with what it waits for. On a terminal each has a
    /// line of its own at the bottom, until the result is dropped.
    pub fn crew(&self, machines: Vec<(String, String)>) -> AtWork<'_> {
        let crew = Crew::new(machines.iter().map(|(name, _)| name.clone()).collect());
        if let Meter::Bars(bars) = &mut *self.meter() {
            let color = self.color(To::Stderr);
            let line = |(name, waits): (String, String)| (crew.label(&name, color, true), waits);
            bars.crew(&machines.into_iter().map(line).collect::<Vec<_>>());
        }
        *self.crew.write().unwrap_or_else(|e| e.into_inner()) = Some(crew);
        AtWork(self)
    }

    /// Does `change` to the line of a machine, where there is one.
    fn on_line(&self, machine: &str, change: impl FnOnce(&Bars, usize)) {
        let crew = self.crew.read().unwrap_or_else(|e| e.into_inner());
        let at = crew.as_ref().and_then(|crew| crew.position(machine));
        if let (Some(at), Meter::Bars(bars)) = (at, &*self.meter()) {
            change(bars, at);
        }
    }

    /// Shows what a machine is at on its line; whether that is all that is needed.
    fn staged(&self, machine: Option<&str>, text: &str) -> bool {
        let mut shown = false;
        if let Some(machine) = machine {
            let safe = text::sanitise(&self.mask(text));
            self.on_line(machine, |bars, at| {
                bars.stage(at, &safe);
                shown = true;
            });
        }
        shown && self.sink.is_terminal(self.messages)
    }

    /// Something to know though the work goes on.
    pub fn warn(&self, text: &str) {
        self.event(Event::Warning { machine: None, text: text.to_owned() });
    }

    /// A failure; with `json` as a document on standard output.
    pub fn error(&self, error: &CliError, json: bool) {
        if json {
            let mut value = error.to_json();
            self.mask_json(&mut value);
            return self.json(&value);
        }
        if self.style.machine_readable {
            self.ui_line("", Tone::Error, &self.mask(&error.render(false)));
            let message = text::sanitise(&self.mask(&error.one_line()));
            return self.machine("", "error-exit", &[error.code.as_str(), &message]);
        }
        self.line(To::Stderr, &self.mask(&error.render(self.color(To::Stderr))));
    }

    /// The failure of one machine of several: the command goes on.
    pub fn failure(&self, machine: &str, error: &CliError) {
        match self.style.machine_readable {
            true => self.ui_line(machine, Tone::Error, &self.mask(&error.render(false))),
            false => self.error(error, false),
        }
    }

    /// A line of `tracing`, or of clap.
    pub fn diagnostic(&self, text: &str) {
        self.write(To::Stderr, self.mask(text).as_bytes());
    }

    /// Removes progress bars from the screen.
    pub fn clear(&self) {
        if let Meter::Bars(bars) = &mut *self.meter() {
            bars.clear();
        }
    }

    /// What others wrote, for a document: masked.
    pub fn masked(&self, text: &str) -> String {
        self.mask(text)
    }

    fn mask(&self, text: &str) -> String {
        let maskers = self.maskers.read().unwrap_or_else(|e| e.into_inner());
        maskers.iter().fold(text.to_owned(), |text, masker| masker.mask(&text))
    }

    fn mask_json(&self, value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => *text = self.mask(text),
            serde_json::Value::Array(list) => list.iter_mut().for_each(|v| self.mask_json(v)),
            serde_json::Value::Object(map) => map.values_mut().for_each(|v| self.mask_json(v)),
            _ => {}
        }
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn line(&self, to: To, text: &str) {
        self.write(to, format!("{text}\n").as_bytes());
    }

    fn write(&self, to: To, data: &[u8]) {
        match &*self.meter() {
            Meter::Bars(bars) => bars.suspend(|| self.sink.write(to, data)),
            Meter::Lines(_) => self.sink.write(to, data),
        }
    }

    /// Text with a prefix before each of its lines; the prefix is ours and is not masked.
    fn prefixed(&self, to: To, (on, off): (&str, &str), lead: &str, machine: Option<&str>, text: &str) {
        let color = self.color(to);
        let (on, off) = if color { (on, off) } else { ("", "") };
        let bars = matches!(&*self.meter(), Meter::Bars(_));
        let crew = self.crew.read().unwrap_or_else(|e| e.into_inner());
        let name = match (machine, crew.as_ref()) {
            (None, _) => String::new(),
            (Some(name), None) => format!("{name}: "),
            (Some(name), Some(crew)) => {
                format!("{} ", crew.label(name, color, bars && self.sink.is_terminal(to)))
            }
        };
        let safe = text::sanitise(&self.mask(text));
        // In one piece: the lines of a text stay together whoever else prints.
        let lines: Vec<String> =
            safe.split('\n').map(|line| format!("{on}{lead}{name}{line}{off}")).collect();
        self.line(to, &lines.join("\n"));
    }

    fn progress(&self, task: &str, detail: &str, done: u64, total: u64) {
        let (task, detail) = (text::sanitise(&self.mask(task)), text::sanitise(&self.mask(detail)));
        let line = match &mut *self.meter() {
            Meter::Bars(bars) => {
                bars.update(&task, &detail, done, total);
                None
            }
            Meter::Lines(lines) => lines.update(&task, &detail, done, total, Instant::now()),
        };
        match line {
            Some(line) if self.style.machine_readable => self.ui_line("", Tone::Detail, &line),
            Some(line) => self.line(self.messages, &format!("    {line}")),
            None => {}
        }
    }

    /// What happened, as a line for scripts.
    fn event_line(&self, event: Event) {
        let (machine, tone, text) = match event {
            Event::Warning { machine, text } => (machine, Tone::Warn, text),
            Event::Timed { .. } => return,
            _ if self.style.quiet => return,
            Event::Stage { machine, text } => (machine, Tone::Output, text),
            Event::Detail { machine, text } => (machine, Tone::Detail, text),
            Event::Output { machine, line, .. } => (Some(machine), Tone::Detail, line),
            Event::Progress { task, detail, done, total } => {
                return self.progress(&task, &detail, done, total);
            }
        };
        self.ui_line(machine.as_deref().unwrap_or_default(), tone, &text::sanitise(&self.mask(&text)));
    }
}

/// Several machines at work on the screen; see [`Ui::crew`].
pub struct AtWork<'a>(&'a Ui);

impl AtWork<'_> {
    /// The work on that machine begins.
    pub fn began(&self, machine: &str) {
        self.0.on_line(machine, |bars, at| bars.began(at));
    }

    /// What became of it.
    pub fn ended(&self, machine: &str, text: &str) {
        let safe = text::sanitise(&self.0.mask(text));
        self.0.on_line(machine, |bars, at| bars.ended(at, &safe));
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.clear();
        *self.0.crew.write().unwrap_or_else(|e| e.into_inner()) = None;
    }
}

const BOLD: (&str, &str) = ("\x1b[1m", "\x1b[0m");
const YELLOW: (&str, &str) = ("\x1b[33m", "\x1b[0m");
const NONE: (&str, &str) = ("", "");

impl Reporter for Ui {
    fn event(&self, event: Event) {
        let quiet = self.style.quiet;
        match event {
            event if self.style.machine_readable => self.event_line(event),
            Event::Warning { machine, text } => {
                let text = format!("warning: {text}");
                self.prefixed(To::Stderr, YELLOW, "==> ", machine.as_deref(), &text);
            }
            // `--timings` collects these; nothing is said at the moment itself.
            Event::Timed { .. } => {}
            _ if quiet => {}
            Event::Stage { machine, text } if self.staged(machine.as_deref(), &text) => {}
            Event::Stage { machine, text } => {
                self.prefixed(self.messages, BOLD, "==> ", machine.as_deref(), &text);
            }
            Event::Detail { machine, text } => {
                self.staged(machine.as_deref(), &text);
                self.prefixed(self.messages, NONE, "    ", machine.as_deref(), &text);
            }
            Event::Output { machine, line, .. } => {
                self.prefixed(self.messages, NONE, "    ", Some(&machine), &line);
            }
            Event::Progress { task, detail, done, total } => self.progress(&task, &detail, done, total),
        }
    }
}

#[cfg(test)]
mod tests;
