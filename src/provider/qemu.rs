//! Provider `qemu`: the same [`VmSpec`] on `qemu-system-x86_64 -M microvm`, as a child process
//! that dies with us.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::qmp::Qmp;
use super::{
    CONSOLE_LIMIT, CONSOLE_LOG, CONSOLE_SOCKET, DiskSpec, EndReason, Engine, ImageFormat, ProviderError,
    Running, VmSpec, card_socket, changes, console, share, tsc,
};
use crate::model::mac_text;
use crate::net::relay;
use crate::state::child;
use crate::vmm::sandbox::{Policy, Role};
use crate::vmm::{BoundedLog, control};

/// QEMU, as a child of this process.
pub(super) struct Qemu;

/// The first card's socket moves from standard input to 4, the monitor's from standard output to 3:
/// QEMU takes any number above 2, and nothing else of ours is inherited.
const LAUNCH: &str = r#"exec qemu-system-x86_64 "$@" 4<&0 3>&1 </dev/null >&2"#;

/// What QEMU complains of goes here, in the machine's folder.
const ERROR_LOG: &str = "qemu.log";

/// QEMU's own system call filter, with all that it can forbid: to become another user, to start
/// programs, to change priorities, and calls that nothing needs any more.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Where QEMU's serial port and virtio console connect to, in the machine's folder.
const SERIAL_SOCKET: &str = "serial.sock";
const HVC_SOCKET: &str = "hvc.sock";

struct QemuVm {
    child: Child,
    /// The process that serves the shared folders, and what stands between it and QEMU.
    shares: Option<(Child, share::Relays, changes::Connected)>,
    target: Arc<QemuTarget>,
    /// The serial port, and where what it says goes.
    serial: UnixStream,
    console: BoundedLog,
    /// The virtio console, and who attaches to it.
    hvc: UnixStream,
    attach: UnixListener,
    /// The machine's first card, and where its passt connects.
    nat: UnixStream,
    passt: UnixListener,
    error_log: File,
}

/// What the control socket acts on.
struct QemuTarget {
    qmp: Mutex<Qmp>,
    started: Instant,
    cpus: u8,
    memory: u64,
    stopped: AtomicBool,
}

