//! `--timings`: where the time of `up` and `reload` went, as a table, JSON and SVG.

mod svg;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::app::App;
use super::error::CliError;
use super::json::VERSION;
use super::target::Target;
use super::ui::table::table;
use crate::machine::{Machines, Status};
use crate::model::{Code, Event, Phase, Reporter};
use crate::state::store;

/// Names of the files in a machine's own folder, without their ending.
const FILE: &str = "timings";

/// `--timings`.
#[derive(Debug, Args)]
pub struct TimingsFlag {
    /// Show where the time went, and write it as JSON and SVG into DIR or the machine's folder
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    timings: Option<Option<PathBuf>>,
}

impl TimingsFlag {
    /// Whether it was given.
    pub fn wanted(&self) -> bool {
        self.timings.is_some()
    }

    /// The folder that was given, made if it is not there.
    fn folder(&self, app: &App) -> Result<Option<PathBuf>, CliError> {
        let Some(Some(dir)) = &self.timings else { return Ok(None) };
        let dir = app.cwd()?.join(dir);
        std::fs::create_dir_all(&dir).map_err(|e| {
            CliError::failed(Code::WriteFile, format!("cannot create {} for --timings", dir.display()))
                .because(&e)
        })?;
        Ok(Some(dir))
    }
}

/// A phase that has ended.
#[derive(Debug, Clone)]
struct Span {
    machine: String,
    phase: Phase,
    began: Instant,
    took: Duration,
}

/// Keeps what is timed and hands every event on.
pub struct Collector<'a> {
    next: &'a dyn Reporter,
    spans: Mutex<Vec<Span>>,
}

impl<'a> Collector<'a> {
    /// In front of `next`.
    pub fn new(next: &'a dyn Reporter) -> Self {
        Collector { next, spans: Mutex::default() }
    }

    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The spans of one machine in the order of time; they are forgotten.
    fn take(&self, machine: &str) -> Vec<Span> {
        let (mut mine, others): (Vec<Span>, Vec<Span>) =
            self.spans().drain(..).partition(|span| span.machine == machine);
        *self.spans() = others;
        mine.sort_by_key(|span| span.began);
        mine
    }
}

impl Reporter for Collector<'_> {
    fn event(&self, event: Event) {
        if let Event::Timed { machine, phase, began, took } = &event {
            let span = Span { machine: machine.clone(), phase: phase.clone(), began: *began, took: *took };
            self.spans().push(span);
        }
        self.next.event(event);
    }
}

/// Times the machines of one command.
pub struct Timings<'a> {
    app: &'a App,
    collector: &'a Collector<'a>,
    /// Where files go; `None`: into each machine's own folder.
    folder: Option<PathBuf>,
    wanted: bool,
    /// When the command began and how long it read the project's files: counted with the first machine.
    first: Mutex<Option<(Instant, Duration)>>,
}

impl<'a> Timings<'a> {
    /// `begin`: when the command began; until now it read the project's files.
    pub fn new(
        app: &'a App,
        flag: &TimingsFlag,
        collector: &'a Collector<'a>,
        begin: Instant,
    ) -> Result<Self, CliError> {
        let first = Mutex::new(Some((begin, begin.elapsed())));
        let folder = flag.folder(app)?;
        Ok(Timings { app, collector, folder, wanted: flag.wanted(), first })
    }

    /// Does `work` on a machine, then shows and writes where its time went, also when it failed. Machines
    /// may be measured at the same time.
    pub fn measure<T>(
        &self,
        machines: &Machines<'_>,
        target: &Target,
        work: impl FnOnce() -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let mut begin = Instant::now();
        if let Some((began, took)) = self.first.lock().unwrap_or_else(|e| e.into_inner()).take() {
            let (machine, phase) = (target.name.clone(), Phase::Config);
            self.collector.event(Event::Timed { machine, phase, began, took });
            begin = began;
        }
        let result = work();
        let spans = self.collector.take(&target.name);
        if self.wanted {
            let chart = Chart::new(&target.name, begin, begin.elapsed(), result.is_ok(), &spans);
            self.tell(machines, target, chart);
        }
        result
    }

