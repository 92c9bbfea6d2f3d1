//! The file that `~/.ssh/config` can include: all machines of this user that run. It is kept as they are by
//! each command that starts, stops or removes one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::app::App;
use super::error::{CliError, Kind};
use super::ssh;
use super::target::short;
use crate::machine::{Machines, SshInfo, Status};
use crate::model::Code;
use crate::ssh::{config_word, render_config};
use crate::state::{Lock, store};

/// Its name in the store.
const FILE: &str = "ssh_config";

const HEAD: &str = "# Written by rvm and replaced whenever a machine starts or ends. `rvm ssh-config --include` prints\n\
                    # the line by which ~/.ssh/config reads it.\n";

/// Where it is.
pub fn path(machines: &Machines<'_>) -> PathBuf {
    machines.layout.home().join(FILE)
}

/// Writes it as the machines are now. That it cannot be written undoes nothing: it is a warning.
pub fn keep(app: &App, machines: &Machines<'_>) {
    if !machines.layout.home().is_dir() {
        return;
    }
    match write(app, machines) {
        Err(error) if error.kind != Kind::Interrupted => {
            app.ui.warn(&format!("the file for ~/.ssh/config is not up to date: {}", error.one_line()));
        }
        _ => {}
    }
}

/// The same; tells what went wrong.
pub fn write(app: &App, machines: &Machines<'_>) -> Result<(), CliError> {
    let path = path(machines);
    // Held while the machines are asked, so that who looks later also writes later.
    let lock = machines.layout.lock_file("ssh-config");
    let _lock =
        Lock::acquire(&lock, "the command that writes ssh_config", &app.cancel, |_| ()).map_err(|error| {
            let kind = if app.cancel.is_cancelled() { Kind::Interrupted } else { Kind::Failed };
            CliError::from_error(kind, error.code(), &error, None)
        })?;
    let text = text(&machines.ssh_hosts()?);
    if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    store::write(&path, text.as_bytes()).map_err(|error| {
        CliError::failed(Code::WriteFile, format!("cannot write {}", path.display())).because(&error)
    })
}

/// The line for `~/.ssh/config`.
pub fn include_line(machines: &Machines<'_>) -> String {
    format!("Include {}", config_word(&path(machines).display().to_string()))
}

/// A block for each machine, called `NAME.PROJECT` after the folder of its project, and `NAME.ID`. The first
/// name is left out where several have it: it must not lead to another machine tomorrow.
fn text(list: &[(Status, SshInfo)]) -> String {
    let name = |status: &Status| format!("{}.{}", status.name, folder(status));
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (status, _) in list {
        *known.entry(name(status)).or_default() += 1;
    }
    let mut text = HEAD.to_owned();
    for (status, info) in list {
        let mut names = Vec::new();
        if known.get(&name(status)) == Some(&1) {
            names.push(name(status));
        }
        names.extend(status.id.as_deref().map(|id| format!("{}.{}", status.name, short(id))));
        text.push('\n');
        text.push_str(&render_config(&ssh::entry(info, &names.join(" "))));
    }
    text
}

/// The name of a project's folder as a part of a host name.
fn folder(status: &Status) -> String {
    let name = status.project.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let word = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let label: String = name.chars().map(word).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "project".to_owned() } else { label.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::State;
    use crate::model::SshClient;

    fn running(name: &str, id: &str, project: &str, port: u16) -> (Status, SshInfo) {
        let status = Status {
            id: Some(format!("{id}0123456789abcdef")),
            name: name.into(),
            provider: None,
            state: State::Running,
            project: project.into(),
            box_name: "micro".into(),
            pid: None,
            ports: vec![],
            places: vec![],
            ssh: None,
            uptime: None,
            cause: None,
            remedy: None,
        };
        let info = SshInfo {
            name: name.into(),
            host: [127, 0, 0, 1].into(),
            port,
            user: "vagrant".into(),
            identity: Some("/m/id key".into()),
            known_hosts: "/m/known_hosts".into(),
            client: SshClient::default(),
        };
        (status, info)
    }

    #[test]
    fn each_machine_has_names_of_its_own() {
        let list = [
            running("web", "aaaaaaa", "/home/me/My Shop_2", 2222),
            running("web", "bbbbbbb", "/work/shop", 2200),
            running("db", "ccccccc", "/work/shop", 2201),
            running("web", "ddddddd", "/tmp/shop", 2202),
            running("x", "eeeeeee", "/", 2203),
        ];
        let text = text(&list);
        let hosts: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Host ")).collect();
        assert_eq!(
            hosts,
            [
                "web.my-shop-2 web.aaaaaaa",
                "web.bbbbbbb",
                "db.shop db.ccccccc",
                "web.ddddddd",
                "x.project x.eeeeeee"
            ]
        );
    }

    #[test]
    fn ssh_reads_the_file_by_way_of_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a file");
        std::fs::write(&file, text(&[running("web", "aaaaaaa", "/p/shop", 2222)])).unwrap();
        let main = dir.path().join("config");
        std::fs::write(&main, format!("Include \"{}\"\nHost *\n  Port 1\n", file.display())).unwrap();
        for (host, port) in [("web.shop", "2222"), ("web.aaaaaaa", "2222"), ("web", "1")] {
            let output =
                std::process::Command::new("ssh").args(["-G", "-F"]).arg(&main).arg(host).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(&format!("\nport {port}\n")), "{host}: {text}");
        }
    }
}
