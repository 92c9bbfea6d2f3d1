//! Providers' blocks: processors, memory and disks are the machine's here, whatever runs it.

use std::rc::Rc;

use super::super::draft::{Out, Table};
use super::super::eval::{Lines, Opt};
use super::super::value::Value;
use super::{Mapper, boolean, find, number, string};

/// Who is believed where providers differ: the nearest relative of rvm first.
const TRUSTED: [&str; 9] = [
    "libvirt",
    "qemu",
    "kvm",
    "virtualbox",
    "vmware_desktop",
    "vmware_fusion",
    "vmware_workstation",
    "parallels",
    "hyperv",
];
/// The least and the most memory of a machine in MiB, as `config` has it.
const MEMORY: (i64, i64) = (64, 1024 * 1024);

/// Settings of a provider that say how it works, and nothing about the guest.
const ITS_OWN: &[&str] = &[
    "name",
    "gui",
    "linked_clone",
    "check_guest_additions",
    "functional_hgfs",
    "driver",
    "uri",
    "host",
    "connect_via_ssh",
    "storage_pool_name",
    "default_prefix",
    "title",
    "description",
    "cpu_mode",
    "cpu_model",
    "machine_type",
    "machine_arch",
    "disk_bus",
    "disk_driver",
    "nic_model_type",
    "graphics_type",
    "graphics_ip",
    "graphics_port",
    "video_type",
    "video_vram",
    "volume_cache",
    "keymap",
    "random",
    "qemu_use_session",
    "management_network_name",
    "management_network_address",
    "default_nic_type",
    "update_guest_tools",
    "vmname",
    "ip_address_timeout",
    "loader",
    "input",
    "channel",
    "memorybacking",
    "cputopology",
    "suspend_mode",
    "autostart",
];

impl Mapper<'_, '_> {
    pub(super) fn provider(
        &mut self,
        scope: usize,
        provider: &Rc<str>,
        key: &str,
        args: &[Value],
        at: Lines,
    ) {
        if !TRUSTED.contains(&&**provider) {
            return self.lost(at, format!("the provider `{provider}` has no counterpart"));
        }
        let outcome = match (key, args) {
            ("cpus", [value]) => {
                number(value, 1, 64).map(|cpus| self.believe(scope, "cpus", cpus, provider, at))
            }
            ("memory", [value]) => self.memory(scope, value, provider, at),
            ("nested" | "enable_virtualization_extensions", [value]) => boolean(value).map(|is| {
                if is {
                    self.believe(scope, "nested", Out::Bool(true), provider, at);
                }
            }),
            ("[]" | "vmx", [key, value]) => match key.as_word() {
                Some("memsize") => self.memory(scope, value, provider, at),
                Some("numvcpus") => {
                    number(value, 1, 64).map(|cpus| self.believe(scope, "cpus", cpus, provider, at))
                }
                Some("vhv.enable") => {
                    self.believe(scope, "nested", Out::Bool(true), provider, at);
                    Ok(())
                }
                _ => Err(format!("a setting of the provider `{provider}`")),
            },
            ("customize", [Value::List(words), ..]) => self.customize(scope, words, provider, at),
            ("machine_virtual_size", [value]) => number(value, 1, 64 * 1024).map(|size| {
                let size = match size {
                    Out::Int(size) => Out::Str(format!("{size}GiB")),
                    Out::Str(variable) => Out::Str(format!("{variable}GiB")),
                    other => other,
                };
                self.set(scope, "disk", size, at);
            }),
            ("storage", [kind, rest @ ..]) => match kind.as_word() {
                Some("file") => self.storage(scope, rest, at),
                _ => Err("a CD or floppy drive has no counterpart".into()),
            },
            (key, _) if ITS_OWN.contains(&key) => {
                self.needless(at, format!("how the provider `{provider}` works"));
                Ok(())
            }
            _ => Err(format!("`{key}` of the provider `{provider}` has no counterpart")),
        };
        if let Err(why) = outcome {
            self.lost(at, why);
        }
    }

    /// Sets what several providers may say; the nearest relative is believed, a difference noted.
    fn believe(&mut self, scope: usize, key: &'static str, value: Out, provider: &Rc<str>, at: Lines) {
        let rank = |name: &str| TRUSTED.iter().position(|known| *known == name).unwrap_or(TRUSTED.len());
        if let Some(giver) = self.givers.get(&(scope, key)).cloned()
            && giver != *provider
        {
            let known = self.layers.get(scope).and_then(|layer| layer.get(key)).cloned();
            let Some(known) = known.filter(|known| known.value != value) else { return };
            if rank(&giver) < rank(provider) {
                return self.lost(at, format!("`{key}` is that of the provider `{giver}` here"));
            }
            self.lost(known.at, format!("`{key}` is that of the provider `{provider}` here"));
        }
        self.givers.insert((scope, key), Rc::clone(provider));
        self.set(scope, key, value, at);
    }

    fn memory(&mut self, scope: usize, value: &Value, provider: &Rc<str>, at: Lines) -> Result<(), String> {
        let memory = match number(value, MEMORY.0, MEMORY.1) {
            Ok(Out::Int(mib)) => size(mib),
            Ok(variable) => variable,
            Err(why) => {
                match value.as_word().and_then(mebibytes).filter(|mib| (MEMORY.0..=MEMORY.1).contains(mib)) {
                    Some(mib) => size(mib),
                    None => return Err(why),
                }
            }
        };
        self.believe(scope, "memory", memory, provider, at);
        Ok(())
    }

