//! The keys of a machine as they stand in one table, and how tables are laid over each other.

use std::time::Duration;

use crate::model::{Forward, KernelChoice, Nat, NatBackend, Probe, ProviderKind};

use super::disks::Disks;
use super::folders::Folders;
use super::keys::Place;
use super::machines::{is_box_name, is_label};
use super::report::brief;
use super::ssh::RawSsh;
use super::steps::RawStep;
use super::vars::Text;
use super::walk::{Reader, Sp, Table};

const PROVIDERS: [(&str, ProviderKind); 2] = [("kvm", ProviderKind::Kvm), ("qemu", ProviderKind::Qemu)];
const NATS: [(&str, Nat); 4] =
    [("open", Nat::Open), ("no-host", Nat::NoHost), ("closed", Nat::Closed), ("none", Nat::None)];
const NAT_BACKENDS: [(&str, NatBackend); 3] =
    [("auto", NatBackend::Auto), ("stream", NatBackend::Stream), ("vhost-user", NatBackend::VhostUser)];
const KERNELS: [(&str, KernelChoice); 2] = [("stock", KernelChoice::Stock), ("fast", KernelChoice::Fast)];

/// The keys of one machine as they stand; at the top of the file, those of all.
#[derive(Clone, Default)]
pub(super) struct Layer {
    pub box_name: Option<Sp<String>>,
    pub cpus: Option<u8>,
    pub nested: Option<bool>,
    pub memory: Option<u64>,
    pub disks: Disks,
    pub folders: Folders,
    pub hostname: Option<Sp<String>>,
    pub provider: Option<ProviderKind>,
    pub kernel: Option<KernelChoice>,
    pub boot_timeout: Option<Duration>,
    pub halt_timeout: Option<Duration>,
    pub groups: Vec<Sp<Text>>,
    pub autostart: Option<bool>,
    pub message: Option<String>,
    pub ssh: RawSsh,
    pub ports: Vec<Sp<Forward>>,
    pub auto_forward: Option<bool>,
    pub nat: Option<Sp<Nat>>,
    pub nat_backend: Option<Sp<NatBackend>>,
    pub probes: Vec<Probe>,
    pub steps: Vec<RawStep>,
}

/// Layers from the outermost to the innermost.
pub(super) struct Stack<'l>(pub Vec<&'l Layer>);

impl<'l> Stack<'l> {
    /// The innermost value of a key.
    pub fn pick<T>(&self, get: impl Fn(&'l Layer) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|layer| get(layer))
    }

    /// All entries of a list, outer ones first.
    pub fn all<'s, T: 'l>(
        &'s self,
        get: impl Fn(&'l Layer) -> &'l [T] + Clone + 's,
    ) -> impl Iterator<Item = &'l T> + Clone + 's {
        self.0.iter().flat_map(move |layer| get(layer))
    }
}

impl Reader<'_> {
    /// What a table says of a machine.
    pub fn layer(&mut self, table: &Table<'_>) -> Layer {
        Layer {
            box_name: self.box_name(table),
            cpus: self.cpus(table),
            nested: self.boolean(table, "nested"),
            memory: self.memory(table),
            disks: self.disks(table),
            folders: self.folders(table),
            hostname: self.hostname(table),
            provider: self.choice(table, "provider", &PROVIDERS).map(|choice| choice.value),
            kernel: self.choice(table, "kernel", &KERNELS).map(|choice| choice.value),
            boot_timeout: self.time(table, "boot_timeout").map(|time| time.value),
            halt_timeout: self.time(table, "halt_timeout").map(|time| time.value),
            groups: self.groups(table),
            autostart: self.boolean(table, "autostart"),
            message: self.message(table),
            ssh: self.ssh(table),
            ports: {
                let tables = self.tables(table, "port", Place::Port);
                tables.iter().flat_map(|port| self.ports(port)).collect()
            },
            auto_forward: self.boolean(table, "auto_forward"),
            nat: self.choice(table, "nat", &NATS),
            nat_backend: self.choice(table, "nat_backend", &NAT_BACKENDS),
            probes: self.probes(table),
            steps: {
                let tables = self.tables(table, "provision", Place::Step);
                tables.iter().filter_map(|step| self.step(step)).collect()
            },
        }
    }

    fn box_name(&mut self, table: &Table<'_>) -> Option<Sp<String>> {
        let name = self.text(table, "box", "\"debian/13\"")?;
        if !is_box_name(&name.value.value) {
            let message = format!("{:?} is not the name of a box", brief(&name.value.shown));
            let help = "write a name such as \"debian/13\", \"debian/12\" or \"micro\"";
            self.wrong(&name.span, message, help);
            return None;
        }
        Some(name.map(|text| text.value))
    }

    fn hostname(&mut self, table: &Table<'_>) -> Option<Sp<String>> {
        const LONGEST: usize = 253;
        let name = self.text(table, "hostname", "\"web.example\"")?;
        let text = name.value.value.as_str();
        if text.len() > LONGEST || !text.split('.').all(is_label) {
            let message = format!("{:?} is not a host name", brief(&name.value.shown));
            let help = "use a to z, 0 to 9 and `-` in parts with dots between, such as \"web.example\"";
            self.wrong(&name.span, message, help);
            return None;
        }
        Some(name.map(|text| text.value))
    }

    fn message(&mut self, table: &Table<'_>) -> Option<String> {
        let message = self.text(table, "message", "\"the shop is at http://127.0.0.1:8080\"")?;
        if message.value.value.contains('\0') {
            self.wrong(&message.span, "the message holds a NUL character", "remove it");
            return None;
        }
        Some(message.value.value)
    }
}
