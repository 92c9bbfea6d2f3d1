//! `rvm boot`: a bare virtual machine with its serial console on standard input and output.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::app::App;
use super::error::{CliError, Kind};
use super::{DONE, Outcome};
use crate::image::kernel::vmlinux_of;
use crate::model::Code;
use crate::provider::vmm_code;
use crate::vmm::sandbox::{self, Policy};
use crate::vmm::virtio::fs::Feed;
use crate::vmm::{
    self, Backing, Disk, DiskFormat, Exit, Handle, Net, NetBackend, OnReset, Serial, Share, Spec, Transport,
    VhostUser, Vmm,
};

/// Words of `rvm boot`.
#[derive(Debug, Args)]
#[command(after_help = "The machine ends when its guest powers off or resets. On a terminal, Ctrl-A x \
    ends it at once, and Ctrl-A Ctrl-A types a Ctrl-A.")]
pub struct BootArgs {
    /// Kernel: an uncompressed ELF `vmlinux`, or a `vmlinuz`, which is unpacked once and kept
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line; what announces the devices is added
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0", allow_hyphen_values = true)]
    cmdline: String,
    /// Guest memory: MiB, or with a unit, as in 512M or 2G
    #[arg(long, alias = "mem", value_name = "SIZE", default_value = "128M")]
    memory: Memory,
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u8,
    /// Let the guest run virtual machines of its own
    #[arg(long)]
    nested: bool,
    /// Disk image: PATH[,format=raw|qcow2][,backing=PATH][,ro]; may be repeated
    #[arg(long, value_name = "DISK")]
    disk: Vec<DiskWord>,
    /// Network card: tap=NAME, an interface of this host; stream=SOCKET, where passt listens;
    /// vhost-user=SOCKET[,mtu=N], where `passt --vhost-user` does; may be repeated
    #[arg(long, value_name = "NET")]
    net: Vec<NetWord>,
    /// Folder of this host for `mount -t virtiofs TAG PLACE` in the guest: TAG=FOLDER[,ro]; may be repeated
    #[arg(long, value_name = "SHARE")]
    share: Vec<ShareWord>,
    /// How the guest reaches its disks, network cards and folders
    #[arg(long, value_name = "TRANSPORT", value_enum, default_value_t = TransportWord::Pci)]
    transport: TransportWord,
    /// Leave files, rights and system calls open to the hypervisor, as for a debugger
    #[arg(long)]
    no_sandbox: bool,
}

/// A transport as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransportWord {
    /// A PCI bus with MSI-X; the kernel needs `virtio_pci`
    Pci,
    /// Memory-mapped registers; the kernel needs `virtio_mmio`
    Mmio,
}

impl From<TransportWord> for Transport {
    fn from(word: TransportWord) -> Self {
        match word {
            TransportWord::Pci => Self::Pci,
            TransportWord::Mmio => Self::Mmio,
        }
    }
}

/// Guest memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory(u64);

impl FromStr for Memory {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let lower = word.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match lower.strip_prefix(digits) {
            Some("" | "m" | "mb" | "mib") => 20,
            Some("g" | "gb" | "gib") => 30,
            _ => return Err("expected a number of MiB, or one with M or G behind it".into()),
        };
        let number: u64 = digits.parse().map_err(|_| "expected a number, as in 512M or 2G")?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| "more than there can be".into())
    }
}

/// A disk as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DiskWord {
    path: PathBuf,
    format: DiskFormat,
    read_only: bool,
}

impl FromStr for DiskWord {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let mut parts = word.split(',');
        let path = parts.next().filter(|p| !p.is_empty()).ok_or("expected a path first")?;
        let (mut qcow2, mut backing, mut read_only) = (false, None, false);
        for part in parts {
            match part.split_once('=') {
                Some(("format", "raw")) => qcow2 = false,
                Some(("format", "qcow2")) => qcow2 = true,
                Some(("backing", path)) if !path.is_empty() => backing = Some(Backing { path: path.into() }),
                None if part == "ro" => read_only = true,
                _ => return Err(format!("`{part}` is none of format=raw, format=qcow2, backing=PATH, ro")),
            }
        }
        let format = match (qcow2, backing) {
            (true, backing) => DiskFormat::Qcow2 { backing },
            (false, None) => DiskFormat::Raw,
            (false, Some(_)) => return Err("a raw image has no backing file: add format=qcow2".into()),
        };
        Ok(Self { path: path.into(), format, read_only })
    }
}

/// A network card as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NetWord {
    /// The name of a TAP interface.
    Tap(String),
    /// The socket of who carries frames, as passt does.
    Stream(PathBuf),
    /// The socket of a vhost-user back-end, and the MTU that the guest is told.
    VhostUser(PathBuf, Option<u16>),
}

