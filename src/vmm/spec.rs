//! What a virtual machine is made of.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::memory::Sharing;
use super::virtio::fs::Feed;

/// Everything the hypervisor needs to know before it starts.
#[derive(Debug)]
pub struct Spec {
    /// Virtual CPUs, 1 to 64.
    pub cpus: u8,
    /// Let the guest run virtual machines of its own.
    pub nested: bool,
    /// Guest memory in bytes, a multiple of 1 MiB, 16 MiB to 1 TiB, less where the processors address less.
    pub memory: u64,
    /// An uncompressed 64-bit ELF kernel.
    pub kernel: PathBuf,
    /// Initial RAM disk, as the kernel takes it.
    pub initrd: Option<PathBuf>,
    /// Kernel command line; the hypervisor appends what announces its devices.
    pub cmdline: String,
    /// Disks in order: the first is `/dev/vda`.
    pub disks: Vec<Disk>,
    /// Network cards in order.
    pub nets: Vec<Net>,
    /// Folders of the host that the guest may mount.
    pub shares: Vec<Share>,
    /// Who is told of what the host changes in them, if anybody is.
    pub changes: Option<Feed>,
    /// How the guest reaches its virtio devices.
    pub transport: Transport,
    /// Sockets between guest and host, if there are to be any.
    pub vsock: Option<Vsock>,
    /// Where the first serial port (0x3f8) leads.
    pub serial: Serial,
    /// Where people attach to the virtio console; without it there is none.
    pub console: Option<UnixListener>,
    /// What a reset by the guest does.
    pub on_reset: OnReset,
}

impl Spec {
    /// Whether guest memory is to be mapped by another process.
    pub(super) fn sharing(&self) -> Sharing {
        let elsewhere = |net: &Net| matches!(net.backend, NetBackend::VhostUser(_));
        if self.nets.iter().any(elsewhere) { Sharing::Shared } else { Sharing::Private }
    }
}

/// How the guest reaches its virtio devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// PCI functions with MSI-X: an interrupt costs the guest no exit. The kernel needs `virtio_pci`.
    #[default]
    Pci,
    /// Memory-mapped registers that ACPI and the kernel command line announce, and no PCI bus. The
    /// kernel needs `virtio_mmio`; each interrupt costs it two accesses to registers.
    Mmio,
}

/// A disk image. Its format is always said, never guessed: a guest could write a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// What it is.
    pub format: DiskFormat,
    /// Refuse writes.
    pub read_only: bool,
    /// What the guest sees as the disk's serial, at most 20 bytes of ASCII.
    pub serial: String,
}

/// Format of a disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskFormat {
    /// Bytes as they are.
    Raw,
    /// qcow2; a backing file only if it is the one named here (what the header says is ignored).
    Qcow2 {
        /// Where clusters that the image lacks are read from.
        backing: Option<Backing>,
    },
}

/// A raw, read-only backing file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The image.
    pub path: PathBuf,
}

/// A network card.
#[derive(Debug)]
pub struct Net {
    /// Ethernet address; locally administered, unicast.
    pub mac: [u8; 6],
    /// Where its frames go.
    pub backend: NetBackend,
}

/// Where frames go.
#[derive(Debug)]
pub enum NetBackend {
    /// A connected UNIX stream socket that carries frames behind a 4-byte big-endian length:
    /// what passt and QEMU's `-netdev stream` speak.
    Stream(OwnedFd),
    /// An existing TAP interface of the host, by name.
    Tap(String),
    /// A socket at which a process of this host that makes frames itself, as passt does, connects, once or
    /// again and again. The form is that of a stream, and the guest is told that checksums are right.
    Listen(UnixListener),
    /// The same for a process that carries the frames of others, as the switch of a private network does: the
    /// guest is told nothing of their checksums.
    Neighbours(UnixListener),
    /// A process that works on the queues in guest memory by itself; that memory becomes shared for it.
    VhostUser(VhostUser),
}

/// How a vhost-user back-end is reached. There has to be one when the machine is put together.
#[derive(Debug, Default)]
pub struct VhostUser {
    /// A UNIX stream socket that is connected to it.
    pub socket: Option<UnixStream>,
    /// Where it connects, if there is no such socket, and where another one does when it is gone.
    pub listener: Option<UnixListener>,
    /// What the guest is told to use as its MTU, 68 to 65535; without it chooses itself.
    pub mtu: Option<u16>,
}

/// A folder of the host that the guest may mount (virtio-fs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// By which the guest finds it: 1 to 36 bytes.
    pub tag: String,
    /// The folder. Nothing outside it can be reached through it.
    pub source: PathBuf,
    /// Paths relative to it at which the guest finds nothing, and can put nothing.
    pub hidden: Vec<PathBuf>,
    /// Refuse whatever would change it.
    pub read_only: bool,
    /// User and group whose the files of this process's user seem to be in the guest.
    pub owner: (u32, u32),
}

/// Sockets between guest and host (virtio-vsock). They are this process's own, so any number of machines
/// may have the same context identifier.
#[derive(Debug)]
pub struct Vsock {
    /// The guest's context identifier, 3 to 2^32 - 2.
    pub cid: u32,
    /// Ports of the host (context identifier 2) that the guest can connect to; there are no others.
    pub ports: Vec<VsockPort>,
    /// A listening UNIX stream socket for the host's programs: who connects there, writes
    /// `CONNECT <port>\n` and reads `OK <port>\n` is connected to that port of the guest.
    pub listener: Option<OwnedFd>,
    /// Listening stream sockets, TCP ones too: who connects to one is connected to a port of the guest.
    pub forwards: Vec<VsockForward>,
}

/// A socket of the host that leads to a port of the guest.
#[derive(Debug)]
pub struct VsockForward {
    /// A listening stream socket.
    pub listener: OwnedFd,
    /// The guest's port.
    pub guest_port: u32,
}

/// A port of the host.
#[derive(Debug)]
pub struct VsockPort {
    /// Its number.
    pub port: u32,
    /// What answers there.
    pub service: Box<dyn VsockService>,
}

/// What answers on a port of the host. It is called on the device's thread, so it must not block, and
/// it opens nothing by path: the machine may be confined by then.
pub trait VsockService: fmt::Debug + Send {
    /// The host's end of a new connection, a connected stream socket. `guest_port` is where the guest
    /// comes from; in Linux only root has those below 1024.
    ///
    /// # Errors
    /// Any error refuses the connection.
    fn connect(&mut self, guest_port: u32) -> io::Result<OwnedFd>;
}

/// Where the serial port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serial {
    /// Output is appended to a file that never holds more than `limit` bytes: when full, it
    /// becomes `PATH.1` and a new one begins.
    Log {
        /// The file.
        path: PathBuf,
        /// In bytes.
        limit: u64,
    },
    /// Standard input and output of this process.
    Stdio,
}

/// What a reset by the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReset {
    /// Boot again, with the same kernel and devices.
    Restart,
    /// End, as if it had been switched off.
    Exit,
}

/// Why a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself (i8042, triple fault) and [`OnReset::Exit`] was asked for.
    Reset,
    /// [`Handle::stop`](super::Handle::stop) was called.
    Stopped,
}
