//! Machines as Ansible's inventory.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::ConfigEntry;

/// A machine of an inventory; its name there is that of its entry.
#[derive(Debug, Clone)]
pub struct InventoryHost {
    /// How it is reached.
    pub entry: ConfigEntry,
    /// Groups it belongs to.
    pub groups: Vec<String>,
}

/// What Ansible's SSH connection has to know about a machine: its own key alone, and its pinned host key.
fn host_vars(entry: &ConfigEntry) -> Value {
    let common = format!(
        "-o UserKnownHostsFile={} -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
        word(&entry.known_hosts.to_string_lossy().replace('%', "%%"))
    );
    let mut vars = Map::new();
    vars.insert("ansible_host".into(), json!(entry.hostname.to_string()));
    vars.insert("ansible_port".into(), json!(entry.port));
    vars.insert("ansible_user".into(), json!(entry.user));
    if let Some(identity) = entry.identities.first() {
        vars.insert("ansible_ssh_private_key_file".into(), json!(identity.to_string_lossy()));
    }
    vars.insert("ansible_ssh_common_args".into(), json!(common));
    Value::Object(vars)
}

/// One word for Python's `shlex`, which Ansible takes the options apart with, and for ssh_config(5) behind
/// it, where a blank needs quotes of its own.
fn word(text: &str) -> String {
    match text.contains(|c: char| !(c.is_ascii_alphanumeric() || "/._-+@%".contains(c))) {
        true => format!("'\"{}\"'", text.replace('\'', r#"'"'"'"#)),
        false => text.to_owned(),
    }
}

/// The inventory in YAML. Strings are written as JSON has them, which YAML 1.2 takes as they are.
pub fn render_inventory(hosts: &[InventoryHost]) -> String {
    let mut text = String::from("all:\n  hosts:\n");
    if hosts.is_empty() {
        return "all:\n  hosts: {}\n".into();
    }
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for host in hosts {
        text.push_str(&format!("    {}:\n", json!(host.entry.host)));
        if let Value::Object(vars) = host_vars(&host.entry) {
            for (name, value) in vars {
                text.push_str(&format!("      {name}: {value}\n"));
            }
        }
        for group in &host.groups {
            groups.entry(group).or_default().push(&host.entry.host);
        }
    }
    if !groups.is_empty() {
        text.push_str("  children:\n");
    }
    for (group, members) in groups {
        text.push_str(&format!("    {}:\n      hosts:\n", json!(group)));
        for member in members {
            text.push_str(&format!("        {}: {{}}\n", json!(member)));
        }
    }
    text
}

/// The same in the form in which Ansible asks a program for it (`--list`).
pub fn inventory_json(hosts: &[InventoryHost]) -> Value {
    let mut vars = Map::new();
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut all = Vec::new();
    for host in hosts {
        vars.insert(host.entry.host.clone(), host_vars(&host.entry));
        all.push(host.entry.host.clone());
        for group in &host.groups {
            groups.entry(group.clone()).or_default().push(host.entry.host.clone());
        }
    }
    let mut inventory = Map::new();
    for (group, members) in groups {
        inventory.insert(group, json!({ "hosts": members }));
    }
    inventory.insert("all".into(), json!({ "hosts": all }));
    inventory.insert("_meta".into(), json!({ "hostvars": vars }));
    Value::Object(inventory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, groups: &[&str]) -> InventoryHost {
        let entry = ConfigEntry {
            host: name.into(),
            hostname: [127, 0, 0, 1].into(),
            port: 2222,
            user: "vagrant".into(),
            known_hosts: "/home/me/my machines/known_hosts".into(),
            identities: vec!["/home/me/my machines/id".into()],
            password: false,
            options: Vec::new(),
        };
        InventoryHost { entry, groups: groups.iter().map(|group| (*group).to_owned()).collect() }
    }

    #[test]
    fn hosts_and_groups() {
        let hosts = [host("web", &["front", "linux"]), host("db", &["linux"])];
        insta::assert_snapshot!(render_inventory(&hosts), @r#"
        all:
          hosts:
            "web":
              ansible_host: "127.0.0.1"
              ansible_port: 2222
              ansible_ssh_common_args: "-o UserKnownHostsFile='\"/home/me/my machines/known_hosts\"' -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
              ansible_ssh_private_key_file: "/home/me/my machines/id"
              ansible_user: "vagrant"
            "db":
              ansible_host: "127.0.0.1"
              ansible_port: 2222
              ansible_ssh_common_args: "-o UserKnownHostsFile='\"/home/me/my machines/known_hosts\"' -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
              ansible_ssh_private_key_file: "/home/me/my machines/id"
              ansible_user: "vagrant"
          children:
            "front":
              hosts:
                "web": {}
            "linux":
              hosts:
                "web": {}
                "db": {}
        "#);
        let json = inventory_json(&hosts);
        assert_eq!(json["linux"]["hosts"], json!(["web", "db"]));
        assert_eq!(json["_meta"]["hostvars"]["db"]["ansible_port"], 2222);
        assert_eq!(render_inventory(&[]), "all:\n  hosts: {}\n");
    }
}
