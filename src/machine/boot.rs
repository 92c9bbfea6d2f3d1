//! From a made machine to one that answers SSH.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::bridges::seed_cards;
use super::disks::seed_disks;
use super::nat::{nat_socket, vhost_user};
use super::networks::seed_networks;
use super::record::Record;
use super::{MachineError, Machines, follow, forwards};
use super::{console, diagnose, way_in};
use crate::image::{self, HostKey, Kernel, Seed};
use crate::model::{Login, Machine, Nat, Phase, Project, ProviderKind, Secret};
use crate::net::{self, NatAddresses, Seat};
use crate::plan::LoginMark;
use crate::provider::{self, DiskSpec, ImageFormat, VmSpec};
use crate::provision::Stamps;
use crate::ssh::{self, Session, SshError, Target, WaitError};
use crate::vmm::probe::{self, Probe};

/// Disk of a machine, in its folder.
pub(super) const DISK: &str = "disk.qcow2";
/// Seed disk, in its folder.
const SEED: &str = "seed.iso";
/// The machine's own login key.
pub(super) const LOGIN_KEY: &str = "id_ed25519";
/// The guest's host key, made by us.
pub(super) const HOST_KEY: &str = "ssh_host_ed25519_key";
/// known_hosts file for the system's ssh.
pub(super) const KNOWN_HOSTS: &str = "known_hosts";

/// What this host's KVM can do: found out once a command, and by one machine at a time, because
/// others at work would be in its times.
static PROBE: OnceLock<Probe> = OnceLock::new();

/// What both providers' kernels get. `panic=1`: a guest that panics resets instead of hanging.
/// `random.trust_cpu`: no wait for entropy before sshd can make keys.
const CMDLINE: &str = "console=ttyS0 panic=1 quiet random.trust_cpu=on";

/// How much of the console is shown when a guest does not come up.
const CONSOLE_LINES: usize = 12;

/// So long after its start a guest that can say that it is up gets to do so, before it is tried whether
/// SSH answers: a user may have removed what would say it.
const UP_PATIENCE: Duration = Duration::from_secs(30);

