//! Looks at the host. Nothing is judged here.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::app::env;
use crate::model::Nat;
use crate::net::resolvers::Dns;
use crate::net::{self, NatAddresses, NetError};
use crate::provider::walls::{self, Rights, Walls};
use crate::vmm;

/// Programs are also looked for here: Debian leaves these folders out of a user's search path.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];
/// Most that is read of a file in `/proc`, `/sys` or `/etc`, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What was found.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// What the probe guest told; `None` where it could not be run for want of `/dev/kvm`.
    pub probe: Option<Result<Probe, String>>,
    /// Version of `qemu-system-x86_64`; `Some(None)` where it does not tell.
    pub qemu: Option<Option<(u32, u32)>>,
    /// `passt`, which was started.
    pub passt: Passt,
    /// Programs that were looked for and are there.
    pub programs: Vec<&'static str>,
    /// The user.
    pub user: User,
    /// Bytes free where the store is, and that folder.
    pub free: Option<(u64, PathBuf)>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`: the chosen word.
    pub huge_pages: Option<String>,
    /// What confines the processes of machines here; why one could not be shut in.
    pub walls: Result<Walls, String>,
    /// Those that run.
    pub running: Vec<Shut>,
}

/// A machine that runs, and what its process may.
#[derive(Debug, Clone)]
pub struct Shut {
    /// Name of the machine.
    pub machine: String,
    /// Number of the process.
    pub pid: u32,
    /// What it may.
    pub rights: Rights,
}

/// What became of `passt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passt {
    /// It is not installed.
    Missing,
    /// It cannot do its work here, for this reason.
    Fails(String),
    /// It starts.
    Starts {
        /// It is older than August 2024.
        is_old: bool,
    },
}

/// State of `/dev/kvm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It opens.
    Open,
    /// It is not there.
    Missing {
        /// `kvm_intel` or `kvm_amd`: the module for this processor, if it can virtualise at all.
        module: Option<&'static str>,
    },
    /// This user may not open it.
    Denied,
    /// It fails otherwise.
    Broken(String),
}

/// What the probe guest told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// Nanoseconds an iteration of a ring-0 loop.
    pub loop_ns: f64,
    /// Nanoseconds for an exit to the host and back.
    pub exit_ns: f64,
    /// Guest kernels run at full speed.
    pub full_speed: bool,
}

/// The user and what belongs to them.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// Login name, or the number where there is none.
    pub name: String,
    /// Root.
    pub is_root: bool,
    /// A member of group `kvm` by `/etc/group`.
    pub in_kvm_group: bool,
    /// Has lines in `/etc/subuid` and `/etc/subgid`.
    pub has_subids: bool,
    /// User namespaces may be made.
    pub namespaces: bool,
}

/// Other programs that are looked for: for machines, for boxes, for the fast kernel, for steps.
pub const PROGRAMS: [&str; 15] = [
    "ssh",
    "mmdebstrap",
    "newuidmap",
    "unshare",
    "mke2fs",
    "dpkg-deb",
    "gcc",
    "make",
    "flex",
    "bison",
    "bc",
    "perl",
    "xz",
    "ld",
    "ansible-playbook",
];

/// Looks. `home` is the store, `exe` this program, `running` the machines that run, with their processes.
pub fn look(home: &Path, exe: &Path, running: Vec<(String, u32)>) -> Facts {
    let kvm = kvm();
    let path = env("PATH").unwrap_or_default();
    Facts {
        probe: (kvm == Kvm::Open).then(probe),
        kvm,
        qemu: program("qemu-system-x86_64", &path).map(|file| version_of(&file)),
        passt: program("passt", &path).map_or(Passt::Missing, |file| passt(&file)),
        programs: PROGRAMS.into_iter().filter(|name| program(name, &path).is_some()).collect(),
        user: user(),
        free: free_space(home),
        walls: walls::find(exe, &path),
        running: running.into_iter().filter_map(shut).collect(),
        huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled").as_deref().and_then(chosen),
    }
}

fn kvm() -> Kvm {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Kvm::Open,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Kvm::Missing { module: kvm_module(&read("/proc/cpuinfo").unwrap_or_default()) }
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Kvm::Denied,
        Err(error) => Kvm::Broken(error.to_string()),
    }
}

/// `None` when it ended meanwhile.
fn shut((machine, pid): (String, u32)) -> Option<Shut> {
    Some(Shut { machine, pid, rights: Rights::of(pid).ok()? })
}

/// Runs a guest of a few instructions.
fn probe() -> Result<Probe, String> {
    match vmm::probe::probe() {
        vmm::probe::Probe::Usable { ns_per_iteration: loop_ns, exit_ns } => {
            Ok(Probe { loop_ns, exit_ns, full_speed: true })
        }
        vmm::probe::Probe::Emulated { ns_per_iteration: loop_ns, exit_ns } => {
            Ok(Probe { loop_ns, exit_ns, full_speed: false })
        }
        vmm::probe::Probe::Broken(error) => Err(error.to_string()),
        // It opened a moment ago.
        vmm::probe::Probe::NoDevice | vmm::probe::Probe::NoPermission => Err("/dev/kvm went away".into()),
    }
}