impl Engine for Qemu {
    fn start(&self, dir: &Path, spec: &VmSpec, net: OwnedFd) -> Result<Box<dyn Running>, ProviderError> {
        if spec.no_nat {
            return Err(ProviderError::NoVsock);
        }
        let file = |action, name: &str| {
            let path = dir.join(name);
            move |source| ProviderError::File { action, path, source }
        };
        let mut options = File::options();
        let error_log = options.read(true).write(true).create(true).truncate(true).open(dir.join(ERROR_LOG));
        let error_log = error_log.map_err(file("create", ERROR_LOG))?;
        let console = BoundedLog::open(&dir.join(CONSOLE_LOG), CONSOLE_LIMIT);
        let console = console.map_err(file("write", CONSOLE_LOG))?;
        // QEMU connects to us, so that each socket exists before the process does.
        let (ours, theirs) = UnixStream::pair().map_err(ProviderError::Spawn)?;
        let (nat, card) = UnixStream::pair().map_err(ProviderError::Spawn)?;
        let serial = listener(dir, SERIAL_SOCKET).map_err(ProviderError::Spawn)?;
        let hvc = listener(dir, HVC_SOCKET).map_err(ProviderError::Spawn)?;
        let attach = listener(dir, CONSOLE_SOCKET).map_err(file("create", CONSOLE_SOCKET))?;
        let shares = match spec.shares.is_empty() {
            true => None,
            false => {
                let relays = share::Relays::listen(dir, &spec.shares).map_err(ProviderError::Spawn)?;
                let changes = changes::Pipe::listen(dir).map_err(ProviderError::Spawn)?;
                let process = share::start(dir, die_with_parent)?;
                Some((process, relays.work().map_err(ProviderError::Spawn)?, changes))
            }
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", LAUNCH, "qemu"])
            .args(arguments(spec))
            .args(sandbox_arguments())
            .current_dir(dir)
            .stdin(Stdio::from(OwnedFd::from(card)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::from(error_log.try_clone().map_err(ProviderError::Spawn)?));
        die_with_parent(&mut command);
        let mut child = command.spawn().map_err(ProviderError::Spawn)?;
        // Drops our copies of the descriptors that the child has now.
        drop(command);
        let connected = Qmp::negotiate(ours).and_then(|qmp| Ok((qmp, serial.accept()?.0, hvc.accept()?.0)));
        let (qmp, serial, hvc) = match connected {
            Ok(all) => all,
            Err(_) => {
                // It may be wrong in its arguments, or stuck: either way it goes, and says why in its log.
                let _ = child.kill();
                let status = child.wait().map_err(ProviderError::Spawn)?;
                return Err(failed(status, &error_log));
            }
        };
        let shares = match shares {
            Some((process, relays, changes)) => {
                let changes = changes.accept().map_err(ProviderError::Spawn)?;
                Some((process, relays.stop().map_err(ProviderError::Spawn)?, changes))
            }
            None => None,
        };
        let target = Arc::new(QemuTarget {
            qmp: Mutex::new(qmp),
            started: Instant::now(),
            cpus: spec.cpus,
            memory: spec.memory,
            stopped: AtomicBool::new(false),
        });
        let passt = UnixListener::from(net);
        Ok(Box::new(QemuVm { child, shares, target, serial, console, hvc, attach, nat, passt, error_log }))
    }
}

/// A listening socket of that name, in place of one that a process left that was killed. QEMU, whose working directory is
/// `dir`, reaches it by the name alone, which keeps it within the 107 bytes of `sun_path`.
pub(super) fn listener(dir: &Path, name: &str) -> io::Result<UnixListener> {
    crate::state::store::remove(&dir.join(name))?;
    control::bind(&dir.join(name))
}

/// QEMU's sandbox, if it was built with one.
fn sandbox_arguments() -> &'static [&'static str] {
    let probe = Command::new("qemu-system-x86_64")
        .args(["-sandbox", SANDBOX, "-accel", "help"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match probe {
        Ok(status) if status.success() => &["-sandbox", SANDBOX],
        _ => &[],
    }
}

/// If this process is killed, its QEMU must not live on unwatched with the disk open.
fn die_with_parent(command: &mut Command) {
    child::ends_with_us(command, rustix::process::Signal::KILL);
}

fn arguments(spec: &VmSpec) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
    // Not `x-option-roms=off`: that means qboot as firmware, and the one of Debian 13 starts no kernel.
    let mut board = "microvm,acpi=on,rtc=on,isa-serial=on".to_owned();
    if !spec.shares.is_empty() {
        // The process that serves them reads requests where they are, and writes what was read from files
        // to where it is wanted.
        let memory = format!("memory-backend-memfd,id=ram,size={}M,share=on", spec.memory >> 20);
        add(&["-object", &memory]);
        board.push_str(",memory-backend=ram");
    }
    add(&["-name", &spec.name, "-M", &board]);
    // A feature taken away that the processor lacks is no error.
    let nesting = if spec.nested { "" } else { ",-svm,-vmx" };
    match spec.accelerated {
        true => add(&["-accel", "kvm", "-cpu", &format!("host{nesting}")]),
        false => add(&["-accel", "tcg,thread=multi", "-cpu", &format!("max{nesting}")]),
    }
    add(&["-nodefaults", "-no-user-config", "-display", "none"]);
    add(&["-smp", &spec.cpus.to_string(), "-m", &format!("{}M", spec.memory >> 20)]);
    add(&["-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control"]);
    add(&["-chardev", &format!("socket,id=serial,path={SERIAL_SOCKET}"), "-serial", "chardev:serial"]);
    add(&["-chardev", &format!("socket,id=hvc,path={HVC_SOCKET}")]);
    add(&["-kernel", &spec.kernel.to_string_lossy()]);
    if let Some(initrd) = &spec.initrd {
        add(&["-initrd", &initrd.to_string_lossy()]);
    }
    // microvm has neither i8042 nor a PCI reset: a triple fault is what resets it.
    let clock = match spec.accelerated {
        true => None,
        false => tsc::khz().map(|khz| format!(" tsc_early_khz={khz}")),
    };
    add(&["-append", &format!("{} reboot=t{}", spec.cmdline, clock.unwrap_or_default())]);
    // No bus is named: QEMU fills its virtio-mmio transports in the order in which its ACPI
    // tables list them, which is the order in which Linux names the disks.
    for (n, disk) in spec.disks.iter().enumerate() {
        let device = format!("virtio-blk-device,drive=d{n},serial={}", disk.serial);
        add(&["-blockdev", &blockdev(n, disk), "-device", &device]);
    }
    add(&["-netdev", "stream,id=n,server=off,addr.type=fd,addr.str=4"]);
    let mac = mac_text(&spec.mac);
    add(&["-device", &format!("virtio-net-device,netdev=n,mac={mac}")]);
    for (place, mac) in spec.cards.iter().enumerate() {
        let path = card_socket(place);
        let netdev = format!("stream,id=n{place},server=on,addr.type=unix,addr.path={path}");
        let mac = mac_text(mac);
        add(&["-netdev", &netdev, "-device", &format!("virtio-net-device,netdev=n{place},mac={mac}")]);
    }
    for (place, tap) in spec.taps.iter().enumerate() {
        let netdev = format!("tap,id=t{place},ifname={},script=no,downscript=no", tap.interface);
        let device = format!("virtio-net-device,netdev=t{place},mac={}", mac_text(&tap.mac));
        add(&["-netdev", &netdev, "-device", &device]);
    }
    add(&["-device", "virtio-rng-device"]);
    add(&["-device", "virtio-serial-device", "-device", "virtconsole,chardev=hvc"]);
    if !spec.shares.is_empty() {
        add(&changes::arguments().each_ref().map(String::as_str));
    }
    for (place, share) in spec.shares.iter().enumerate() {
        let (path, tag) = (share::socket(place), share.tag.replace(',', ",,"));
        let device = format!("vhost-user-fs-device,chardev=share{place},queue-size=1024,tag={tag}");
        add(&["-chardev", &format!("socket,id=share{place},path={path}"), "-device", &device]);
    }
    // Memory that the guest freed goes back to the host.
    add(&["-device", "virtio-balloon-device,free-page-reporting=on"]);
    args
}

/// A JSON `-blockdev` argument: names with commas or equal signs need no quoting there. What the guest
/// discards goes back to the host, which QEMU does not do unless it is said.
fn blockdev(n: usize, disk: &DiskSpec) -> String {
    let file = |path: &Path, read_only: bool| {
        serde_json::json!({
            "driver": "file", "filename": path.to_string_lossy(), "read-only": read_only,
            "discard": "unmap",
        })
    };
    let node = format!("d{n}");
    let value = match disk.format {
        ImageFormat::Raw => serde_json::json!({
            "node-name": node, "driver": "raw", "read-only": disk.read_only, "discard": "unmap",
            "file": file(&disk.path, disk.read_only),
        }),
        ImageFormat::Qcow2 => serde_json::json!({
            "node-name": node, "driver": "qcow2", "read-only": disk.read_only, "discard": "unmap",
            "file": file(&disk.path, disk.read_only),
            "backing": disk.backing.as_ref().map(|backing| serde_json::json!({
                "driver": "raw", "read-only": true, "file": file(backing, true),
            })),
        }),
    };
    value.to_string()
}

/// Bytes at the end of QEMU's complaints that are shown.
const TAIL: usize = 4096;

/// What a QEMU that ended by itself had to say.
fn failed(status: ExitStatus, log: &File) -> ProviderError {
    let mut tail = [0; TAIL];
    let start = log.metadata().map_or(0, |meta| meta.len().saturating_sub(TAIL as u64));
    let count = log.read_at(&mut tail, start).unwrap_or(0);
    let text = String::from_utf8_lossy(tail.get(..count).unwrap_or_default());
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    let text = lines.into_iter().rev().collect::<Vec<_>>().join("; ");
    let status = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    };
    ProviderError::Qemu { status, text: if text.is_empty() { "(it said nothing)".into() } else { text } }
}

impl Running for QemuVm {
    fn policy(&self) -> Policy {
        Policy { role: Role::Supervisor, largest_file: Some(0), ..Policy::default() }
    }

