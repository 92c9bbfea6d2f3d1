//! The console, its guest and who is attached to it.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rvm::vmm::attach::{KEPT, MAX_ATTACHED, MAX_INPUT, Size, wire};
use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::console::{BYTE_LIMIT, Console};
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};
use tempfile::TempDir;

use crate::driver::*;

const RX: usize = 0;
const TX: usize = 1;
const F_SIZE: u64 = 1;

struct Rig {
    driver: Driver,
    path: PathBuf,
    _folder: TempDir,
}

fn rig(features: u64) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console.sock");
    let console = Console::new(UnixListener::bind(&path).unwrap()).unwrap();
    Rig { driver: Driver::started(console, 64, features), path, _folder: folder }
}

impl Rig {
    fn attach(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The guest prints.
    fn print(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(1 << 16) {
            self.driver.put(DATA, piece);
            assert_eq!(self.driver.transact(TX, &[readable(DATA, piece.len() as u32)]), 0);
        }
    }

    /// The guest reads `count` bytes.
    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let len = self.driver.transact(RX, &[writable(HIGH_START, 1 << 12)]);
            assert_ne!(len, 0, "an empty buffer came back");
            bytes.extend(self.driver.get(HIGH_START, len as usize));
        }
        bytes
    }

    fn size(&mut self) -> (u16, u16) {
        let mut bytes = [0xff; 4];
        self.driver.transport.read(0x100, &mut bytes);
        let [c0, c1, r0, r1] = bytes;
        (u16::from_le_bytes([c0, c1]), u16::from_le_bytes([r0, r1]))
    }
}

fn typed(text: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    wire::push_input(&mut frames, text);
    frames
}

fn resized(columns: u16, rows: u16) -> Vec<u8> {
    let mut frames = Vec::new();
    wire::push_size(&mut frames, Size { columns, rows });
    frames
}

/// Reads exactly as much as `text` and compares.
#[track_caller]
fn expect(mut stream: &UnixStream, text: &[u8]) {
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(text));
}

