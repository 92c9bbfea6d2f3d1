//! What confines a machine's process on this host: found by a process (`rvm __walls DIR`) that is started and
//! shuts itself in as that of a machine does, and then looks at itself. What it reads was opened before.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use serde::{Deserialize, Serialize};

use super::launch;
use super::process::chain;
use crate::state::Starter;
use crate::vmm::sandbox::{self, Landlock, Policy};

/// The word for it on the command line.
pub const PROCESS: &str = "__walls";
/// Most that is read of a file in `/proc`, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// What a process may, as the kernel says in `/proc/PID/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// Its system calls are filtered.
    pub seccomp: bool,
    /// What it runs gets no rights that it has not.
    pub no_new_privileges: bool,
    /// It has no capability, and none that it could take or hand on.
    pub no_capabilities: bool,
}

impl Rights {
    /// Reads them of a process.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(format!("/proc/{pid}/status"))?))
    }

    fn parse(status: &str) -> Self {
        let is = |name: &str, value: u64, base: u32| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|text| u64::from_str_radix(text.trim(), base).ok()) == Some(value)
        };
        Self {
            seccomp: is("Seccomp", 2, 10),
            no_new_privileges: is("NoNewPrivs", 1, 10),
            no_capabilities: ["CapInh", "CapPrm", "CapEff", "CapAmb"].iter().all(|set| is(set, 0, 16)),
        }
    }

    /// Whether it has none but what every process has.
    pub fn are_none(&self) -> bool {
        self.seccomp && self.no_new_privileges && self.no_capabilities
    }
}

/// What holds a process that is shut in as that of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// Version of Landlock, which closes files; `None` where the kernel has none.
    pub landlock: Option<i32>,
    /// What it may.
    pub rights: Rights,
    /// Bytes of a core dump; `None` is no limit.
    pub core: Option<u64>,
    /// Descriptors that it may have open; `None` is no limit.
    pub files: Option<u64>,
    /// Bytes of a file that it writes, as it would be without disks; `None` is no limit.
    pub file_size: Option<u64>,
    /// Bytes of memory that it may lock; `None` is no limit.
    pub locked: Option<u64>,
    /// Descriptors that it has of who started it, beside the three that it was given.
    pub inherited: usize,
    /// Names of its environment.
    pub environment: Vec<String>,
    /// What this host does not have, a sentence each.
    pub missing: Vec<String>,
}

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Walls(Walls),
    Error(String),
}

/// Starts one from the binary `exe`, with `path` as its `PATH`, and hears what it finds.
///
/// # Errors
/// Why it could not be shut in, with its causes: no machine would run here.
pub fn find(exe: &Path, path: &str) -> Result<Walls, String> {
    let run = || -> io::Result<Vec<u8>> {
        // What a process inherits by mistake: it has to be gone.
        let left_open = rustix::io::dup(File::open("/dev/null")?)?;
        let child = launch::command(exe, path, PROCESS, Path::new("/"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        drop(left_open);
        let output = child?.wait_with_output()?;
        Ok(if output.stdout.is_empty() { output.stderr } else { output.stdout })
    };
    let said = run().map_err(|error| format!("a process to look at the walls does not run: {error}"))?;
    match serde_json::from_slice(&said) {
        Ok(Said::Walls(walls)) => Ok(walls),
        Ok(Said::Error(why)) => Err(why),
        Err(_) => Err(format!(
            "a process to look at the walls ended early: {}",
            String::from_utf8_lossy(&said).trim()
        )),
    }
}

/// The process.
pub fn main() -> ExitCode {
    let inherited = sandbox::prepare().and_then(|()| inherited()).map_err(|error| chain(&error));
    let Ok(mut starter) = Starter::take() else { return ExitCode::FAILURE };
    let said = inherited.and_then(look).map_or_else(Said::Error, Said::Walls);
    starter.tell(&serde_json::to_string(&said).unwrap_or_default());
    ExitCode::SUCCESS
}

/// How many descriptors are open beside the standard ones, before this process has opened any.
fn inherited() -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let number: Option<u32> = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        count += usize::from(number.is_some_and(|number| number > 2));
    }
    // The folder itself is open to be read.
    Ok(count.saturating_sub(1))
}

fn look(inherited: usize) -> Result<Walls, String> {
    let open = |name| File::open(PathBuf::from("/proc/self").join(name)).map_err(|error| chain(&error));
    let (status, limits, environment) = (open("status")?, open("limits")?, text(open("environ")?)?);
    let report = sandbox::enter(&Policy { largest_file: Some(0), ..Policy::default() })
        .map_err(|error| chain(&error))?;
    let limits = text(limits)?;
    let names = environment.split('\0').filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()));
    Ok(Walls {
        landlock: match report.landlock {
            Landlock::Full { abi } | Landlock::Partial { abi } => Some(abi),
            Landlock::NotBuilt | Landlock::Off => None,
        },
        rights: Rights::parse(&text(status)?),
        core: limit(&limits, "Max core file size"),
        files: limit(&limits, "Max open files"),
        file_size: limit(&limits, "Max file size"),
        locked: limit(&limits, "Max locked memory"),
        inherited,
        environment: names.collect(),
        missing: report.missing(),
    })
}

fn text(file: File) -> Result<String, String> {
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| chain(&error))?;
    Ok(text)
}

/// The hard limit of that name in `/proc/PID/limits`, behind the soft one.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_as_the_kernel_writes_them() {
        let status = |seccomp, sets: &str| {
            format!(
                "Name:\tx\nCapInh:\t{sets}\nCapPrm:\t{sets}\nCapEff:\t{sets}\nCapAmb:\t{sets}\nNoNewPrivs:\t1\nSeccomp:\t{seccomp}\n"
            )
        };
        assert!(Rights::parse(&status(2, "0000000000000000")).are_none());
        assert!(!Rights::parse(&status(0, "0000000000000000")).are_none());
        let capable = Rights::parse(&status(2, "0000000000000400"));
        assert_eq!(capable, Rights { seccomp: true, no_new_privileges: true, no_capabilities: false });
        assert_eq!(Rights::parse(""), Rights::default());
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax core file size        0      0     bytes\nMax open files            512     1024    files\nMax stack size   8388608  unlimited  bytes\n";
        let found =
            ["Max core file size", "Max open files", "Max stack size"].map(|name| limit(limits, name));
        assert_eq!(found, [Some(0), Some(1024), None]);
    }
}
