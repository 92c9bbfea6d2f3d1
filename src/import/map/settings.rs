//! `config.vm.… = value`, `config.ssh.… = value`, and what plug-ins add.

use super::super::draft::Out;
use super::super::eval::Lines;
use super::super::value::Value;
use super::{Mapper, boolean, boxes, number, string, text};

/// Settings that mean nothing here, and why.
const NEEDLESS: &[(&str, &str)] = &[
    ("vm.box_check_update", "rvm asks no server for newer boxes"),
    ("vm.box_architecture", "boxes of rvm are for x86-64"),
    ("vm.box_download_insecure", "rvm downloads no boxes"),
    ("vm.box_download_options", "rvm downloads no boxes"),
    ("vm.ignore_box_vagrantfile", "boxes of rvm hold no Vagrantfile"),
    ("vm.guest", "rvm finds out what the guest is"),
    ("vm.allow_hosts_modification", "rvm does not edit the guest's hosts file later"),
    ("vm.allow_fstab_modification", "rvm edits the guest's fstab for its own disks only"),
    ("vm.usable_port_range", "rvm takes any free port"),
    ("ssh.insert_key", "each machine has a key of its own from the beginning"),
    ("ssh.keys_only", "rvm offers the machine's key only"),
    ("ssh.verify_host_key", "rvm always verifies the host key that it made"),
    ("ssh.paranoid", "rvm always verifies the host key that it made"),
    ("ssh.keep_alive", "rvm always notices a guest that is gone"),
    ("ssh.compression", "the guest is on this host"),
    ("ssh.pty", "steps have no terminal"),
    ("ssh.shell", "steps run with the interpreter of their first line"),
    ("ssh.sudo_command", "steps run with `sudo -n -H`"),
    ("ssh.guest_port", "rvm finds its own way to SSH"),
    ("ssh.host", "rvm finds its own way to SSH"),
    ("ssh.connect_timeout", "`boot_timeout` covers it"),
    ("ssh.connect_retries", "`boot_timeout` covers it"),
    ("ssh.disable_deprecated_algorithms", "rvm uses modern ones"),
    ("vagrant.plugins", "rvm has no plug-ins"),
    ("vagrant.host", "a matter of Vagrant"),
];
/// Settings of plug-ins whose work rvm does or needs not.
const PLUGINS: &[(&str, &str)] = &[
    ("vbguest", "guest additions are for VirtualBox"),
    ("cache", "the plug-in vagrant-cachier"),
    ("berkshelf", "the plug-in vagrant-berkshelf"),
    ("omnibus", "the plug-in vagrant-omnibus"),
    ("timezone", "the plug-in vagrant-timezone"),
];

impl Mapper<'_, '_> {
    pub(super) fn setting(&mut self, scope: usize, path: &str, value: &Value, at: Lines) {
        if let Some((_, why)) = NEEDLESS.iter().find(|(known, _)| *known == path) {
            return self.needless(at, *why);
        }
        let outcome = match path {
            "vm.box" => self.box_name(scope, value, at),
            "vm.hostname" | "vm.host_name" => self.hostname(scope, value, at),
            "vm.boot_timeout" => {
                number(value, 1, 86_400).map(|time| self.set(scope, "boot_timeout", time, at))
            }
            "vm.graceful_halt_timeout" => {
                number(value, 1, 86_400).map(|time| self.set(scope, "halt_timeout", time, at))
            }
            "vm.post_up_message" => string(value).map(|text| self.set(scope, "message", text, at)),
            "vm.communicator" => match value.as_word() {
                Some("ssh") => Ok(()),
                _ => Err("machines are reached by SSH only".into()),
            },
            "vm.box_version" => Err("versions of boxes cannot be asked for".into()),
            "vm.box_url" => Err("rvm builds its boxes itself and downloads none".into()),
            "ssh.username" => match value.as_word() {
                Some("vagrant") => Ok(()),
                _ => string(value).map(|user| self.set(scope, "ssh.user", user, at)),
            },
            "ssh.port" => number(value, 1, 65_535).map(|port| self.set(scope, "ssh.port", port, at)),
            "ssh.password" => Err("write it to .env as RVM_SSH_PASSWORD".into()),
            "ssh.private_key_path" => Err("write it to .env as RVM_SSH_KEY".into()),
            "ssh.forward_agent" => match boolean(value) {
                Ok(yes) => {
                    self.set(scope, "ssh.forward_agent", Out::Bool(yes), at);
                    Ok(())
                }
                Err(why) => Err(why),
            },
            "ssh.forward_x11" => match boolean(value) {
                Ok(yes) => {
                    self.set(scope, "ssh.forward_x11", Out::Bool(yes), at);
                    Ok(())
                }
                Err(why) => Err(why),
            },
            "vagrant.sensitive" => {
                self.needless(at, "values of the ENV file are masked everywhere");
                Ok(())
            }
            "disksize.size" => self.root_disk(scope, value, at),
            _ => Err(self.elsewhere(path, at)),
        };
        if let Err(why) = outcome.or_else(|why| if why.is_empty() { Ok(()) } else { Err(why) }) {
            self.lost(at, why);
        }
    }