    /// A chart that cannot be written is a warning: the machine is up all the same.
    fn tell(&self, machines: &Machines<'_>, target: &Target, mut chart: Chart) {
        let status = target.status(machines).ok();
        chart.describe(status.as_ref());
        self.app.ui.note(&chart.text());
        let id = status.and_then(|status| status.id);
        let base = match (&self.folder, id) {
            (Some(folder), _) => folder.join(&target.name),
            (None, Some(id)) => machines.layout.machine(&id).join(FILE),
            (None, None) => {
                self.app.ui.warn("the timings are not written: the machine has no folder");
                return;
            }
        };
        match chart.write(&base) {
            Ok(()) => self.app.ui.note(&format!("Written: {}.json and .svg", base.display())),
            Err((path, error)) => {
                self.app.ui.warn(&format!("cannot write the timings to {}: {error}", path.display()));
            }
        }
    }
}

/// Where the time of one machine went: `NAME.json`. All times in milliseconds.
#[derive(Debug, Serialize)]
struct Chart {
    version: u32,
    machine: String,
    provider: Option<&'static str>,
    #[serde(rename = "box")]
    box_name: Option<String>,
    completed: bool,
    total_ms: f64,
    other_ms: f64,
    phases: Vec<Bar>,
}

/// One phase of a [`Chart`].
#[derive(Debug, Serialize)]
struct Bar {
    phase: &'static str,
    /// Which step.
    name: Option<String>,
    start_ms: f64,
    duration_ms: f64,
}

impl Bar {
    /// For people.
    fn label(&self) -> String {
        let words = match self.phase {
            "kernel_image" => "kernel image",
            "user_space" => "user space",
            "vmm" => "VMM",
            "ssh" => "SSH",
            other => other,
        };
        match &self.name {
            Some(name) => format!("{words}: {name}"),
            None => words.to_owned(),
        }
    }
}

impl Chart {
    fn new(machine: &str, begin: Instant, total: Duration, completed: bool, spans: &[Span]) -> Self {
        let bar = |span: &Span| Bar {
            phase: span.phase.as_str(),
            name: if let Phase::Step(name) = &span.phase { Some(name.clone()) } else { None },
            start_ms: ms(span.began.saturating_duration_since(begin)),
            duration_ms: ms(span.took),
        };
        let timed: Duration = spans.iter().map(|span| span.took).sum();
        Chart {
            version: VERSION,
            machine: machine.to_owned(),
            provider: None,
            box_name: None,
            completed,
            total_ms: ms(total),
            other_ms: ms(total.saturating_sub(timed)),
            phases: spans.iter().map(bar).collect(),
        }
    }

    fn describe(&mut self, status: Option<&Status>) {
        self.provider = status.and_then(|status| status.provider).map(|provider| provider.as_str());
        self.box_name = status.map(|status| status.box_name.clone());
    }

    fn text(&self) -> String {
        let row = |label: String, duration: f64| {
            let share = if self.total_ms > 0.0 { duration * 100.0 / self.total_ms } else { 0.0 };
            vec![label, format!("{duration:>10.1}"), format!("{share:>5.1}")]
        };
        let mut rows: Vec<Vec<String>> =
            self.phases.iter().map(|bar| row(bar.label(), bar.duration_ms)).collect();
        rows.push(row("other".into(), self.other_ms));
        rows.push(row("total".into(), self.total_ms));
        table(&[&self.machine, "        ms", "    %"], &rows).trim_end().to_owned()
    }

    /// Writes `BASE.json` and `BASE.svg`.
    fn write(&self, base: &Path) -> Result<(), (PathBuf, std::io::Error)> {
        let path = |ending: &str| {
            let mut name = base.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let (json, picture) = (path(".json"), path(".svg"));
        store::write_json(&json, self).map_err(|e| (json, e))?;
        store::write(&picture, svg::draw(self).as_bytes()).map_err(|e| (picture, e))
    }
}

/// Milliseconds to the microsecond.
fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests;
