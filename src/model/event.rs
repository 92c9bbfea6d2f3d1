//! What the lower rooms have to tell while they work. They never print: the `cli`
//! decides how an event looks.

use std::time::{Duration, Instant};

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
    /// A part of the work on a machine has ended, well or not.
    Timed {
        /// The machine.
        machine: String,
        /// Which part.
        phase: Phase,
        /// When it began.
        began: Instant,
        /// How long it took.
        took: Duration,
    },
}

/// Where the time of bringing a machine up goes. Phases of one machine do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Reading the project's files.
    Config,
    /// Waiting for another command to let go of the machine.
    Wait,
    /// Stopping it, for `reload`.
    Halt,
    /// Looking at what exists and choosing what to do.
    Plan,
    /// Having the box: building it the first time.
    Box,
    /// Making folder, keys and disk.
    Disk,
    /// Having the kernel: building or unpacking it the first time.
    KernelImage,
    /// Finding out what can run it on this host.
    Probe,
    /// Making the seed disk.
    Seed,
    /// Choosing ports, starting the network.
    Network,
    /// Starting its process, until the guest runs.
    Vmm,
    /// From there to the SSH server's first words, where the guest does not say more.
    Boot,
    /// From where the guest runs to its first program: its firmware, if it has any, and kernel.
    Kernel,
    /// From there to the SSH server's first words.
    UserSpace,
    /// From there, or from the beginning with a machine that runs already, to the login.
    Ssh,
    /// Asking the guest how long its kernel took; done for `--timings` alone.
    Ask,
    /// Mounting and copying its folders.
    Folders,
    /// A provision step, by its name.
    Step(String),
    /// After the steps, until what its `ready` asks for holds.
    Ready,
}

impl Phase {
    /// The word used in files.
    pub fn as_str(&self) -> &'static str {
        match self {
            Phase::Config => "config",
            Phase::Wait => "wait",
            Phase::Halt => "halt",
            Phase::Plan => "plan",
            Phase::Box => "box",
            Phase::Disk => "disk",
            Phase::KernelImage => "kernel_image",
            Phase::Probe => "probe",
            Phase::Seed => "seed",
            Phase::Network => "network",
            Phase::Vmm => "vmm",
            Phase::Boot => "boot",
            Phase::Kernel => "kernel",
            Phase::UserSpace => "user_space",
            Phase::Ssh => "ssh",
            Phase::Ask => "ask",
            Phase::Folders => "folders",
            Phase::Step(_) => "step",
            Phase::Ready => "ready",
        }
    }
}

/// Times one phase: reports it when dropped, so that one that fails is told too.
#[must_use = "it measures as long as it lives"]
pub struct Stopwatch<'a> {
    report: &'a dyn Reporter,
    machine: &'a str,
    phase: Phase,
    began: Instant,
}

impl<'a> Stopwatch<'a> {
    /// Begins now.
    pub fn start(report: &'a dyn Reporter, machine: &'a str, phase: Phase) -> Self {
        Stopwatch { report, machine, phase, began: Instant::now() }
    }
}

impl Drop for Stopwatch<'_> {
    fn drop(&mut self) {
        self.report.event(Event::Timed {
            machine: self.machine.to_owned(),
            phase: self.phase.clone(),
            began: self.began,
            took: self.began.elapsed(),
        });
    }
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
