//! Where the lines of one step go: to who watches, and into its log.

use std::cell::RefCell;
use std::io;

use super::log::{StepLog, StepLogs};
use crate::model::{Event, Masker, Reporter, Step, Stream};

/// The output of one step, over all its tries.
pub(super) struct Output<'a> {
    machine: &'a str,
    report: &'a dyn Reporter,
    masker: &'a Masker,
    hidden: bool,
    log: RefCell<Option<StepLog>>,
}

impl<'a> Output<'a> {
    /// Begins the log anew. Where it cannot be kept, that is said, and the step runs all the same.
    pub fn begin(
        machine: &'a str,
        report: &'a dyn Reporter,
        masker: &'a Masker,
        logs: Option<&StepLogs>,
        step: &Step,
    ) -> Self {
        let output = Output { machine, report, masker, hidden: step.sensitive, log: RefCell::new(None) };
        match logs.map(|logs| logs.begin(&step.name, &masker.mask(&step.name))).transpose() {
            Ok(log) => *output.log.borrow_mut() = log,
            Err(error) => output.not_kept(&error),
        }
        if step.sensitive {
            output.note("its output is sensitive, and not kept");
        }
        output
    }

    /// A line that the step printed, masked.
    pub fn line(&self, stream: Stream, line: String) {
        if self.hidden {
            return;
        }
        self.keep(&line);
        self.report.event(Event::Output { machine: self.machine.to_owned(), stream, line });
    }

    /// A line of our own in the log.
    pub fn note(&self, text: &str) {
        self.keep(&format!("--- {}", self.masker.mask(text)));
    }

    /// Writes what is still in memory.
    pub fn end(self) {
        if let Some(log) = self.log.take()
            && let Err(error) = log.finish()
        {
            self.not_kept(&error);
        }
    }

    fn keep(&self, line: &str) {
        let mut log = self.log.borrow_mut();
        if let Some(Err(error)) = log.as_mut().map(|log| log.line(line)) {
            *log = None;
            drop(log);
            self.not_kept(&error);
        }
    }

    fn not_kept(&self, error: &io::Error) {
        let machine = Some(self.machine.to_owned());
        let text = format!("the output of this step is not kept: {error}");
        self.report.event(Event::Warning { machine, text });
    }
}