    /// `VBoxManage modifyvm` and its kind, in pairs of option and value.
    fn customize(
        &mut self,
        scope: usize,
        words: &[Value],
        provider: &Rc<str>,
        at: Lines,
    ) -> Result<(), String> {
        let mut known = false;
        let mut other = None;
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let Some(option) = word.as_word().filter(|word| word.starts_with("--")) else { continue };
            let value = words.next_if(|next| next.as_word().is_none_or(|next| !next.starts_with("--")));
            match (option, value) {
                ("--memory", Some(value)) => self.memory(scope, value, provider, at)?,
                ("--cpus", Some(value)) => {
                    let cpus = number(value, 1, 64)?;
                    self.believe(scope, "cpus", cpus, provider, at);
                }
                ("--nested-hw-virt", Some(value)) if value.as_word() == Some("on") => {
                    self.believe(scope, "nested", Out::Bool(true), provider, at);
                }
                (option, _) => {
                    other = Some(option.to_owned());
                    continue;
                }
            }
            known = true;
        }
        match other {
            None if known => Ok(()),
            Some(option) if known => {
                Err(format!("`{option}` of the provider `{provider}` has no counterpart"))
            }
            _ => {
                self.needless(at, format!("a setting of the provider `{provider}` alone"));
                Ok(())
            }
        }
    }

    /// `config.vm.disk`.
    pub(super) fn disk(&mut self, scope: usize, args: &[Value], options: &[Opt], at: Lines) {
        if args.first().and_then(Value::as_word) != Some("disk") {
            return self.lost(at, "a CD or floppy drive has no counterpart");
        }
        let size = find(options, "size").map(|size| size.value.clone());
        let primary = find(options, "primary").is_some_and(|primary| primary.value == Value::Bool(true));
        let outcome = match (size, primary) {
            (Some(size), true) => self.root_disk(scope, &size, at),
            (Some(size), false) => {
                let name = find(options, "name").and_then(|name| name.value.as_word()).map(str::to_owned);
                self.extra_disk(scope, &size, name, at)
            }
            (None, _) => Err("a disk without a size".into()),
        };
        if let Err(why) = outcome {
            self.lost(at, why);
        }
    }

    fn storage(&mut self, scope: usize, args: &[Value], at: Lines) -> Result<(), String> {
        let Some(options) = args.last() else { return Err("a disk without a size".into()) };
        let size = super::pair(options, "size").cloned().unwrap_or_else(|| Value::text("10G"));
        self.extra_disk(scope, &size, None, at)
    }

    pub(super) fn root_disk(&mut self, scope: usize, value: &Value, at: Lines) -> Result<(), String> {
        let size = disk_size(value)?;
        self.set(scope, "disk", size, at);
        Ok(())
    }

    fn extra_disk(
        &mut self,
        scope: usize,
        value: &Value,
        name: Option<String>,
        at: Lines,
    ) -> Result<(), String> {
        let size = disk_size(value)?;
        let count = self
            .layers
            .get(scope)
            .map_or(0, |layer| layer.tables.iter().filter(|table| table.kind == "disk").count());
        // At the top and in a machine: both are disks of the machine.
        let own = if scope == 0 { "data" } else { "disk" };
        let name = match name {
            Some(name) => super::settings::tidy_name(&name, false).chars().take(16).collect::<String>(),
            None => format!("{own}{}", count + 1),
        };
        let entries = vec![
            ("name", Out::Str(name.trim_end_matches('-').to_owned())),
            ("size", size),
            // Vagrant hands out disks as they are.
            ("filesystem", Out::Str("none".into())),
        ];
        self.add(scope, Table { kind: "disk", entries, at });
        Ok(())
    }
}

fn size(mib: i64) -> Out {
    Out::Str(if mib % 1024 == 0 { format!("{}GiB", mib / 1024) } else { format!("{mib}MiB") })
}

/// `20GB`, `20G`, `512 MB` in MiB.
fn mebibytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let number: i64 = number.parse().ok()?;
    match unit.trim().to_ascii_lowercase().as_str() {
        "m" | "mb" | "mib" => Some(number),
        "g" | "gb" | "gib" => number.checked_mul(1024),
        "t" | "tb" | "tib" => number.checked_mul(1024 * 1024),
        _ => None,
    }
}

fn disk_size(value: &Value) -> Result<Out, String> {
    const MOST: i64 = 64 * 1024 * 1024;
    match value {
        // A bare number counts bytes.
        Value::Int(bytes) => match bytes / (1024 * 1024) {
            mib @ 16..=MOST => Ok(size(mib)),
            _ => Err("a disk from 16 MiB to 64 TiB is needed here".into()),
        },
        Value::Text(text) if text.as_plain().is_none() => string(value),
        other => match other.as_word().and_then(mebibytes) {
            Some(mib @ 16..=MOST) => Ok(size(mib)),
            _ => match other {
                Value::Unknown(why) => Err(why.to_string()),
                _ => Err("a disk from 16 MiB to 64 TiB is needed here".into()),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(2048), Out::Str("2GiB".into()));
        assert_eq!(size(1536), Out::Str("1536MiB".into()));
        assert_eq!(mebibytes("20 GB"), Some(20 * 1024));
        for wrong in ["", "GB", "20", "20KB", "99999999999999999999GB", "9223372036854775807GB"] {
            assert_eq!(mebibytes(wrong), None, "{wrong}");
        }
        assert_eq!(disk_size(&Value::Int(20 << 30)), Ok(Out::Str("20GiB".into())));
        assert!(disk_size(&Value::Int(0)).is_err());
    }
}
