//! What runs around commands, and after all machines.

use super::Step;

/// Something that runs before or after a command, for each machine that the command is about.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Before or after.
    pub moment: Moment,
    /// Which commands; never empty.
    pub commands: Vec<Hooked>,
    /// Where it runs.
    pub side: Side,
    /// Names of the machines that it is for; never empty.
    pub machines: Vec<String>,
    /// A failure is told, and the command goes on all the same.
    pub may_fail: bool,
    /// What runs: a shell step with a name and a timeout.
    pub step: Step,
}

/// A step that runs once all of its machines are up.
#[derive(Debug, Clone)]
pub struct AfterAll {
    /// On this host, or in each of its machines, one after the other.
    pub side: Side,
    /// Names of the machines that have to run.
    pub machines: Vec<String>,
    /// What runs.
    pub step: Step,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the command does anything.
    Before,
    /// After it has succeeded.
    After,
}

impl Moment {
    /// `before` or `after`.
    pub fn as_str(self) -> &'static str {
        match self {
            Moment::Before => "before",
            Moment::After => "after",
        }
    }
}

/// A command that hooks can be around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hooked {
    /// `rvm up`.
    Up,
    /// `rvm halt`.
    Halt,
    /// `rvm reload`.
    Reload,
    /// `rvm provision`.
    Provision,
    /// `rvm destroy`.
    Destroy,
    /// `rvm ssh`.
    Ssh,
}

impl Hooked {
    /// All of them.
    pub const ALL: [Hooked; 6] =
        [Hooked::Up, Hooked::Halt, Hooked::Reload, Hooked::Provision, Hooked::Destroy, Hooked::Ssh];

    /// The word of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Hooked::Up => "up",
            Hooked::Halt => "halt",
            Hooked::Reload => "reload",
            Hooked::Provision => "provision",
            Hooked::Destroy => "destroy",
            Hooked::Ssh => "ssh",
        }
    }
}

/// Where something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// On this host, as the user.
    #[default]
    Host,
    /// In the guest of the machine.
    Guest,
}
