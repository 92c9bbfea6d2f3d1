//! What the host changed in shared folders becomes events of this guest's inotify.
//!
//! The guest's kernel makes such an event for a system call that changes a file, and for nothing else. So this does, for
//! each change that the host tells of, what would be such a call, as a group that nobody else is in: the host knows it
//! by that, changes nothing, and answers as it takes for the event to come out right (`docs/folders.md`).
//!
//! A message is four strings and an empty one, each with a zero at its end: what happened, the number of the file that
//! is no longer at its place (0: none), the tag of the shared folder, the path in it. Each is answered by a zero byte. A one says first that there is somebody: the
//! other side of a console's port does not hear when that is opened anew.

use crate::{call, exit, number, receive, syscall};

/// The port of the host, and where there are no such sockets, the name of the port of a virtio console: the second one
/// of some device.
const HOST_PORT: u32 = 2;
const PORT_NAME: &[u8] = b"rvm.changes\n";
const DEVICES: core::ops::Range<u8> = 0..32;

/// Groups, by which the host knows what a call is for (`src/vmm/virtio/fs/server/errand.rs`).
const LOOK: usize = 0x7276_6d00;
const MAKE: usize = LOOK + 1;
const REMOVE_FILE: usize = LOOK + 2;
const REMOVE_FOLDER: usize = LOOK + 3;

/// Longest message: a path, a tag, and a few words.
const MESSAGE: usize = 4096 + 256;
/// Shared folders that are kept mounted.
const FOLDERS: usize = 8;
/// Longest tag (virtio 1.2, section 5.11.4).
const TAG: usize = 36;

const O_RDWR: usize = 0o2;
const O_DIRECTORY: usize = 0o200_000;
const O_CLOEXEC: usize = 0o2_000_000;
const O_PATH: usize = 0o10_000_000;
const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const AT_REMOVEDIR: usize = 0x200;
const AT_EMPTY_PATH: usize = 0x1000;
const AT_STATX_FORCE_SYNC: usize = 0x2000;
const UTIME_OMIT: u64 = (1 << 30) - 2;
const EINTR: isize = -4;
const EEXIST: isize = -17;

/// A child of this process that serves changes until there is nobody to tell of them. Gives its number, 0 where there is
/// none.
pub fn start() -> usize {
    match syscall([call::FORK, 0, 0, 0, 0, 0, 0]) {
        0 => {
            while let Some(host) = connect() {
                serve(host);
                syscall([call::CLOSE, host, 0, 0, 0, 0, 0]);
                crate::pause();
            }
            exit(0)
        }
        child => usize::try_from(child).unwrap_or(0),
    }
}

fn connect() -> Option<usize> {
    crate::connect(HOST_PORT).or_else(|| DEVICES.into_iter().find_map(port))
}

/// Opens the port of the virtio console that is device `number`, if it is the one for changes.
fn port(number: u8) -> Option<usize> {
    let mut named = *b"/sys/class/virtio-ports/vport__p2/name\0";
    let mut port = *b"/dev/vport__p2\0";
    let (tens, ones) = (b'0' + number / 10, b'0' + number % 10);
    let path = |text: &mut [u8]| {
        let mut digits = [tens, ones].into_iter().skip(usize::from(number < 10));
        let mut len = 0;
        for at in 0..text.len() {
            let byte = text.get(at).copied().unwrap_or_default();
            let byte = if byte == b'_' { digits.next() } else { Some(byte) };
            if let Some(place) = text.get_mut(len)
                && let Some(byte) = byte
            {
                *place = byte;
                len += 1;
            }
        }
    };
    path(&mut named);
    path(&mut port);
    let file = open(&named, 0)?;
    let mut name = [0; 64];
    let is_ours = receive(file, &mut name) == Some(PORT_NAME);
    syscall([call::CLOSE, file, 0, 0, 0, 0, 0]);
    if is_ours { open(&port, O_RDWR) } else { None }
}

/// Opens the file at a path with a zero at its end.
fn open(path: &[u8], flags: usize) -> Option<usize> {
    const AT_FDCWD: usize = -100isize as usize;
    let file = [call::OPENAT, AT_FDCWD, path.as_ptr() as usize, flags | O_CLOEXEC, 0, 0, 0];
    usize::try_from(syscall(file)).ok()
}

/// Does what the messages from `host` say, until they end. `serve` of standard input, too.
pub fn serve(host: usize) {
    let mut message = [0u8; MESSAGE];
    let (mut len, mut is_whole) = (0, true);
    let mut shared = [const { None }; FOLDERS];
    let mut buffer = [0u8; 1024];
    say(host, 1);
    while let Some(bytes) = receive(host, &mut buffer) {
        for &byte in bytes {
            if byte == 0 && (len == 0 || message.get(len - 1) == Some(&0)) {
                if is_whole {
                    obey(message.get(..len).unwrap_or_default(), &mut shared);
                }
                (len, is_whole) = (0, true);
                say(host, 0);
                continue;
            }
            // Of what does not fit the last place has the end, and the message is none.
            let place = len.min(MESSAGE - 1);
            is_whole &= place == len;
            if let Some(place) = message.get_mut(place) {
                *place = byte;
            }
            len = place + 1;
        }
    }
}

