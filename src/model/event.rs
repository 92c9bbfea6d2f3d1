//! What the lower rooms have to tell while they work. They never print: the `cli`
//! decides how an event looks.

/// Which of the guest's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Something that happened. Text is already masked.
#[derive(Debug, Clone)]
pub enum Event {
    /// A stage of the work on a machine begins: one short sentence.
    Stage {
        /// The machine, where it is about one.
        machine: Option<String>,
        /// For people.
        text: String,
    },
    /// A fact worth a line below its stage.
    Detail {
        /// The machine, where it is about one.
        machine: Option<String>,
        /// For people.
        text: String,
    },
    /// Something the user should know, though work goes on.
    Warning {
        /// The machine, where it is about one.
        machine: Option<String>,
        /// For people.
        text: String,
    },
    /// A line (without its line end) that a provision step printed.
    Output {
        /// The machine.
        machine: String,
        /// Which stream.
        stream: Stream,
        /// The line.
        line: String,
    },
    /// A long job moved on. `done == total` ends it.
    Progress {
        /// What is being done; the same text names the same bar.
        task: String,
        /// What it does right now, if that is known.
        detail: String,
        /// Work done so far, in no particular unit.
        done: u64,
        /// All work, in the same unit; 0 when it is not known.
        total: u64,
    },
}

/// Takes events.
pub trait Reporter: Send + Sync {
    /// Called from any thread.
    fn event(&self, event: Event);
}

/// Drops every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn event(&self, _: Event) {}
}
