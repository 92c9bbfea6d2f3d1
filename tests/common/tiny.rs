//! Guests of a few instructions, on the hypervisor alone: what a processor does that no driver does.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rvm::vmm::{Error, Exit, OnReset, Serial, Spec, Transport, Vmm};

/// A guest whose processor does what it should needs none of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// `mov al, 0x2a; mov dx, 0x3f8; out dx, al`: a star on the serial line.
const STAR: &[u8] = &[0xb0, 0x2a, 0x66, 0xba, 0xf8, 0x03, 0xee];
/// `ud2`, with an interrupt table that leads nowhere.
const TRIPLE_FAULT: &[u8] = &[0x0f, 0x0b];
/// `0: hlt; jmp 0`.
const HALT: &[u8] = &[0xf4, 0xeb, 0xfd];
/// `0: mov al, 0xfe; out 0x64, al; jmp 0`: the reset line, over and over.
const RESET_FLOOD: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfa];

/// The smallest ELF file that is taken for a kernel: one segment at 1 MiB, which is its code.
fn kernel(code: &[u8]) -> Vec<u8> {
    const AT: u64 = 1 << 20;
    let headers = 64 + 56u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // Executable, x86-64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    // Entry, program headers, section headers.
    for word in [AT, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    // Flags, sizes of headers, one program header.
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // Loaded, to be read and run.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let len = code.len() as u64;
    for word in [headers, AT, AT, len, len, 4096] {
        file.extend(word.to_le_bytes());
    }
    assert_eq!(file.len() as u64, headers);
    file.extend(code);
    file
}

fn guest(folder: &Path, code: &[&[u8]], on_reset: OnReset) -> Vmm {
    let path = folder.join("kernel");
    std::fs::write(&path, kernel(&code.concat())).unwrap();
    let spec = Spec {
        cpus: 2,
        nested: false,
        memory: 16 << 20,
        kernel: path,
        initrd: None,
        cmdline: String::new(),
        disks: Vec::new(),
        nets: Vec::new(),
        shares: Vec::new(),
        changes: None,
        transport: Transport::Mmio,
        vsock: None,
        serial: Serial::Log { path: folder.join("log"), limit: 4096 },
        console: None,
        on_reset,
    };
    Vmm::new(spec).unwrap()
}

/// How it ended; one that does not end is a failure.
fn end(vmm: Vmm) -> Result<Exit, Error> {
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(vmm.run()));
    ended.recv_timeout(PATIENCE).expect("the guest does not end")
}

/// Stars on the serial line: as often as the guest started.
fn stars(folder: &Path) -> usize {
    std::fs::read(folder.join("log")).unwrap_or_default().len()
}

#[test]
fn a_triple_fault_resets_and_resets_without_end_are_ended() {
    let folder = tempfile::tempdir().unwrap();
    let fault = guest(folder.path(), &[STAR, TRIPLE_FAULT], OnReset::Exit);
    assert_eq!(end(fault).unwrap(), Exit::Reset);
    assert_eq!(stars(folder.path()), 1);
    for code in [TRIPLE_FAULT, RESET_FLOOD] {
        let folder = tempfile::tempdir().unwrap();
        let error = end(guest(folder.path(), &[STAR, code], OnReset::Restart)).unwrap_err();
        let Error::KeepsResetting { count, .. } = error else { panic!("{error}") };
        assert_eq!(stars(folder.path()), count, "each life starts at the beginning");
    }
}

/// It waits without interrupts, so nothing but the host can end that.
#[test]
fn a_guest_that_halts_for_ever_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let vmm = guest(folder.path(), &[STAR, HALT], OnReset::Restart);
    let handle = vmm.handle();
    let ended = thread::spawn(move || end(vmm));
    super::wait("the guest does not start", || stars(folder.path()) == 1);
    handle.stop().unwrap();
    assert_eq!(ended.join().unwrap().unwrap(), Exit::Stopped);
}