    /// Why a setting that is not known has no counterpart; empty: it was noted.
    fn elsewhere(&mut self, path: &str, at: Lines) -> String {
        let section = path.split('.').next().unwrap_or_default();
        if let Some((_, why)) = PLUGINS.iter().find(|(known, _)| *known == section) {
            self.needless(at, *why);
            return String::new();
        }
        match section {
            "vm" | "ssh" | "vagrant" => format!("`config.{path}` has no counterpart"),
            "winrm" | "winssh" => "Windows guests are not supported".into(),
            section => format!("`config.{section}` is of a plug-in"),
        }
    }

    fn box_name(&mut self, scope: usize, value: &Value, at: Lines) -> Result<(), String> {
        let text = text(value)?;
        let Some(name) = text.as_plain() else {
            let out = match text.as_env() {
                // A default that rvm knows by another name.
                Some((variable, Some(default))) => match boxes::find(default) {
                    boxes::Found::Ours(ours) => Out::Str(format!("${{{variable}:-{ours}}}")),
                    _ => {
                        self.lost(
                            at,
                            format!("rvm has no box `{default}`: it has debian/13, debian/12 and micro"),
                        );
                        string(value)?
                    }
                },
                _ => string(value)?,
            };
            self.set(scope, "box", out, at);
            return Ok(());
        };
        let (ours, remark) = match boxes::find(name) {
            boxes::Found::Ours(ours) if ours == name => (ours.to_owned(), None),
            boxes::Found::Ours(ours) => (ours.to_owned(), Some(name.to_owned())),
            boxes::Found::Other(other) => {
                self.lost(at, format!("rvm has no box `{name}`: it has debian/13, debian/12 and micro"));
                (other, Some("rvm has no such box yet".to_owned()))
            }
            boxes::Found::NoName => {
                self.lost(at, format!("rvm has no box `{name}`: {} stands in for it", boxes::STAND_IN));
                (boxes::STAND_IN.to_owned(), Some(format!("stands in for {name}")))
            }
        };
        self.set_with(scope, "box", Out::Str(ours), at, remark);
        Ok(())
    }

    fn hostname(&mut self, scope: usize, value: &Value, at: Lines) -> Result<(), String> {
        let text = text(value)?;
        let Some(name) = text.as_plain() else {
            let name = string(value)?;
            self.set(scope, "hostname", name, at);
            return Ok(());
        };
        let tidy = tidy_name(name, true);
        if tidy != name {
            self.lost(at, format!("host names have only a to z, 0 to 9, `-` and `.`: it is `{tidy}` here"));
        }
        self.set(scope, "hostname", Out::Str(tidy), at);
        Ok(())
    }
}

/// A name of labels `[a-z0-9-]`, each beginning and ending with a letter or digit.
pub(super) fn tidy_name(name: &str, dots: bool) -> String {
    let tidy_label = |label: &str| {
        let word = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
        let label: String = label.to_lowercase().chars().map(word).take(63).collect();
        label.trim_matches('-').to_owned()
    };
    let labels: Vec<String> = match dots {
        true => name.split('.').map(tidy_label).filter(|label| !label.is_empty()).take(4).collect(),
        false => vec![tidy_label(name)],
    };
    let tidy = labels.join(".");
    if tidy.is_empty() { "machine".to_owned() } else { tidy }
}

#[cfg(test)]
mod tests {
    use super::tidy_name;

    #[test]
    fn names() {
        assert_eq!(tidy_name("Web_1", false), "web-1");
        assert_eq!(tidy_name("web.example", false), "web-example");
        assert_eq!(tidy_name("web_1.Example..org", true), "web-1.example.org");
        assert_eq!(tidy_name("é", true), "machine");
        assert_eq!(tidy_name(&"x".repeat(100), false).len(), 63);
    }
}
