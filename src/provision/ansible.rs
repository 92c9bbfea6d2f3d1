//! Runs the host's `ansible-playbook` against the machines.

use std::process::Command;

use super::host::Host;
use super::output::Output;
use super::{HostSide, ProvisionError};
use crate::model::{Ansible, Secret, Step};
use crate::state::store;

const PROGRAM: &str = "ansible-playbook";

/// Runs a playbook. `limit`: to this machine, unless the step says otherwise. What may be secret travels
/// in files of mode 0600 in a folder of mode 0700, which is gone afterwards, or in the environment; the
/// command line shows none of it.
pub(super) fn run(
    host: &Host<'_>,
    side: &HostSide<'_>,
    step: &Step,
    ansible: &Ansible,
    limit: Option<&str>,
    output: &Output<'_>,
) -> Result<(), ProvisionError> {
    let fail = |error: std::io::Error| ProvisionError::StepUnable {
        machine: host.machine.to_owned(),
        step: step.name.clone(),
        why: format!("its files for ansible cannot be written: {error}"),
        hint: None,
    };
    let folder = tempfile::Builder::new().prefix("rvm-").tempdir().map_err(fail)?;
    let at = |name: &str| folder.path().join(name);
    store::write(&at("inventory.yml"), side.inventory.as_bytes()).map_err(fail)?;
    let vars = with_password(ansible.extra_vars.expose(), side.password).map_err(fail)?;
    store::write(&at("vars.json"), vars.as_bytes()).map_err(fail)?;
    let mut command = Command::new(PROGRAM);
    command.arg("-i").arg(at("inventory.yml"));
    command.arg("--extra-vars").arg(format!("@{}", at("vars.json").display()));
    if let Some(limit) = ansible.limit.as_deref().or(limit) {
        command.args(["--limit", limit]);
    }
    for (option, words) in [("--tags", &ansible.tags), ("--skip-tags", &ansible.skip_tags)] {
        if !words.is_empty() {
            command.args([option, &words.join(",")]);
        }
    }
    if ansible.become_root {
        command.arg("--become");
    }
    command.args(&ansible.args).arg(&ansible.playbook);
    // The options of the inventory pin the host keys; a control socket of another machine that had this
    // port before must not be taken for one of these.
    command.env("ANSIBLE_HOST_KEY_CHECKING", "True");
    command.env("ANSIBLE_SSH_CONTROL_PATH_DIR", at("cp"));
    command.env("ANSIBLE_NOCOLOR", "True").env("PYTHONUNBUFFERED", "1");
    host.drive(step, command, output).map_err(|error| match error {
        ProvisionError::StepUnable { machine, step, why, hint: None } => ProvisionError::StepUnable {
            machine,
            step,
            why,
            hint: Some("ansible is in the package `ansible-core`: `sudo apt install ansible-core`".into()),
        },
        other => other,
    })
}

/// The variables, with the password that logs in where there is one and no key.
fn with_password(vars: &str, password: Option<&Secret>) -> std::io::Result<String> {
    let Some(password) = password else { return Ok(vars.to_owned()) };
    let mut vars: serde_json::Map<String, serde_json::Value> = serde_json::from_str(vars)?;
    vars.entry("ansible_password").or_insert_with(|| password.expose().into());
    Ok(serde_json::Value::Object(vars).to_string())
}
