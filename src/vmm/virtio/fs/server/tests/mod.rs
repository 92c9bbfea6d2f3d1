//! What a guest can ask, and what a hostile one tries.

mod changes;
pub(crate) mod escape;
mod files;
mod hear;
mod hidden;
mod limits;
mod takeover;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vm_memory::VolatileSlice;

use super::abi::{Answer, Args, op};
use super::nodes::ROOT;
use super::*;

/// The owner of everything, in the guest.
const OWNER: (u32, u32) = (1000, 1001);

/// More files than any test has but those of limits.
const MANY: usize = 1 << 20;

/// What the guest is told of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    node: u64,
    size: u64,
    mode: u32,
    owner: (u32, u32),
}

/// A guest's kernel, as far as it talks to the server, and the shared folder.
struct Guest {
    server: Server,
    /// The share is `share` in it.
    outer: tempfile::TempDir,
    unique: u64,
    /// The group of the user who asks.
    group: u32,
}

impl Guest {
    fn new() -> Self {
        Self::with(false, MANY, MAX_HANDLES)
    }

    fn with(read_only: bool, files: usize, handles: usize) -> Self {
        Self::of_machine(read_only, &Budget::of_files(files), handles)
    }

    /// One share of a machine.
    fn of_machine(read_only: bool, budget: &Budget, handles: usize) -> Self {
        // What the sandbox does for the process; another mask would only be in the way of tests of modes.
        rustix::process::umask(Mode::empty());
        let outer = tempfile::tempdir().unwrap();
        let share = outer.path().join("share");
        std::fs::create_dir(&share).unwrap();
        let server = Server::with_limits(&share, read_only, OWNER, budget.clone(), handles).unwrap();
        let mut guest = Self { server, outer, unique: 0, group: 0 };
        guest.start();
        guest
    }

    fn start(&mut self) {
        let mut body = Answer::default();
        body.u32(7).u32(45).u32(1 << 20).u32(u32::MAX);
        let answer = self.call(op::INIT, 0, body.bytes()).unwrap();
        assert_eq!(answer.len(), 64);
    }

    fn share(&self) -> PathBuf {
        self.outer.path().join("share")
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.share().join(name)
    }

    /// A request as it comes from a chain; gives what was written.
    fn raw(&mut self, request: &[u8], room: usize) -> Vec<u8> {
        let (mut request, mut answer) = (request.to_vec(), vec![0xaa; room]);
        let mut chain =
            Chain::of(VolatileSlice::from(&mut request[..]), VolatileSlice::from(&mut answer[..]));
        let written = self.server.handle(&mut chain) as usize;
        assert!(written <= room, "{written} of {room} bytes");
        answer.truncate(written);
        answer
    }

    /// A request with a good header; the answer, or the number of the error.
    fn call(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.call_with_room(opcode, node, body, (1 << 20) + 4096)
    }

    fn call_with_room(&mut self, opcode: u32, node: u64, body: &[u8], room: usize) -> Result<Vec<u8>, i32> {
        self.unique += 2;
        let mut request = Answer::default();
        request.u32((40 + body.len()) as u32).u32(opcode).u64(self.unique).u64(node);
        // Root asks: nobody may trust that.
        request.u32(0).u32(self.group).u32(1).u32(0).raw(body);
        let answer = self.raw(request.bytes(), room);
        let mut args = Args::new(&answer);
        let (len, error, unique) = (args.u32().unwrap(), args.u32().unwrap(), args.u64().unwrap());
        assert_eq!((len as usize, unique), (answer.len(), self.unique));
        match error.cast_signed() {
            0 => Ok(answer[16..].to_vec()),
            error => {
                assert_eq!(len, 16, "an error with an answer");
                Err(-error)
            }
        }
    }

    fn lookup(&mut self, parent: u64, name: impl AsRef<Path>) -> Result<Seen, i32> {
        self.call(op::LOOKUP, parent, &string(name)).map(|answer| entry(&answer))
    }

    fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let mut body = Answer::default();
        body.u32(flags.cast_unsigned()).u32(0);
        self.call(op::OPEN, node, body.bytes()).map(|answer| Args::new(&answer).u64().unwrap())
    }

    /// What the guest may do with what it has cached.
    fn open_flags(&mut self, node: u64) -> u32 {
        let mut body = Answer::default();
        body.u32(0).u32(0);
        let answer = self.call(op::OPEN, node, body.bytes()).unwrap();
        let mut args = Args::new(&answer);
        args.u64().unwrap();
        args.u32().unwrap()
    }

    fn create(&mut self, parent: u64, name: impl AsRef<Path>, mode: u32) -> Result<(Seen, u64), i32> {
        let mut body = Answer::default();
        body.u32(libc::O_RDWR.cast_unsigned()).u32(mode).u32(0o022).u32(0).raw(&string(name));
        let answer = self.call(op::CREATE, parent, body.bytes())?;
        Ok((entry(&answer), Args::new(&answer[128..]).u64().unwrap()))
    }

    fn mkdir(&mut self, parent: u64, name: impl AsRef<Path>) -> Result<Seen, i32> {
        let mut body = Answer::default();
        body.u32(0o755).u32(0).raw(&string(name));
        self.call(op::MKDIR, parent, body.bytes()).map(|answer| entry(&answer))
    }

    fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<Seen, i32> {
        let body = [string(name), string(target)].concat();
        self.call(op::SYMLINK, parent, &body).map(|answer| entry(&answer))
    }

    fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<(), i32> {
        let mut body = Answer::default();
        body.u64(to.0).u32(flags).u32(0).raw(&string(from.1)).raw(&string(to.1));
        self.call(op::RENAME2, from.0, body.bytes()).map(drop)
    }

    fn link(&mut self, node: u64, parent: u64, name: &str) -> Result<Seen, i32> {
        let mut body = Answer::default();
        body.u64(node).raw(&string(name));
        self.call(op::LINK, parent, body.bytes()).map(|answer| entry(&answer))
    }

    fn unlink(&mut self, parent: u64, name: &str) -> Result<(), i32> {
        self.call(op::UNLINK, parent, &string(name)).map(drop)
    }

    fn getattr(&mut self, node: u64) -> Result<Seen, i32> {
        let answer = self.call(op::GETATTR, node, &[0; 16])?;
        Ok(attributes(node, &answer[16..]))
    }

    fn setattr(&mut self, node: u64, valid: u32, size: u64, mode: u32) -> Result<Seen, i32> {
        let mut body = Answer::default();
        body.u32(valid).u32(0).u64(0).u64(size).u64(0);
        body.u64(0).u64(0).u64(0).u32(0).u32(0).u32(0);
        body.u32(mode).u32(0).u32(0).u32(0).u32(0);
        let answer = self.call(op::SETATTR, node, body.bytes())?;
        Ok(attributes(node, &answer[16..]))
    }

    fn read(&mut self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let mut body = Answer::default();
        body.u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0);
        self.call(op::READ, 0, body.bytes())
    }

    fn write(&mut self, handle: u64, offset: u64, data: &[u8], flags: i32) -> Result<u32, i32> {
        let mut body = Answer::default();
        body.u64(handle).u64(offset).u32(data.len() as u32).u32(0).u64(0);
        body.u32(flags.cast_unsigned()).u32(0).raw(data);
        self.call(op::WRITE, 0, body.bytes()).map(|answer| Args::new(&answer).u32().unwrap())
    }

    /// The names in a folder, each with what is said of its file where `plus` is set, by as many
    /// requests as it takes with buffers of `size` bytes.
    fn list(&mut self, node: u64, plus: bool, size: u32) -> Result<Vec<(Vec<u8>, u64)>, i32> {
        let answer = self.call(op::OPENDIR, node, &[0; 8])?;
        let handle = Args::new(&answer).u64().unwrap();
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let mut body = Answer::default();
            body.u64(handle).u64(offset).u32(size).u32(0).u64(0).u64(0);
            let opcode = if plus { op::READDIRPLUS } else { op::READDIR };
            let answer = self.call_with_room(opcode, node, body.bytes(), 16 + size as usize)?;
            if answer.is_empty() {
                break;
            }
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let known = if plus { Args::new(rest).u64().unwrap() } else { 0 };
                rest = &rest[if plus { 128 } else { 0 }..];
                let mut args = Args::new(rest);
                let (_inode, next) = (args.u64().unwrap(), args.u64().unwrap());
                let len = args.u32().unwrap() as usize;
                all.push((rest[24..24 + len].to_vec(), known));
                offset = next;
                rest = &rest[(24 + len).next_multiple_of(8)..];
            }
        }
        self.release(handle).unwrap();
        all.sort();
        Ok(all)
    }

    fn release(&mut self, handle: u64) -> Result<(), i32> {
        let mut body = Answer::default();
        body.u64(handle).u64(0).u64(0);
        self.call(op::RELEASE, 0, body.bytes()).map(drop)
    }

    fn forget(&mut self, node: u64, count: u64) {
        self.unique += 2;
        let mut request = Answer::default();
        request.u32(48).u32(op::FORGET).u64(self.unique).u64(node).zeros(16).u64(count);
        assert!(self.raw(request.bytes(), 64).is_empty(), "nobody waits for an answer");
    }
}

fn string(name: impl AsRef<Path>) -> Vec<u8> {
    let mut bytes = name.as_ref().as_os_str().as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn entry(answer: &[u8]) -> Seen {
    attributes(Args::new(answer).u64().unwrap(), &answer[40..])
}

fn attributes(node: u64, attr: &[u8]) -> Seen {
    let word = |at: usize| u32::from_le_bytes(attr[at..at + 4].try_into().unwrap());
    let size = u64::from(word(8)) | u64::from(word(12)) << 32;
    Seen { node, size, mode: word(60), owner: (word(68), word(72)) }
}
