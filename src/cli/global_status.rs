//! `rvm global-status`: all machines of this user, asked live.

use std::path::Path;

use clap::Args;

use super::app::App;
use super::status::word;
use super::target::short;
use super::ui::table::table;
use super::{DONE, Json, Outcome, json};
use crate::machine::Status;

/// Words of `rvm global-status`.
#[derive(Debug, Args)]
pub struct GlobalStatusArgs {
    /// Remove entries that have nothing worth keeping left
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Asks all machines and prints.
pub fn run(app: &App, args: &GlobalStatusArgs) -> Outcome {
    let machines = app.machines()?;
    if args.prune {
        for gone in machines.prune()? {
            let id = gone.id.as_deref().map_or("-", short);
            app.ui.note(&format!("Removed the entry {id} ({} in {}).", gone.name, gone.project.display()));
        }
    }
    let list = machines.all()?;
    if app.json {
        app.ui.json(&json::Machines::new(&list));
    } else {
        lines(app, &list);
        app.ui.result(&text(&list));
    }
    Ok(DONE)
}

/// The lines of `--machine-readable`.
fn lines(app: &App, list: &[Status]) {
    app.ui.machine("", "metadata", &["machine-count", &list.len().to_string()]);
    for status in list {
        let say = |kind, data: &str| app.ui.machine(&status.name, kind, &[data]);
        say("machine-id", status.id.as_deref().unwrap_or("-"));
        say("provider-name", status.provider.map_or("-", |p| p.as_str()));
        say("machine-home", &status.project.display().to_string());
        say("state", status.state.as_str());
    }
}

fn text(list: &[Status]) -> String {
    if list.is_empty() {
        return "There are no machines. `rvm up` in a folder with a Vagrantfile makes one.".into();
    }
    let example = list.iter().find_map(|status| status.id.as_deref()).map_or("ID", short);
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|status| {
            vec![
                status.id.as_deref().map_or("-", short).to_owned(),
                status.name.clone(),
                status.provider.map_or("-", |p| p.as_str()).to_owned(),
                word(status.state).to_owned(),
                directory(&status.project),
            ]
        })
        .collect();
    let table = table(&["id", "name", "provider", "state", "directory"], &rows);
    format!("{table}\nAn id works in place of a name from any folder: `rvm halt {example}`.")
}

/// A machine outlives the folder of its project.
fn directory(project: &Path) -> String {
    let gone = if project.is_dir() { "" } else { " (no longer there)" };
    format!("{}{gone}", project.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::State;
    use crate::model::ProviderKind;

    #[test]
    fn columns_in_the_order_of_vagrant() {
        let status = Status {
            id: Some("0123456789abcdef0123456789abcdef".into()),
            name: "default".into(),
            provider: Some(ProviderKind::Kvm),
            state: State::Running,
            project: "/usr".into(),
            box_name: "micro".into(),
            pid: Some(42),
            ports: vec![],
            places: vec![],
            ssh: None,
            uptime: None,
            cause: None,
            remedy: None,
        };
        let gone = Status { project: "/no/such/folder".into(), ..status.clone() };
        insta::assert_snapshot!(text(&[status, gone]), @r"
        id       name     provider  state    directory
        ----------------------------------------------------------------------
        0123456  default  kvm       running  /usr
        0123456  default  kvm       running  /no/such/folder (no longer there)

        An id works in place of a name from any folder: `rvm halt 0123456`.
        ");
    }
}