    fn target(&self) -> Arc<dyn control::Target> {
        self.target.clone()
    }

    fn wait(self: Box<Self>) -> Result<EndReason, ProviderError> {
        let Self { mut child, shares, target, serial, console, hvc, attach, nat, passt, error_log } = *self;
        let console = console::pump(serial, console).map_err(ProviderError::Spawn)?;
        console::serve(hvc, attach).map_err(ProviderError::Spawn)?;
        relay::start(nat.into(), passt).map_err(ProviderError::Spawn)?;
        if let Some((process, relays, changes)) = shares {
            relays.keep_working().map_err(ProviderError::Spawn)?;
            changes.start().map_err(ProviderError::Spawn)?;
            share::watch(process).map_err(ProviderError::Spawn)?;
        }
        let status = child.wait().map_err(ProviderError::Spawn)?;
        // The console's writer ended with QEMU: all it wrote is in the log before we say it ended.
        let _ = console.join();
        match (target.stopped.load(Ordering::SeqCst), status.success()) {
            (true, _) => Ok(EndReason::Stopped),
            (false, true) => Ok(EndReason::Poweroff),
            (false, false) => Err(failed(status, &error_log)),
        }
    }
}

impl QemuTarget {
    fn execute(&self, command: &str) -> io::Result<()> {
        self.qmp.lock().unwrap_or_else(|e| e.into_inner()).execute(command).map(drop)
    }
}

impl control::Target for QemuTarget {
    fn status(&self) -> control::Status {
        control::Status {
            state: match self.stopped.load(Ordering::SeqCst) {
                true => control::State::Stopping,
                false => control::State::Running,
            },
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            cpus: self.cpus,
            memory: self.memory,
        }
    }