impl Machines<'_> {
    /// Starts a stopped machine with what the file says now; the record is saved before it runs.
    pub(super) fn start(
        &self,
        project: &Project,
        machine: &Machine,
        record: &mut Record,
        forced: Option<ProviderKind>,
        kernel: &Kernel,
    ) -> Result<(), MachineError> {
        let dir = self.layout.machine(&record.id);
        let choice = self.choose_provider(machine, record, forced)?;
        way_in::check_provider(machine, choice.kind)?;
        way_in::check_box(machine, record.image.as_ref())?;
        let extra = self.extra_disks(machine, record, &dir)?;
        let shares = self.shares(machine, record, choice.kind)?;
        let seats = self.take_seats(project, machine, record)?;
        let taps = self.taps(machine, record)?;
        let private: Vec<IpNet> = seats.iter().flat_map(|seat| seat.spec.subnets.clone()).collect();
        let addresses = NatAddresses::choose(&private);
        self.write_seed(project, machine, record, &seats, &addresses)?;
        // Of the machine's last life, where who did it was killed.
        forwards::end_all(&dir)
            .and_then(|()| follow::end(&dir))
            .map_err(|e| MachineError::file("end forwards of", &dir, e))?;
        let vhost_user = vhost_user(machine, choice.kind)?;
        let networks = seats.iter().map(|seat| self.layout.networks().join(&seat.network)).collect();
        let (listener, ports, waiting) = match machine.nat {
            Nat::None => {
                let way = self.open_way_in(machine, &addresses, networks, &dir)?;
                (way.listener, vec![way.ssh], way.waiting)
            }
            Nat::Open | Nat::NoHost | Nat::Closed => {
                let listener = nat_socket(&dir)?;
                let (ports, waiting) = self.open_ports(machine, &addresses, vhost_user, networks, &dir)?;
                (listener.into(), ports, waiting)
            }
        };
        let _watch = self.time(&machine.name, Phase::Vmm);
        let mut ports = ports.into_iter();
        let ssh = ports.next().map(|f| SocketAddr::new(provider::reachable(f.host_ip), f.host));
        record.applied = record.applied.after_start(machine);
        record.provider = Some(choice.kind);
        record.ssh = ssh;
        record.ports = ports.collect();
        record.nat = Some(addresses);
        record.vhost_user = vhost_user;
        record.user = project.login_for(&machine.name).user;
        record.identity = identity(&project.login_for(&machine.name), &dir);
        record.login = Some(login_mark(&project.login_for(&machine.name), &Stamps::load(&dir)?));
        record.started = true;
        self.tell_ports(&machine.name, &machine.ports, &record.ports);
        self.write_known_hosts(record, &dir)?;
        self.save(record)?;
        let mut spec = VmSpec {
            name: machine.name.clone(),
            provider: choice.kind,
            accelerated: choice.accelerated,
            cpus: machine.cpus,
            nested: machine.nested,
            memory: machine.memory,
            kernel: kernel.vmlinux.clone(),
            initrd: kernel.initrd.clone(),
            cmdline: format!("{CMDLINE} {}", kernel.cmdline).trim_end().to_owned(),
            disks: vec![
                DiskSpec {
                    path: dir.join(DISK),
                    format: ImageFormat::Qcow2,
                    backing: record.image.as_ref().map(|image| image.root_disk.clone()),
                    read_only: false,
                    serial: "root".into(),
                },
                DiskSpec {
                    path: dir.join(SEED),
                    format: ImageFormat::Raw,
                    backing: None,
                    read_only: true,
                    serial: "seed".into(),
                },
            ],
            mac: provider::mac_of(&record.id),
            no_nat: machine.nat == Nat::None,
            vhost_user,
            cards: seats.iter().map(|seat| seat.member.mac).collect(),
            taps,
            shares,
        };
        spec.disks.extend(extra);
        console::rotate(&dir);
        provider::start(&self.exe, &self.path, &dir, &spec, listener)?;
        self.connect_seats(project, machine, &seats)?;
        drop(waiting);
        Ok(())
    }

    fn choose_provider(
        &self,
        machine: &Machine,
        record: &Record,
        forced: Option<ProviderKind>,
    ) -> Result<provider::Choice, MachineError> {
        let _watch = self.time(&machine.name, Phase::Probe);
        let choice = self.provider_for(forced.or(machine.provider), record.provider)?;
        if let Some(note) = &choice.note {
            self.detail(&machine.name, note.clone());
        }
        Ok(choice)
    }

    /// What can run a machine here: the provider that is `forced`; else the one that ran it `before`,
    /// where it still can; else the user's default; else the best.
    pub(super) fn provider_for(
        &self,
        forced: Option<ProviderKind>,
        before: Option<ProviderKind>,
    ) -> Result<provider::Choice, MachineError> {
        let probe = PROBE.get_or_init(probe::probe);
        let qemu = provider::qemu_binary(&self.path).is_some();
        let choose = |kind| provider::choose(kind, probe, qemu);
        Ok(match (forced, before) {
            (Some(kind), _) => choose(Some(kind))?,
            (None, Some(kind)) => choose(Some(kind)).or_else(|_| choose(self.default_provider))?,
            (None, None) => choose(self.default_provider)?,
        })
    }

    fn write_seed(
        &self,
        project: &Project,
        machine: &Machine,
        record: &Record,
        seats: &[Seat],
        addresses: &NatAddresses,
    ) -> Result<(), MachineError> {
        let dir = self.layout.machine(&record.id);
        let _watch = self.time(&machine.name, Phase::Seed);
        image::check_overlay(&dir.join(DISK))?;
        let mut authorized_keys = vec![ssh::keys::public_line_of(&dir.join(LOGIN_KEY))?];
        if let Some(key) = &project.login.key {
            authorized_keys.push(ssh::keys::public_line_of(key)?);
        }
        // The private host key travels once; afterwards the guest has it and the seed need not.
        let host_key = match record.reached {
            true => None,
            false => Some(HostKey {
                private_openssh: Secret::new(read(&dir.join(HOST_KEY))?),
                public_openssh: ssh::keys::public_line_of(&dir.join(HOST_KEY))?,
            }),
        };
        let password_hash = match &project.login.password {
            Some(password) => Some(image::hash_password(password)?),
            None => None,
        };
        let seed = Seed {
            instance_id: record.id.clone(),
            hostname: machine.hostname.clone(),
            user: project.login_for(&machine.name).user,
            authorized_keys,
            password_hash,
            host_key,
            disks: seed_disks(&machine.disks),
            hosts: match machine.nat {
                Nat::Open => vec![(addresses.gateway.into(), net::HOST_NAME.into())],
                Nat::NoHost | Nat::Closed | Nat::None => Vec::new(),
            },
            mac: (machine.nat != Nat::None).then(|| provider::mac_of(&record.id)),
            networks: [seed_networks(project, machine, seats), seed_cards(machine, &record.id)].concat(),
        };
        Ok(image::write_seed(&dir.join(SEED), &seed)?)
    }

    fn write_known_hosts(&self, record: &Record, dir: &Path) -> Result<(), MachineError> {
        let Some(addr) = record.ssh else { return Ok(()) };
        let public = ssh::keys::public_line_of(&dir.join(HOST_KEY))?;
        let line = ssh::known_hosts_line(addr.ip(), addr.port(), &public);
        let path = dir.join(KNOWN_HOSTS);
        crate::state::store::write(&path, line.as_bytes()).map_err(|e| MachineError::file("write", &path, e))
    }

    /// How to reach the guest of a started machine.
    pub(super) fn target(&self, login: &Login, record: &Record) -> Result<Target, MachineError> {
        let dir = self.layout.machine(&record.id);
        let addr = record.ssh.ok_or_else(|| MachineError::NotRunning(record.name.clone()))?;
        // What the ENV file gives is what is used: a wrong password must not be hidden by a good key.
        let keys = match (&login.key, &login.password) {
            (Some(key), _) => vec![key.clone()],
            (None, Some(_)) => Vec::new(),
            (None, None) => vec![dir.join(LOGIN_KEY)],
        };
        Ok(Target {
            addr,
            user: login.user.clone(),
            password: login.password.clone(),
            keys,
            host_key: ssh::keys::public_line_of(&dir.join(HOST_KEY))?,
        })
    }

    /// Waits until the guest of a running machine lets us in. `seen` hears how far it is.
    pub(super) fn wait_ssh(
        &self,
        login: &Login,
        record: &mut Record,
        timeout: Duration,
        seen: &mut dyn FnMut(ssh::BootStage),
    ) -> Result<Session, MachineError> {
        let target = self.target(login, record)?;
        match self.connect_when_up(&target, record, timeout, seen) {
            Ok(session) => {
                if !record.reached {
                    record.reached = true;
                    self.save(record)?;
                }
                Ok(session)
            }
            Err(WaitError::Ssh(SshError::Cancelled)) => Err(MachineError::Interrupted(format!(
                "machine `{0}` goes on booting: `rvm up {0}` waits for it again, `rvm halt {0}` stops it",
                record.name
            ))),
            Err(error) => Err(self.boot_error(record, timeout, &error)),
        }
    }

    /// Connects to a running machine, as soon as its guest lets us in.
    pub(super) fn connect_when_up(
        &self,
        target: &Target,
        record: &Record,
        timeout: Duration,
        seen: &mut dyn FnMut(ssh::BootStage),
    ) -> Result<Session, WaitError> {
        let dir = self.layout.machine(&record.id);
        let mut alive = || matches!(provider::live(&dir), Ok(Some(_)) | Err(_));
        let mut on_stage = |stage: ssh::BootStage| {
            tracing::debug!(machine = %record.name, ?stage, "boot");
            seen(stage);
        };
        let deadline = Instant::now() + timeout;
        let speaks = record.image.as_ref().is_some_and(|image| image.agent);
        if speaks && record.provider == Some(ProviderKind::Kvm) {
            // Only when to try: who is let in is decided by the host key.
            let up = provider::wait_up(&dir, UP_PATIENCE.min(timeout), &self.cancel);
            tracing::debug!(machine = %record.name, up, "guest's word");
        }
        ssh::wait_ready(target, deadline, &mut alive, &mut on_stage, &self.cancel)
    }

    pub(super) fn boot_error(&self, record: &Record, timeout: Duration, error: &WaitError) -> MachineError {
        let dir = &self.layout.machine(&record.id);
        let name = record.name.clone();
        let ended = provider::ended(dir).ok().flatten().and_then(|e| e.message);
        let what = match (error, ended) {
            (WaitError::VmEnded { .. }, Some(message)) => format!("its virtual machine ended: {message}"),
            (WaitError::VmEnded { .. }, None) => "its virtual machine ended before SSH answered".into(),
            (WaitError::TimedOut { .. }, _) => format!("{error} (boot_timeout is {} s)", timeout.as_secs()),
            _ => error.to_string(),
        };
        let hint = match error {
            WaitError::Ssh(error) => error.hint(),
            _ => None,
        };
        let lines = console::tail(dir, usize::MAX);
        let diagnosis = diagnose::judge(error, &lines);
        let cause = diagnosis.cause;
        let hint = hint.unwrap_or_else(|| cause.next(&name));
        let mut console = format!("\nLikely cause: {cause}");
        if let Some(line) = diagnosis.line {
            console.push_str(&format!(": \"{line}\""));
        }
        let tail = lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default();
        match tail.is_empty() {
            true => console.push_str("\nThe console is empty: the kernel said nothing."),
            false => {
                console.push_str(&format!("\nLast lines of its console:\n  | {}", tail.join("\n  | ")));
            }
        }
        MachineError::Boot { name, what, console, cause, hint }
    }
}

/// What is kept of a login to see later that it changed.
pub(super) fn login_mark(login: &Login, stamps: &Stamps) -> LoginMark {
    let digest = |password: &Secret| stamps.digest(|hash| hash.field(password.expose().as_bytes()));
    LoginMark {
        user: login.user.clone(),
        key: login.key.clone(),
        password: login.password.as_ref().map(|password| digest(password).as_str().to_owned()),
    }
}

/// The private key that the system's ssh is told to use.
fn identity(login: &Login, dir: &Path) -> Option<PathBuf> {
    Some(login.key.clone().unwrap_or_else(|| dir.join(LOGIN_KEY)))
}

fn read(path: &Path) -> Result<String, MachineError> {
    std::fs::read_to_string(path).map_err(|e| MachineError::file("read", path, e))
}
