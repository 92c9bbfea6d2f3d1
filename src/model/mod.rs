//! The words every room uses: a checked project, its machines, ports and steps.
//!
//! Plain data: no I/O, no printing, nothing that can fail. `config` makes these
//! values, everything below reads them.

mod cancel;
mod code;
mod docker;
mod event;
mod exclude;
mod folder;
mod hook;
mod lock;
mod network;
mod port;
mod problem;
mod program;
mod secret;
mod ssh;
mod text;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cancel::Cancel;
pub use code::Code;
pub use docker::{Container, Docker, Restart};
pub use event::{Event, Phase, Reporter, Silent, Stopwatch, Stream};
pub use exclude::Exclude;
pub use folder::{Folder, FolderKind, HostFolder, Owner, PROJECT_FOLDER, Volume};
pub use hook::{AfterAll, Hook, Hooked, Moment, Side};
pub use lock::{LockedBox, LockedKernel, Locks, content_digest, timestamp};
pub use network::{Card, HostCard, HostInterface, Nat, NatBackend, Network, station, unusable};
pub use port::{Forward, PortRun, Protocol, port_runs};
pub use problem::{Absent, Problem};
pub use program::program_in;
pub use secret::{Masker, Secret};
pub use ssh::{Login, Ssh, SshClient};
pub use text::{each_line, hex, mac_text};

/// The folder that holds a `Vagrantfile`, with all that the file declares, checked.
#[derive(Debug, Clone)]
pub struct Project {
    /// Absolute path of the folder.
    pub root: PathBuf,
    /// Absolute path of the configuration file.
    pub file: PathBuf,
    /// Machines in the order of the file; never empty, names are unique.
    pub machines: Vec<Machine>,
    /// Private networks that its machines have cards in, or that the file declares; names are unique.
    pub networks: Vec<Network>,
    /// What runs around commands, in the order of the file.
    pub hooks: Vec<Hook>,
    /// What runs after all machines, in the order of the file.
    pub after_all: Vec<AfterAll>,
    /// How to log in, from the ENV file where it says so.
    pub login: Login,
    /// Masks every value of the ENV file in text that is printed.
    pub masker: Masker,
}

/// One declared machine, with defaults applied.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `[a-z0-9][a-z0-9-]*`, at most 63 characters.
    pub name: String,
    /// What it starts from: `debian/13`, `debian/12`, `micro`.
    pub box_name: String,
    /// Virtual CPUs, 1 to 64.
    pub cpus: u8,
    /// Whether the guest may run virtual machines of its own.
    pub nested: bool,
    /// Guest memory in bytes, a multiple of 1 MiB.
    pub memory: u64,
    /// Size of the root disk in bytes; `None`: the box's own default.
    pub disk: Option<u64>,
    /// Disks beside the root disk, in the order in which the guest finds them.
    pub disks: Vec<ExtraDisk>,
    /// Folders of the host and in memory, each at a place of its own; outer ones before those in them.
    pub folders: Vec<Folder>,
    /// Those of them that the host did not have when the file was read.
    pub absent: Vec<Absent>,
    /// Host name inside the guest.
    pub hostname: String,
    /// Forced provider; `None`: chosen by what the host can do.
    pub provider: Option<ProviderKind>,
    /// Which kernel boots it.
    pub kernel: KernelChoice,
    /// How it is logged in to, beside what holds for the project.
    pub ssh: Ssh,
    /// Ports of the host that lead into the guest (the SSH one is not among them).
    pub ports: Vec<Forward>,
    /// Ports that programs of the guest open lead in from the same ports of 127.0.0.1.
    pub auto_forward: bool,
    /// Where its first card leads to.
    pub nat: Nat,
    /// By what that card and passt reach each other.
    pub nat_backend: NatBackend,
    /// Cards in private networks, in the order in which the guest finds them.
    pub cards: Vec<Card>,
    /// Cards in networks of the host's, behind those.
    pub host_cards: Vec<HostCard>,
    /// Provision steps in the order of the file.
    pub steps: Vec<Step>,
    /// How long `up` waits for SSH.
    pub boot_timeout: Duration,
    /// How long `halt` waits for the guest before it is switched off.
    pub halt_timeout: Duration,
    /// Groups it belongs to, without repeats: a command takes a group's name for all of its machines.
    pub groups: Vec<String>,
    /// The one that commands for a single machine take when none is named; at most one a project.
    pub primary: bool,
    /// Whether `up` without names brings it up.
    pub autostart: bool,
    /// Names of the machines of this project that must be ready before it starts; no circle.
    pub depends_on: Vec<String>,
    /// What must hold inside it, after its steps, before it counts as ready; tried in order.
    pub ready: Vec<Probe>,
    /// Printed after `up` and `reload`.
    pub message: Option<String>,
}

