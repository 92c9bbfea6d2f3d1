//! `rvm volume`: disks that outlive machines.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::app::App;
use super::error::CliError;
use super::json::VERSION;
use super::ui::table::{bytes, table};
use super::{DONE, Json, Outcome, prompt, target};
use crate::machine::{VolumeError, VolumeStatus};
use crate::model::Code;

/// Words of `rvm volume`.
#[derive(Debug, Subcommand)]
pub enum VolumeVerb {
    /// Show the volumes and which machines have them
    List(ListArgs),
    /// Remove volumes and all that is on them
    Remove(RemoveArgs),
}

/// Words of `rvm volume list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub(super) json: Json,
}

/// Words of `rvm volume remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Volumes of the project, or ids that `rvm volume list` shows
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Runs the sub-verb.
pub fn run(app: &App, verb: &VolumeVerb) -> Outcome {
    match verb {
        VolumeVerb::List(_) => list(app),
        VolumeVerb::Remove(args) => remove(app, args),
    }
}

fn list(app: &App) -> Outcome {
    let volumes = app.machines()?.volumes()?;
    if app.json {
        let list: Vec<Value> = volumes.iter().map(document).collect();
        app.ui.json(&json!({ "version": VERSION, "volumes": list }));
    } else {
        app.ui.result(&text(&volumes));
    }
    Ok(DONE)
}

fn document(volume: &VolumeStatus) -> Value {
    let machines: Vec<Value> = volume
        .users
        .iter()
        .map(|user| {
            json!({
                "machine": user.name,
                "id": user.id,
                "directory": user.project.display().to_string(),
                "running": user.running,
                "read_only": user.read_only,
            })
        })
        .collect();
    json!({
        "id": volume.id,
        "name": volume.name,
        "directory": volume.project.as_ref().map(|path| path.display().to_string()),
        "size": volume.size,
        "used": volume.used,
        "created": volume.created,
        "machines": machines,
    })
}

fn text(volumes: &[VolumeStatus]) -> String {
    if volumes.is_empty() {
        return "There are no volumes. `[[volume]]` in a Vagrantfile makes one.".into();
    }
    let rows: Vec<Vec<String>> = volumes
        .iter()
        .map(|volume| {
            let users = volume.users.iter().map(|user| match user.running {
                true => format!("{} (running)", user.name),
                false => user.name.clone(),
            });
            let users = users.collect::<Vec<_>>().join(", ");
            let whose = volume.project.as_ref().map(|path| path.display().to_string());
            vec![
                volume.name.clone(),
                target::short(&volume.id).to_owned(),
                bytes(volume.size),
                bytes(volume.used),
                if users.is_empty() { "-".into() } else { users },
                whose.unwrap_or_else(|| "shared".into()),
            ]
        })
        .collect();
    table(&["volume", "id", "size", "used", "machines", "project"], &rows).trim_end().to_owned()
}

fn remove(app: &App, args: &RemoveArgs) -> Outcome {
    let machines = app.machines()?;
    // Without a Vagrantfile a name means what projects share, or an id.
    let project = app.project().ok().map(|project| project.root);
    let mut volumes: Vec<VolumeStatus> = Vec::new();
    for name in &args.names {
        let volume = machines.volume(project.as_deref(), name)?;
        if !volume.users.is_empty() {
            let error = VolumeError::Attached { volume: volume.name, users: volume.users };
            return Err(crate::machine::MachineError::from(error).into());
        }
        if !volumes.iter().any(|known| known.id == volume.id) {
            volumes.push(volume);
        }
    }
    if !args.force && !prompt::can_ask(app) {
        let message = "cannot ask whether to remove: standard input is no terminal";
        return Err(CliError::failed(Code::CannotAsk, message).hint("`rvm volume remove -f` does not ask"));
    }
    for volume in volumes {
        let (name, used) = (&volume.name, bytes(volume.used));
        let question = format!("Remove the volume {name} and all that is on it ({used})? [y/N] ");
        if !args.force && !prompt::yes(app, &question)? {
            app.ui.note(&format!("Kept the volume {name}."));
            continue;
        }
        machines.remove_volume(&volume.id)?;
        app.ui.note(&format!("Removed the volume {name}."));
    }
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::VolumeUser;

    #[test]
    fn the_list() {
        let user = |name: &str, running| VolumeUser {
            id: "0".repeat(32),
            name: name.into(),
            project: "/p".into(),
            running,
            read_only: false,
        };
        let volume = |name: &str, project: Option<&str>, users| VolumeStatus {
            id: "0123456789abcdef".into(),
            name: name.into(),
            project: project.map(Into::into),
            size: 10 << 30,
            used: 300 << 20,
            created: 0,
            users,
        };
        let volumes = [
            volume("cache", None, Vec::new()),
            volume("data", Some("/p"), vec![user("db", true), user("web", false)]),
        ];
        insta::assert_snapshot!(text(&volumes), @r"
        volume  id       size      used       machines           project
        ----------------------------------------------------------------
        cache   0123456  10.0 GiB  300.0 MiB  -                  shared
        data    0123456  10.0 GiB  300.0 MiB  db (running), web  /p
        ");
        assert!(text(&[]).contains("no volumes"));
    }
}