fn is_closed(mut stream: &UnixStream) -> bool {
    match stream.read(&mut [0; 100]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn everybody_sees_what_is_printed() {
    for features in [0, VIRTIO_F_EVENT_IDX] {
        let mut rig = rig(features);
        let first = rig.attach();
        rig.print(b"login: ");
        expect(&first, b"login: ");
        // Who comes later sees what was printed before.
        let late = rig.attach();
        expect(&late, b"login: ");
        rig.print(b"Linux\r\n");
        for stream in [&first, &late] {
            expect(stream, b"Linux\r\n");
        }
    }
}

#[test]
fn output_in_any_pieces_is_one_text() {
    let mut rig = rig(0);
    let stream = rig.attach();
    rig.driver.put(DATA, b"one two three");
    let pieces = [readable(DATA, 4), readable(DATA + 4, 0), readable(DATA + 4, 1), readable(DATA + 5, 8)];
    assert_eq!(rig.driver.transact(TX, &pieces), 0);
    // What is there to be written is no output.
    assert_eq!(rig.driver.transact(TX, &[writable(DATA, 100)]), 0);
    assert_eq!(rig.driver.transact(TX, &[readable(DATA, 3), writable(DATA, 100)]), 0);
    expect(&stream, b"one two threeone");
}

#[test]
fn questions_to_the_terminal_are_not_passed_on() {
    let mut rig = rig(0);
    let stream = rig.attach();
    for piece in [&b"a\x1b["[..], b"6", b"nb\x1b[31mc\x1b]11;?", b"\x07d", b"\x1b[18te"] {
        rig.print(piece);
    }
    expect(&stream, b"ab\x1b[31mcde");
}

#[test]
fn what_anybody_types_reaches_the_guest() {
    for features in [0, VIRTIO_F_EVENT_IDX] {
        let mut rig = rig(features);
        let (mut first, mut second) = (rig.attach(), rig.attach());
        // Before and after the guest waits for it; cut anywhere.
        first.write_all(&typed(b"root\n")).unwrap();
        assert_eq!(rig.read(5), b"root\n");
        let head = rig.driver.submit(RX, &[writable(HIGH_START, 2), writable(HIGH_START + 100, 8)]);
        for byte in typed(b"ls") {
            second.write_all(&[byte]).unwrap();
        }
        let (used, len) = rig.driver.used(RX);
        assert_eq!(used, head);
        let mut text = rig.driver.get(HIGH_START, len as usize);
        if len == 1 {
            text.extend(rig.read(1));
        }
        assert_eq!(text, b"ls");
    }
}

#[test]
fn buffers_without_room_come_back_unused() {
    let mut rig = rig(0);
    let mut stream = rig.attach();
    stream.write_all(&typed(b"x")).unwrap();
    assert_eq!(rig.driver.transact(RX, &[readable(DATA, 8)]), 0);
    assert_eq!(rig.driver.transact(RX, &[writable(DATA, 0)]), 0);
    assert_eq!(rig.read(1), b"x");
}

#[test]
fn size_is_that_of_the_last_terminal() {
    let mut rig = rig(F_SIZE);
    assert_eq!(rig.size(), (80, 24));
    let (first, second) = (rig.attach(), rig.attach());
    for (mut stream, columns, rows) in [(&first, 132, 50), (&second, 0, u16::MAX), (&first, 90, 30)] {
        stream.write_all(&resized(columns, rows)).unwrap();
        rig.driver.wait_for("a change of the configuration", |driver| {
            (driver.read(INTERRUPT_STATUS) & 2 != 0).then_some(())
        });
        rig.driver.write(INTERRUPT_ACK, 2);
        assert_eq!(rig.size(), (columns, rows));
    }
    // The guest cannot change it.
    rig.driver.transport.write(0x100, &[7; 4]);
    assert_eq!(rig.size(), (90, 30));
}

#[test]
fn flood_blocks_nobody_and_who_is_too_slow_loses_the_oldest() {
    let mut rig = rig(0);
    let (slow, quick) = (rig.attach(), rig.attach());
    // Both are let in before the flood.
    rig.print(b"start\n");
    expect(&slow, b"start\n");
    expect(&quick, b"start\n");
    let reader = std::thread::spawn(move || {
        let (mut all, mut chunk) = (Vec::new(), [0; 1 << 16]);
        while !all.ends_with(b"the end") {
            let count = (&quick).read(&mut chunk).unwrap();
            assert_ne!(count, 0);
            all.extend_from_slice(&chunk[..count]);
        }
        all.len()
    });
    let line = [b'x'; 1 << 16];
    for _ in 0..160 {
        rig.print(&line);
    }
    rig.print(b"the end");
    reader.join().unwrap();
    // Ten MiB went by. Here is what the socket holds, a note, and what is kept.
    let (mut all, mut chunk) = (Vec::new(), [0; 1 << 16]);
    while !all.ends_with(b"the end") {
        let count = (&slow).read(&mut chunk).unwrap();
        assert_ne!(count, 0);
        all.extend_from_slice(&chunk[..count]);
    }
    let text = String::from_utf8(all).unwrap();
    assert!(text.contains("[output lost"), "nothing was lost?");
    assert!(text.rsplit("was read]\r\n").next().unwrap().len() <= KEPT, "more was kept than may be");
    assert!(text.len() < 2 << 20, "{}", text.len());
}

#[test]
fn one_request_longer_than_what_is_kept_loses_its_beginning() {
    let mut rig = rig(0);
    rig.driver.put(DATA, &[b'a'; 200_000]);
    rig.driver.put(DATA + 199_997, b"end");
    rig.driver.transact(TX, &[readable(DATA, 200_000)]);
    let stream = rig.attach();
    let mut kept = vec![b'a'; KEPT];
    kept[KEPT - 3..].copy_from_slice(b"end");
    expect(&stream, &kept);
}

#[test]
fn input_is_bounded_and_nothing_of_it_is_lost() {
    let mut rig = rig(0);
    let mut stream = rig.attach();
    rig.print(b"$");
    expect(&stream, b"$");
    stream.set_nonblocking(true).unwrap();
    let text: Vec<u8> = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect();
    let frames = typed(&text);
    // The guest reads nothing: the socket takes what it holds, the device its buffer, and no more.
    let mut sent = 0;
    while let Ok(count) = stream.write(&frames[sent..]) {
        sent += count;
    }
    assert!(sent < text.len(), "all of it was taken");
    // Output still flows, and so does the input of others later.
    rig.print(b"#");
    stream.set_nonblocking(false).unwrap();
    expect(&stream, b"#");
    let writer = std::thread::spawn(move || stream.write_all(&frames[sent..]).unwrap());
    assert!(rig.read(text.len()) == text);
    writer.join().unwrap();
}

#[test]
fn who_types_and_leaves_has_typed() {
    let mut rig = rig(0);
    let mut stream = rig.attach();
    let text = vec![b'y'; 3 * MAX_INPUT];
    stream.write_all(&typed(&text)).unwrap();
    drop(stream);
    assert_eq!(rig.read(text.len()), text);
    // The end of what is sent is not the end of what is received.
    let mut stream = rig.attach();
    stream.write_all(&typed(b"z")).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.read(1), b"z");
    rig.print(b"still here");
    expect(&stream, b"still here");
}

#[test]
fn who_sends_rubbish_is_sent_away() {
    let mut rig = rig(0);
    let other = rig.attach();
    for rubbish in [&b"\x02\0\0"[..], b"\x01\0\x05", b"GET / HTTP/1.0\r\n\r\n", &[0xff; 100_000]] {
        let mut stream = rig.attach();
        // It may be cut off before it has said everything.
        let _ = stream.write_all(rubbish);
        assert!(is_closed(&stream), "{:?}", &rubbish[..3]);
    }
    rig.print(b"fine");
    expect(&other, b"fine");
}

#[test]
fn no_more_are_attached_than_there_is_room_for() {
    let mut rig = rig(0);
    let mut all: Vec<_> = (0..MAX_ATTACHED).map(|_| rig.attach()).collect();
    let mut text = String::new();
    rig.attach().read_to_string(&mut text).unwrap();
    assert_eq!(text, "too many are attached to this console\r\n");
    rig.print(b"a");
    for stream in &all {
        expect(stream, b"a");
    }
    // One leaves, another comes.
    let gone = all.pop().unwrap();
    gone.shutdown(Shutdown::Both).unwrap();
    drop(gone);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let next = rig.attach();
        let mut byte = [0];
        (&next).read_exact(&mut byte).unwrap();
        if byte == *b"a" {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the place never comes free");
    }
}

#[test]
fn driver_that_breaks_the_rules_detaches_nobody() {
    let mut rig = rig(VIRTIO_F_INDIRECT_DESC);
    let mut stream = rig.attach();
    rig.print(b"before ");
    expect(&stream, b"before ");
    rig.driver.submit(TX, &[readable(DATA, BYTE_LIMIT), readable(DATA, 1)]);
    rig.driver.wait_broken();
    rig.driver.reset();
    // What is typed meanwhile waits.
    stream.write_all(&typed(b"hello")).unwrap();
    rig.driver.start(0);
    assert_eq!(rig.read(5), b"hello");
    rig.print(b"after");
    expect(&stream, b"after");
    let late = rig.attach();
    expect(&late, b"before after");
}

#[test]
fn reset_waits_for_no_reader() {
    let mut rig = rig(0);
    let stream = rig.attach();
    rig.print(b"a");
    expect(&stream, b"a");
    // More than its socket takes, and a driver that kicks and kicks.
    for _ in 0..64 {
        rig.print(&[b'x'; 1 << 16]);
    }
    for _ in 0..50 {
        rig.driver.kick(TX);
        rig.driver.kick(RX);
        rig.driver.reset();
        rig.driver.start(0);
    }
    rig.print(b"b");
}

#[test]
fn both_queues_have_to_be_ready() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    let mut driver = Driver::new(Console::new(listener).unwrap(), 16);
    driver.agree(0);
    driver.configure(RX);
    driver.write(STATUS, 0xf);
    driver.wait_broken();
}

#[test]
fn end_of_the_machine_is_the_end_of_the_stream() {
    let mut rig = rig(0);
    let stream = rig.attach();
    rig.print(b"bye");
    drop(rig);
    expect(&stream, b"bye");
    assert!(is_closed(&stream));
}