impl Machine {
    /// A machine of this name and box with every default of `docs/config.md`.
    pub fn new(name: impl Into<String>, box_name: impl Into<String>) -> Machine {
        let name = name.into();
        Machine {
            hostname: name.clone(),
            name,
            box_name: box_name.into(),
            cpus: 1,
            nested: false,
            memory: 1 << 30,
            disk: None,
            disks: Vec::new(),
            folders: Vec::new(),
            absent: Vec::new(),
            provider: None,
            kernel: KernelChoice::default(),
            ssh: Ssh::default(),
            ports: Vec::new(),
            auto_forward: false,
            nat: Nat::default(),
            nat_backend: NatBackend::default(),
            cards: Vec::new(),
            host_cards: Vec::new(),
            steps: Vec::new(),
            boot_timeout: Duration::from_secs(300),
            halt_timeout: Duration::from_secs(60),
            groups: Vec::new(),
            primary: false,
            autostart: true,
            depends_on: Vec::new(),
            ready: Vec::new(),
            message: None,
        }
    }
}

/// Something that holds in a guest once it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is looked at.
    pub check: Check,
    /// How long it may take until it holds.
    pub timeout: Duration,
}

/// What a [`Probe`] looks at, always from inside the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A TCP port of the guest's own accepts a connection.
    Port(u16),
    /// A command of the guest's shell, run as the login user, ends with 0.
    Command(String),
    /// An absolute path exists.
    File(String),
}

/// A disk beside the root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraDisk {
    /// `[a-z0-9][a-z0-9-]*`, at most 16 characters, unique in its machine: its serial number in the
    /// guest.
    pub name: String,
    /// Where its content comes from.
    pub source: DiskSource,
    /// Where the guest mounts it: an absolute path of letters, digits and `._-+@`.
    pub mount: Option<String>,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// Where the content of a disk comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskSource {
    /// Made in the machine's folder at the first start and gone with the machine.
    New {
        /// In bytes, a multiple of 1 MiB.
        size: u64,
        /// Made with an empty ext4 on it.
        filesystem: bool,
    },
    /// A disk of its own that outlives the machine.
    Volume(Volume),
    /// An image of the user's.
    Image {
        /// Absolute path of the file or block device.
        path: PathBuf,
        /// Its format, never guessed.
        format: ImageFormat,
    },
}

/// Format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Bytes as they are.
    Raw,
    /// qcow2.
    Qcow2,
}

/// What runs a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// The hypervisor of this crate.
    Kvm,
    /// `qemu-system-x86_64 -M microvm` with software emulation.
    Qemu,
}

impl ProviderKind {
    /// The word used in files and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            ProviderKind::Kvm => "kvm",
            ProviderKind::Qemu => "qemu",
        }
    }
}

impl std::fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which kernel a machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum KernelChoice {
    /// The distribution's own cloud kernel with an initrd made by `rvm`.
    #[default]
    Stock,
    /// The kernel that `firmware/` builds: everything built in, no initrd.
    Fast,
}

impl KernelChoice {
    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            KernelChoice::Stock => "stock",
            KernelChoice::Fast => "fast",
        }
    }
}

/// One provision step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Unique within its machine; made from kind and position where the file gives none.
    pub name: String,
    /// When it runs.
    pub run: RunPolicy,
    /// Names and values from the ENV file that this step alone gets.
    pub env: Vec<(String, Secret)>,
    /// How often it is run again after a failure before it counts as failed.
    pub retries: u32,
    /// How long one run of it may take; `None`: for ever.
    pub timeout: Option<Duration>,
    /// The guest is rebooted once it has succeeded, or does so by itself while it runs.
    pub reboot: bool,
    /// What it prints is neither shown nor kept.
    pub sensitive: bool,
    /// What it does.
    pub kind: StepKind,
}

impl Step {
    /// A step with every default of `docs/config.md`.
    pub fn new(name: impl Into<String>, kind: StepKind) -> Step {
        Step {
            name: name.into(),
            run: RunPolicy::default(),
            env: Vec::new(),
            retries: 0,
            timeout: None,
            reboot: false,
            sensitive: false,
            kind,
        }
    }

