//! `rvm ssh-config`: blocks for `~/.ssh/config`.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::app::App;
use super::error::{CliError, Kind};
use super::json::VERSION;
use super::target::{self, Target};
use super::{DONE, Json, Outcome, ssh, ssh_hosts};
use crate::machine::schedule::at_once;
use crate::machine::{Machines, SshInfo};
use crate::model::Code;
use crate::ssh::render_config;
use crate::state::store;

/// Words of `rvm ssh-config`.
#[derive(Debug, Args)]
pub struct SshConfigArgs {
    /// Machine or id; without, all machines of the project
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Name after `Host`, in place of the machine's
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Print the line by which ~/.ssh/config reads the file of all running machines
    #[arg(long, conflicts_with_all = ["name", "host", "json"])]
    include: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Prints a block for each machine; all of them must be running.
pub fn run(app: &App, args: &SshConfigArgs) -> Outcome {
    let machines = app.machines()?;
    if args.include {
        return include(app, &machines);
    }
    let targets = target::resolve(app, &machines, args.name.as_slice())?;
    if args.host.is_some() && targets.len() > 1 {
        let names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).collect();
        return Err(CliError::new(
            Kind::Usage,
            Code::SeveralMachines,
            "`--host` names one machine, and this project has several",
        )
        .hint(format!("name one of: {}", names.join(", "))));
    }
    let ask = |target: &Target| {
        let (project, machine) = target.declaration()?;
        Ok(machines.ssh_info(project, &machine.name)?)
    };
    let list = at_once(&targets, ask).into_iter().collect::<Result<Vec<SshInfo>, CliError>>()?;
    let host = |info: &SshInfo| args.host.clone().unwrap_or_else(|| info.name.clone());
    if app.json {
        let hosts: Vec<Value> = list.iter().map(|info| document(info, &host(info))).collect();
        app.ui.json(&json!({ "version": VERSION, "hosts": hosts }));
    } else {
        let block = |info: &SshInfo| {
            let block = render_config(&ssh::entry(info, &host(info)));
            app.ui.machine(&info.name, "ssh-config", &[&block]);
            block
        };
        let blocks: Vec<String> = list.iter().map(block).collect();
        app.ui.result(blocks.join("\n").trim_end());
    }
    Ok(DONE)
}

/// Writes the file, so that it is there, and prints the line.
fn include(app: &App, machines: &Machines<'_>) -> Outcome {
    store::create_private_dir(machines.layout.home())
        .map_err(|e| CliError::file("cannot make", machines.layout.home(), &e))?;
    ssh_hosts::write(app, machines)?;
    app.ui.result(&ssh_hosts::include_line(machines));
    app.ui.note("It belongs at the top of ~/.ssh/config; then `ssh NAME.FOLDER` leads to a machine.");
    Ok(DONE)
}

fn document(info: &SshInfo, host: &str) -> Value {
    let path = |path: &Path| path.display().to_string();
    json!({
        "host": host,
        "hostname": info.host.to_string(),
        "port": info.port,
        "user": info.user,
        "identity_file": info.identity.as_deref().map(path),
        "known_hosts_file": path(&info.known_hosts),
    })
}