    fn power_button(&self) -> io::Result<()> {
        self.execute("system_powerdown")
    }

    fn stop(&self) -> io::Result<()> {
        self.stopped.store(true, Ordering::SeqCst);
        self.execute("quit")
    }

    fn usage(&self) -> io::Result<control::Usage> {
        let mut qmp = self.qmp.lock().unwrap_or_else(|e| e.into_inner());
        let disks = qmp.execute("query-blockstats")?;
        let sum = |name: &str| {
            let stats = disks.as_array()?.iter().map(|disk| disk["stats"][name].as_u64());
            stats.sum::<Option<u64>>()
        };
        let traffic = control::Traffic {
            disk_read: sum("rd_bytes"),
            disk_written: sum("wr_bytes"),
            // QEMU does not count what a network card carries.
            ..control::Traffic::default()
        };
        Ok(control::Usage { memory: self.memory, traffic: Some(traffic), ..control::Usage::default() })
    }

    fn set_balloon(&self, _bytes: u64) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "provider `qemu` sets no balloon"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ProviderKind;

    fn spec() -> VmSpec {
        let disk = DiskSpec {
            path: "/store/a,b=c.qcow2".into(),
            format: ImageFormat::Qcow2,
            backing: Some("/store/root.ext4".into()),
            read_only: false,
            serial: "root".into(),
        };
        VmSpec {
            name: "web".into(),
            provider: ProviderKind::Qemu,
            accelerated: false,
            cpus: 2,
            nested: false,
            memory: 512 << 20,
            kernel: "/k/vmlinux".into(),
            initrd: None,
            cmdline: "console=ttyS0".into(),
            disks: vec![disk],
            no_nat: false,
            mac: [2, 1, 2, 3, 4, 5],
            vhost_user: false,
            cards: vec![],
            taps: vec![],
            shares: vec![],
        }
    }

    #[test]
    fn formats_are_said_and_odd_paths_survive() {
        let args = arguments(&spec());
        let blockdev = args.iter().find(|a| a.contains("node-name")).unwrap();
        let value: serde_json::Value = serde_json::from_str(blockdev).unwrap();
        assert_eq!(value["file"]["filename"], "/store/a,b=c.qcow2");
        assert_eq!(value["backing"]["driver"], "raw");
        assert_eq!((&value["discard"], &value["file"]["discard"]), (&"unmap".into(), &"unmap".into()));
        assert!(args.iter().any(|a| a == "512M"));
        assert!(args.iter().any(|a| a.contains("mac=02:01:02:03:04:05")));
    }

    #[test]
    fn software_emulation_unless_kvm_is_good() {
        assert!(arguments(&spec()).iter().any(|a| a.starts_with("tcg")));
        let fast = VmSpec { accelerated: true, ..spec() };
        assert!(arguments(&fast).iter().any(|a| a == "kvm"));
    }
}