fn say(host: usize, byte: u8) {
    syscall([call::WRITE, host, core::ptr::from_ref(&byte) as usize, 1, 0, 0, 0]);
}

/// A shared folder, mounted where nobody sees it: so no mount on top of something in it is in the way.
struct Shared {
    tag: [u8; TAG],
    mount: usize,
    root: usize,
}

fn obey(message: &[u8], shared: &mut [Option<Shared>; FOLDERS]) {
    let mut fields = message.split(|byte| *byte == 0);
    let (Some(what), Some(node), Some(tag), Some(path)) =
        (fields.next(), fields.next().and_then(number), fields.next(), fields.next())
    else {
        return;
    };
    let mut name = [0; TAG];
    match name.get_mut(..tag.len()) {
        Some(place) if !tag.is_empty() => copy(place, tag),
        _ => return,
    }
    let is_known = |shared: &&Option<Shared>| shared.as_ref().is_some_and(|shared| shared.tag == name);
    if !shared.iter().any(|shared| is_known(&shared)) {
        act_as(LOOK);
        // Where there are more, the last place is for all of them.
        let place = shared.iter().position(Option::is_none).unwrap_or(FOLDERS - 1);
        if let Some(place) = shared.get_mut(place) {
            if let Some(old) = place.take() {
                syscall([call::CLOSE, old.root, 0, 0, 0, 0, 0]);
                syscall([call::CLOSE, old.mount, 0, 0, 0, 0, 0]);
            }
            *place = mount(name);
        }
    }
    if let Some(Some(shared)) = shared.iter().find(is_known) {
        tell(shared, what, node, path);
    }
}

/// As much as there is room for. What the standard library has for it would bring half of it along.
fn copy(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(place, byte)| *place = *byte);
}

fn act_as(group: usize) {
    syscall([call::SETFSGID, group, 0, 0, 0, 0, 0]);
}

/// Mounts the shared folder of that tag. One that is mounted already is the same file system, and may be for reading
/// only there: here it is not, for else nothing could be told of it.
fn mount(tag: [u8; TAG]) -> Option<Shared> {
    const SET_FLAG: usize = 0;
    const SET_STRING: usize = 1;
    const CMD_CREATE: usize = 6;
    const CMD_RECONFIGURE: usize = 7;
    const CLOEXEC: usize = 1;
    const FSPICK_EMPTY_PATH: usize = 8;
    let mut source = [0u8; TAG + 1];
    copy(&mut source, &tag);
    let at = |text: &core::ffi::CStr| text.as_ptr() as usize;
    let file = |result: isize| usize::try_from(result).ok();
    let set = |context, kind, key, value| syscall([call::FSCONFIG, context, kind, key, value, 0, 0]);
    let context = file(syscall([call::FSOPEN, at(c"virtiofs"), CLOEXEC, 0, 0, 0, 0]))?;
    set(context, SET_STRING, at(c"source"), source.as_ptr() as usize);
    set(context, CMD_CREATE, 0, 0);
    let mount = file(syscall([call::FSMOUNT, context, CLOEXEC, 0, 0, 0, 0]));
    syscall([call::CLOSE, context, 0, 0, 0, 0, 0]);
    let mount = mount?;
    if let Some(context) = file(syscall([call::FSPICK, mount, at(c""), CLOEXEC | FSPICK_EMPTY_PATH, 0, 0, 0]))
    {
        set(context, SET_FLAG, at(c"rw"), 0);
        set(context, CMD_RECONFIGURE, 0, 0);
        syscall([call::CLOSE, context, 0, 0, 0, 0, 0]);
    }
    let flags = O_DIRECTORY | O_CLOEXEC;
    match file(syscall([call::OPENAT, mount, at(c"."), flags, 0, 0, 0])) {
        Some(root) => Some(Shared { tag, mount, root }),
        None => {
            syscall([call::CLOSE, mount, 0, 0, 0, 0, 0]);
            None
        }
    }
}

/// `struct open_how` (`openat2(2)`).
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Not onto another mount, through no link, not upwards.
const RESOLVE: u64 = 0x01 | 0x02 | 0x04 | 0x08;

