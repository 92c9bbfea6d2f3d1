//! What the rsync of this host, and the ssh client that it starts, can open: the folder that is copied, what programs of
//! the system need, and the keys of the machine. rsync opens files by their paths, and before version 3.5 a link that took
//! the place of a folder meanwhile led it out. It is closed to that by Landlock, which asks what is opened in the end.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};

/// What is asked for: the newest that the crate knows; older kernels give what they have.
const WANTED: ABI = ABI::V7;
/// Where programs and their libraries are.
const PROGRAMS: [&str; 9] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/run/current-system",
    "/home/linuxbrew/.linuxbrew",
];
/// What programs read to find libraries, users, addresses and the rules for ciphers; all of it is for everybody to read.
const SETTINGS: [&str; 21] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/crypto-policies",
    "/etc/ssh/ssh_config",
    "/etc/ssh/ssh_config.d",
    "/run/systemd/userdb",
    "/var/lib/sss/mc",
    "/dev/urandom",
];

/// What is to be left open beside that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open<'a, F> {
    /// The folder that is copied.
    pub folder: F,
    /// Files to read.
    pub files: &'a [PathBuf],
}

/// Whether it is one of the programs that can be started so.
pub(super) fn can_run(program: &Path) -> bool {
    let program = std::fs::canonicalize(program);
    program.is_ok_and(|program| PROGRAMS.iter().any(|folder| program.starts_with(folder)))
}

/// Starts a program that can read that and change nothing. `None`: this kernel has no Landlock, or it is switched off.
///
/// # Errors
/// What the system says.
pub(super) fn spawn<F: AsFd + Send>(command: &mut Command, open: Open<'_, F>) -> io::Result<Option<Child>> {
    // What a thread may open is what the processes may that it starts; the others keep what they have.
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| match close(open).map_err(io::Error::other)? {
            RulesetStatus::NotEnforced => Ok(None),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => command.spawn().map(Some),
        });
        starter.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it failed")))
    })
}

fn close<F: AsFd>(open: Open<'_, F>) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .create()?
        .add_rule(PathBeneath::new(open.folder, read))?;
    let all = |names: &'static [&str], access: BitFlags<AccessFs>| {
        names.iter().map(move |name| (Path::new(name), access))
    };
    let rules = all(&PROGRAMS, read | AccessFs::Execute)
        .chain(all(&SETTINGS, read))
        .chain(all(&["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))
        .chain(open.files.iter().map(|file| (file.as_path(), AccessFs::ReadFile.into())));
    let mut ruleset = ruleset;
    for (path, access) in rules {
        // What is not there needs no rule.
        if let Ok(opened) = PathFd::new(path) {
            // Of a file only what can be done with files.
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(WANTED) };
            ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Stdio;

    use super::*;
    use crate::machine::folders::inside::Root;

    /// On a host with Landlock; it fails elsewhere, as the tests of the sandbox do.
    #[test]
    fn a_program_reads_the_folder_and_nothing_that_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        for folder in ["src/a", "home"] {
            fs::create_dir_all(top.join(folder)).unwrap();
            fs::write(top.join(folder).join("id_rsa"), folder).unwrap();
        }
        fs::write(top.join("key"), "key").unwrap();
        symlink("../home", top.join("src/link")).unwrap();
        let root = Root::open(&top.join("src")).unwrap();
        let said = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).current_dir(&top).stdout(Stdio::piped()).stderr(Stdio::null());
            let files = [top.join("key"), top.join("none")];
            let child = spawn(&mut command, Open { folder: &root, files: &files }).unwrap().unwrap();
            String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
        };
        assert_eq!(said("cat src/a/id_rsa key; ls src; echo x >/dev/null && echo ."), "src/akeya\nlink\n.\n");
        assert_eq!(said("cat src/link/id_rsa home/id_rsa; ls src/link/ home; cat <src/link/id_rsa"), "");
        assert_eq!(said("ls /etc /root /proc; cat /etc/shadow /proc/self/environ"), "");
        assert_eq!(
            said("echo x >src/new; echo x >home/new; rm src/a/id_rsa; mkdir src/b; echo done"),
            "done\n"
        );
        assert!(
            !top.join("src/new").exists() && !top.join("src/b").exists() && !top.join("home/new").exists()
        );
        assert!(can_run(Path::new("/bin/sh")) && !can_run(&top.join("key")));
        // Who started it is as free as before.
        assert_eq!(fs::read_to_string(top.join("home/id_rsa")).unwrap(), "home");
    }
}