/// The module that serves the processor of that `/proc/cpuinfo`.
fn kvm_module(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    flags.split_whitespace().find_map(|flag| match flag {
        "vmx" => Some("kvm_intel"),
        "svm" => Some("kvm_amd"),
        _ => None,
    })
}

/// The file `name` in the folders of `path` that this user may run.
fn program(name: &str, path: &str) -> Option<PathBuf> {
    let folders = path.split(':').filter(|dir| !dir.is_empty()).chain(SYSTEM_FOLDERS);
    folders.map(|dir| Path::new(dir).join(name)).find(|file| {
        fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

fn version_of(qemu: &Path) -> Option<(u32, u32)> {
    let output = Command::new(qemu).arg("--version").stdin(Stdio::null()).output().ok()?;
    version(&String::from_utf8_lossy(&output.stdout))
}

/// Starts one for nobody, which ends at once.
fn passt(file: &Path) -> Passt {
    let started = UnixStream::pair().map_err(NetError::Io).and_then(|(_ours, theirs)| {
        let addresses = NatAddresses::choose(&[]);
        let dns = Dns::new(Nat::Open, addresses.gateway);
        net::passt::start(Nat::Open, &addresses, &[], &dns, &theirs, false)
    });
    match started {
        // An option that came in August 2024.
        Ok(()) => {
            Passt::Starts { is_old: net::passt::has_option(file, "--map-host-loopback") == Some(false) }
        }
        Err(NetError::Missing(_)) => Passt::Missing,
        Err(NetError::Failed(why) | NetError::PortRace(why)) => Passt::Fails(why),
        Err(error) => Passt::Fails(error.to_string()),
    }
}

/// Major and minor number behind the word `version`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_once("version ")?.1.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn user() -> User {
    let uid = rustix::process::geteuid();
    let number = uid.as_raw().to_string();
    let passwd = read("/etc/passwd").unwrap_or_default();
    let name = user_name(&passwd, uid.as_raw()).unwrap_or_else(|| number.clone());
    let has_ids = |file: &str| {
        let text = read(file).unwrap_or_default();
        text.lines().filter_map(|line| line.split(':').next()).any(|owner| owner == name || owner == number)
    };
    User {
        is_root: uid.is_root(),
        in_kvm_group: in_group(&read("/etc/group").unwrap_or_default(), "kvm", &name),
        has_subids: has_ids("/etc/subuid") && has_ids("/etc/subgid"),
        namespaces: namespaces(),
        name,
    }
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn in_group(groups: &str, group: &str, user: &str) -> bool {
    groups.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [name, _, _, members] => *name == group && members.split(',').any(|m| !m.is_empty() && m == user),
            _ => false,
        }
    })
}

/// The three switches by which distributions forbid user namespaces.
fn namespaces() -> bool {
    let number = |file: &str| read(file).and_then(|text| text.trim().parse::<u64>().ok());
    number("/proc/sys/user/max_user_namespaces") != Some(0)
        && number("/proc/sys/kernel/unprivileged_userns_clone") != Some(0)
        && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").unwrap_or(0) == 0
}

/// Free bytes at `home`, or at the nearest folder above it that is there.
fn free_space(home: &Path) -> Option<(u64, PathBuf)> {
    let dir = home.ancestors().find(|dir| dir.is_dir())?;
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some((stat.f_bavail.saturating_mul(stat.f_frsize), dir.to_owned()))
}

/// The word in brackets of a setting file such as `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn read(path: &str) -> Option<String> {
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(version(text), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0.2"), Some((10, 0)));
        assert_eq!(version("QEMU emulator"), None);
    }

    #[test]
    fn modules_of_processors() {
        assert_eq!(kvm_module("model : 1\nflags\t\t: fpu vmx sse\n"), Some("kvm_intel"));
        assert_eq!(kvm_module("flags\t\t: fpu svm sse\n"), Some("kvm_amd"));
        assert_eq!(kvm_module("flags\t\t: fpu sse\n"), None);
        assert_eq!(kvm_module(""), None);
    }

    #[test]
    fn users_and_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:1000::/home/me:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("me"));
        assert_eq!(user_name(passwd, 7), None);
        let groups = "root:x:0:\nkvm:x:104:you,me\nkvmx:x:105:them\n";
        assert!(in_group(groups, "kvm", "me") && !in_group(groups, "kvm", "them"));
        assert!(!in_group("kvm:x:104:", "kvm", ""), "nobody is no member of an empty group");
    }

    #[test]
    fn settings_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("always"), None);
    }

    #[test]
    fn programs_are_found_in_order_and_must_be_runnable() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        for folder in [&first, &second] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("rvm-test-tool"), "").unwrap();
        }
        let path = format!("{}::{}", first.display(), second.display());
        assert_eq!(program("rvm-test-tool", &path), None);
        fs::set_permissions(second.join("rvm-test-tool"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(program("rvm-test-tool", &path), Some(second.join("rvm-test-tool")));
    }

    #[test]
    fn free_space_of_a_folder_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, at) = free_space(&dir.path().join("not/yet")).unwrap();
        assert!(bytes > 0);
        assert_eq!(at, dir.path());
    }
}