impl FromStr for NetWord {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word.split_once('=') {
            Some(("tap", name)) if !name.is_empty() => Ok(Self::Tap(name.into())),
            Some(("stream", path)) if !path.is_empty() => Ok(Self::Stream(path.into())),
            Some(("vhost-user", rest)) if !rest.is_empty() => {
                let (path, mtu) = match rest.split_once(",mtu=") {
                    Some((path, mtu)) => {
                        (path, Some(mtu.parse().map_err(|_| "expected an MTU up to 65535")?))
                    }
                    None => (rest, None),
                };
                Ok(Self::VhostUser(path.into(), mtu))
            }
            _ => Err("expected tap=NAME, stream=SOCKET or vhost-user=SOCKET[,mtu=N]".into()),
        }
    }
}

impl NetWord {
    fn connect(&self) -> Result<NetBackend, CliError> {
        let to = |path: &Path| {
            UnixStream::connect(path).map_err(|error| {
                let text = format!("cannot connect the network card to {}", path.display());
                CliError::failed(Code::NetworkSetup, text)
                    .because(&error)
                    .hint("`passt --socket SOCKET` listens there, with `--vhost-user` for that kind of card")
            })
        };
        Ok(match self {
            Self::Tap(name) => NetBackend::Tap(name.clone()),
            Self::Stream(path) => NetBackend::Stream(to(path)?.into()),
            Self::VhostUser(path, mtu) => {
                NetBackend::VhostUser(VhostUser { socket: Some(to(path)?), listener: None, mtu: *mtu })
            }
        })
    }
}

/// A shared folder as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ShareWord {
    tag: String,
    source: PathBuf,
    read_only: bool,
}

impl FromStr for ShareWord {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word.split_once('=') {
            Some((tag, rest)) if !tag.is_empty() && !rest.is_empty() => {
                let (source, read_only) = match rest.strip_suffix(",ro") {
                    Some(source) => (source, true),
                    None => (rest, false),
                };
                Ok(Self { tag: tag.into(), source: source.into(), read_only })
            }
            _ => Err("expected TAG=FOLDER or TAG=FOLDER,ro".into()),
        }
    }
}

/// Runs the machine until its guest ends.
pub fn run(app: &App, args: &BootArgs) -> Outcome {
    let failed = |e: vmm::Error| CliError::from_error(Kind::Failed, vmm_code(&e), &e, e.hint());
    let spec = spec(app, args)?;
    let policy = Policy::hypervisor(&spec.shares);
    let vmm = Vmm::new(spec).map_err(failed)?;
    if !args.no_sandbox {
        shut_in(app, &policy)?;
    }
    stop_on_cancel(app, vmm.handle())?;
    match vmm.run().map_err(failed)? {
        Exit::Stopped if app.cancel.is_cancelled() => Err(CliError::interrupted("interrupted")),
        Exit::PowerOff | Exit::Reset | Exit::Stopped => Ok(DONE),
    }
}

/// Everything is open: from here on the process needs no file and no right but those of `policy`.
fn shut_in(app: &App, policy: &Policy) -> Result<(), CliError> {
    let report = sandbox::enter(policy).map_err(|e| {
        CliError::failed(Code::Sandbox, "cannot confine the hypervisor").because(&e).hint("--no-sandbox")
    })?;
    for missing in report.missing() {
        app.ui.warn(&missing);
    }
    Ok(())
}

fn spec(app: &App, args: &BootArgs) -> Result<Spec, CliError> {
    let disks = args.disk.iter().zip(0..).map(|(word, index): (_, u32)| Disk {
        path: word.path.clone(),
        format: word.format.clone(),
        read_only: word.read_only,
        serial: format!("disk{index}"),
    });
    let nets =
        args.net.iter().zip(0..).map(|(word, index)| Ok(Net { mac: mac(index), backend: word.connect()? }));
    let changes = match args.share.is_empty() {
        true => None,
        // Nobody listens; but what is measured is to be what machines have.
        false => Some(Feed::new().map_err(|error| {
            CliError::failed(Code::Host, "cannot tell of changes in shared folders").because(&error)
        })?),
    };
    Ok(Spec {
        cpus: args.cpus,
        nested: args.nested,
        memory: args.memory.0,
        kernel: elf_of(app, &args.kernel)?,
        initrd: args.initrd.clone(),
        cmdline: args.cmdline.clone(),
        disks: disks.collect(),
        nets: nets.collect::<Result<_, CliError>>()?,
        shares: args.share.iter().map(share).collect::<Result<_, CliError>>()?,
        changes,
        transport: args.transport.into(),
        vsock: None,
        serial: Serial::Stdio,
        console: None,
        on_reset: OnReset::Exit,
    })
}