/// Makes the events for what happened to the file at `path`, a letter each.
fn tell(shared: &Shared, what: &[u8], node: u64, path: &[u8]) {
    act_as(LOOK);
    // With a zero at the end of each part.
    let mut text = [0u8; MESSAGE];
    let Some(place) = text.get_mut(..path.len()) else { return };
    copy(place, path);
    let (mut folder, mut name) = (shared.root, 0);
    if let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
        if let Some(slash) = text.get_mut(slash) {
            *slash = 0;
        }
        name = slash + 1;
        let how = How { flags: (O_PATH | O_DIRECTORY | O_CLOEXEC) as u64, mode: 0, resolve: RESOLVE };
        let how = core::ptr::from_ref(&how) as usize;
        let opened = [call::OPENAT2, shared.root, text.as_ptr() as usize, how, size_of::<How>(), 0, 0];
        match usize::try_from(syscall(opened)) {
            Ok(opened) => folder = opened,
            Err(_) => return,
        }
    }
    let name = text.as_ptr() as usize + name;
    // Before it is given up: a folder that is nowhere cannot be found any more.
    let left = if node == 0 { None } else { left(shared.root, node) };
    for step in what {
        match step {
            b'r' => remove(folder, name, REMOVE_FILE, 0),
            b'R' => remove(folder, name, REMOVE_FOLDER, AT_REMOVEDIR),
            b'f' | b'd' | b'l' | b'o' => make(folder, name, *step),
            b'm' => touch(folder, name, false),
            b'a' => touch(folder, name, true),
            b's' => leave(left),
            _ => {}
        }
    }
    for file in [left.unwrap_or(shared.root), folder] {
        if file != shared.root {
            syscall([call::CLOSE, file, 0, 0, 0, 0, 0]);
        }
    }
}

fn remove(folder: usize, name: usize, group: usize, flags: usize) {
    act_as(group);
    // What the kernel believes to be there it gives up when the call is said to be interrupted; then it asks.
    for _ in 0..2 {
        if syscall([call::UNLINKAT, folder, name, flags, 0, 0, 0]) != EINTR {
            break;
        }
    }
    act_as(LOOK);
}

fn make(folder: usize, name: usize, kind: u8) {
    const S_IFREG: usize = 0o100_000;
    const S_IFIFO: usize = 0o010_000;
    act_as(MAKE);
    let made = match kind {
        b'd' => syscall([call::MKDIRAT, folder, name, 0o777, 0, 0, 0]),
        b'l' => syscall([call::SYMLINKAT, c".".as_ptr() as usize, folder, name, 0, 0, 0]),
        b'f' => syscall([call::MKNODAT, folder, name, S_IFREG | 0o666, 0, 0, 0]),
        _ => syscall([call::MKNODAT, folder, name, S_IFIFO | 0o666, 0, 0, 0]),
    };
    act_as(LOOK);
    // A program has found it already.
    if made == EEXIST {
        touch(folder, name, false);
    }
}

/// Says that the content (only the time of that is set) or the attributes (both times are) have changed.
fn touch(folder: usize, name: usize, attributes: bool) {
    // Has the kernel look at the file, and drop what it has cached of one that has changed.
    const STATX_BASIC_STATS: usize = 0x7ff;
    let mut stat = [0u64; 32];
    let flags = AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC;
    let into = stat.as_mut_ptr() as usize;
    if syscall([call::STATX, folder, name, flags, STATX_BASIC_STATS, into, 0]) < 0 {
        return;
    }
    let times: [u64; 4] = [0, if attributes { 0 } else { UTIME_OMIT }, 0, 0];
    let times = times.as_ptr() as usize;
    syscall([call::UTIMENSAT, folder, name, times, AT_SYMLINK_NOFOLLOW, 0, 0]);
}

/// `struct file_handle` of FUSE (`fuse_encode_fh` of Linux).
#[repr(C)]
struct Handle {
    len: u32,
    kind: i32,
    node: [u32; 2],
    generation: u32,
}

/// The file that the kernel knows by that number; `None`: it has forgotten it, so nobody watches it.
fn left(mount: usize, node: u64) -> Option<usize> {
    const FILEID_INO64_GEN: i32 = 0x81;
    let node = [(node >> 32) as u32, node as u32];
    let handle = Handle { len: 12, kind: FILEID_INO64_GEN, node, generation: 0 };
    let handle = core::ptr::from_ref(&handle) as usize;
    let file = [call::OPEN_BY_HANDLE_AT, mount, handle, O_PATH | O_CLOEXEC, 0, 0, 0];
    usize::try_from(syscall(file)).ok()
}

/// Says that a file is no longer what is at its place, to those who watch the file itself.
fn leave(file: Option<usize>) {
    let Some(file) = file else { return };
    let times = [0u64; 4];
    let times = times.as_ptr() as usize;
    syscall([call::UTIMENSAT, file, c"".as_ptr() as usize, times, AT_EMPTY_PATH, 0, 0]);
}