    /// Whether `word` is its name or its type, as `--provision-with` takes them.
    pub fn is_called(&self, word: &str) -> bool {
        self.name == word || self.kind.type_name() == word
    }
}

/// When a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum RunPolicy {
    /// Until it has succeeded with its present content.
    #[default]
    Once,
    /// At each `up`, `reload` and `provision`.
    Always,
    /// Only when named by `--provision-with`.
    Never,
}

/// Which steps to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ProvisionChoice {
    /// Those that have not succeeded yet, and `always`.
    #[default]
    Auto,
    /// `--provision`: all but `never`, stamped or not.
    Force,
    /// `--no-provision`.
    Skip,
    /// `--provision-with`: those of these names or types, stamped or not.
    With(Vec<String>),
    /// `--from`: this step and all after it but `never`, stamped or not.
    From(String),
}

impl ProvisionChoice {
    /// The same choice for a machine with these steps: without the names that none of them has.
    /// What no machine knows is for the caller to refuse.
    pub fn known_to(&self, steps: &[Step]) -> ProvisionChoice {
        match self {
            ProvisionChoice::With(names) => {
                let known = |name: &&String| steps.iter().any(|step| step.is_called(name));
                ProvisionChoice::With(names.iter().filter(known).cloned().collect())
            }
            ProvisionChoice::From(name) if !steps.iter().any(|step| step.name == *name) => {
                ProvisionChoice::With(Vec::new())
            }
            other => other.clone(),
        }
    }
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum StepKind {
    /// Runs a script in the guest.
    Shell {
        /// The script.
        script: Script,
        /// Its arguments. They are seen in the guest's process list: no secrets.
        args: Vec<String>,
        /// As root through `sudo` (the default), or as the login user.
        privileged: bool,
    },
    /// Installs packages with the guest's package manager.
    Packages {
        /// Package names as the guest's distribution spells them.
        names: Vec<String>,
    },
    /// Copies one file or folder from the host into the guest.
    File(Box<FileCopy>),
    /// Runs the host's `ansible-playbook`.
    Ansible(Box<Ansible>),
    /// Has a container engine, images and containers in the guest.
    Docker(Box<Docker>),
    /// Reboots the guest and waits until it is back.
    Reboot,
}

/// A file or folder of the host that goes into the guest.
#[derive(Debug, Clone, Default)]
pub struct FileCopy {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Path in the guest; relative ones start at the login user's home.
    pub destination: String,
    /// What of a folder is left out.
    pub exclude: Exclude,
    /// User of the guest that it is to belong to, by name or number; then root writes it.
    pub owner: Option<String>,
    /// Group of the guest, likewise.
    pub group: Option<String>,
    /// Permission bits of files; folders can be entered, too, by those who may read them. `None`: as on the
    /// host.
    pub mode: Option<u32>,
}

impl FileCopy {
    /// A copy of all, as it is, that belongs to the login user.
    pub fn new(source: impl Into<PathBuf>, destination: impl Into<String>) -> Self {
        FileCopy { source: source.into(), destination: destination.into(), ..FileCopy::default() }
    }
}

/// A run of `ansible-playbook`.
#[derive(Debug, Clone)]
pub struct Ansible {
    /// Absolute path on the host.
    pub playbook: PathBuf,
    /// A pattern of hosts; `None`: the machine of the step, after all machines all of them.
    pub limit: Option<String>,
    /// Only what has one of these tags.
    pub tags: Vec<String>,
    /// What has none of these tags.
    pub skip_tags: Vec<String>,
    /// Become root in the guest.
    pub become_root: bool,
    /// A JSON object of variables, with values of the ENV file filled in.
    pub extra_vars: Secret,
    /// Further arguments. They are seen in the host's process list: no secrets.
    pub args: Vec<String>,
}

impl StepKind {
    /// `shell`, `packages`, `file`, `ansible`, `docker` or `reboot`: what `--provision-with` also takes.
    pub fn type_name(&self) -> &'static str {
        match self {
            StepKind::Shell { .. } => "shell",
            StepKind::Packages { .. } => "packages",
            StepKind::File(_) => "file",
            StepKind::Ansible(_) => "ansible",
            StepKind::Docker(_) => "docker",
            StepKind::Reboot => "reboot",
        }
    }
}

/// Where a shell step's script comes from.
#[derive(Debug, Clone)]
pub enum Script {
    /// Written in the file.
    Inline(String),
    /// A file on the host, absolute path.
    Path(PathBuf),
}