/// The files of the folder seem to belong to the guest's root, who is often its only user.
fn share(word: &ShareWord) -> Result<Share, CliError> {
    let source = word.source.canonicalize().map_err(|error| {
        let text = format!("cannot share {}", word.source.display());
        CliError::failed(Code::FolderOfHost, text)
            .because(&error)
            .hint("it has to be a folder that you may read")
    })?;
    let (tag, read_only) = (word.tag.clone(), word.read_only);
    Ok(Share { tag, source, hidden: Vec::new(), read_only, owner: (0, 0) })
}

/// The kernel itself when it is an ELF file, or cannot be read, which the hypervisor says best;
/// else what is unpacked from it. A store is needed for the latter only.
fn elf_of(app: &App, kernel: &Path) -> Result<PathBuf, CliError> {
    let mut magic = [0; 4];
    match File::open(kernel).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) if magic != *b"\x7fELF" => Ok(vmlinux_of(&app.layout()?, kernel)?),
        _ => Ok(kernel.to_owned()),
    }
}

/// A locally administered address; different in each process, since cards may share a bridge.
fn mac(index: u8) -> [u8; 6] {
    let [high, mid, low, _] = (std::process::id() << 8).to_be_bytes();
    [0x02, b'r', high, mid, low, index]
}

/// Ends the machine when the user wants to stop.
fn stop_on_cancel(app: &App, handle: Handle) -> Result<(), CliError> {
    let cancel = app.cancel.clone();
    sandbox::spawn("stop", move || {
        if cancel.wait(Duration::MAX) {
            // It may have ended by itself, which is as well.
            _ = handle.stop();
        }
    })
    .map_err(|e| CliError::failed(Code::Host, "cannot watch for Ctrl-C").because(&e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_unit_or_is_mib() {
        for (word, mib) in [("128", 128), ("128M", 128), ("512MiB", 512), ("1G", 1024), ("2gib", 2048)] {
            assert_eq!(word.parse(), Ok(Memory(mib << 20)), "{word}");
        }
        for word in
            ["", "M", "lots", "1.5G", "-1", "1T", "12 M", "99999999999999999999", "18446744073709551615G"]
        {
            assert!(word.parse::<Memory>().is_err(), "{word}");
        }
    }

    #[test]
    fn disks_say_their_format() {
        let disk = |word: &str| word.parse::<DiskWord>();
        let raw = DiskWord { path: "a.img".into(), format: DiskFormat::Raw, read_only: false };
        assert_eq!(disk("a.img").unwrap(), raw);
        assert_eq!(disk("a.img,format=raw,ro").unwrap(), DiskWord { read_only: true, ..raw });
        let overlay = disk("b,format=qcow2,backing=base.raw").unwrap();
        let backing = Some(Backing { path: "base.raw".into() });
        assert_eq!(overlay.format, DiskFormat::Qcow2 { backing });
        for word in ["", ",ro", "a,format=vmdk", "a,rw", "a,backing=b", "a,backing="] {
            assert!(disk(word).is_err(), "{word}");
        }
    }

    #[test]
    fn nets_say_where_they_lead() {
        assert_eq!("tap=tap0".parse(), Ok(NetWord::Tap("tap0".into())));
        assert_eq!("stream=/run/p".parse(), Ok(NetWord::Stream("/run/p".into())));
        assert_eq!("vhost-user=p".parse(), Ok(NetWord::VhostUser("p".into(), None)));
        assert_eq!("vhost-user=p,mtu=9000".parse(), Ok(NetWord::VhostUser("p".into(), Some(9000))));
        for word in ["tap0", "tap=", "stream=", "vhost-user=", "vhost-user=p,mtu=65536", "user", ""] {
            assert!(word.parse::<NetWord>().is_err(), "{word}");
        }
    }

    #[test]
    fn folders_have_a_tag() {
        let share = |read_only| ShareWord { tag: "src".into(), source: "/a=b,c".into(), read_only };
        assert_eq!("src=/a=b,c".parse(), Ok(share(false)));
        assert_eq!("src=/a=b,c,ro".parse(), Ok(share(true)));
        for word in ["src", "src=", "=/a", ""] {
            assert!(word.parse::<ShareWord>().is_err(), "{word}");
        }
    }

    #[test]
    fn addresses_are_local_and_unicast() {
        assert_eq!(mac(3)[0] & 0b11, 0b10);
        assert_ne!(mac(0), mac(1));
    }
}
