//! What the host has changed in a machine's shared folders, on its way to the guest's agent (`docs/folders.md`).
//!
//! The agent is told as fast as it answers; what has changed meanwhile is brought together, so that it hears of each
//! file once. It is a stranger: what it does not take is kept up to a limit, and it is answered to nothing.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::FileType;
use rustix::io::Errno;

/// How long changes of a file are brought together before it is told of.
const GATHER: Duration = Duration::from_millis(10);
/// Most messages that were not answered.
const WINDOW: usize = 32;
/// What a listener says first; all else is an answer.
pub const LISTENS: u8 = 1;
/// Most files that wait to be told of, and most bytes of their paths.
const MOST: usize = 64 << 10;
const MOST_BYTES: usize = 8 << 20;

/// What has become of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// One of this kind was there and is not any more.
    pub removed: Option<FileType>,
    /// The number by which the guest knows that one.
    pub left: Option<u64>,
    /// One of this kind has come.
    pub made: Option<FileType>,
    /// Its content has changed.
    pub modified: bool,
    /// Something else about it has.
    pub attributes: bool,
}

impl Change {
    /// What has happened after `next` has, too.
    fn and(&mut self, next: Self) {
        if next.removed.is_some() {
            // What came and went meanwhile, nobody has seen.
            let unseen = self.made.is_some() && self.removed.is_none();
            let removed = if unseen { None } else { self.removed.or(next.removed) };
            *self = Self { removed, left: self.left.or(next.left), ..next };
        } else {
            self.made = next.made.or(self.made);
            self.modified |= next.modified;
            self.attributes |= next.attributes;
        }
    }

    /// The same in letters, in the order in which the guest is to see it (`guest/agent/changes.rs`).
    fn letters(&self) -> Vec<u8> {
        let removed = self.removed.map(|kind| if kind == FileType::Directory { b'R' } else { b'r' });
        let made = self.made.map(|kind| match kind {
            FileType::Directory => b'd',
            FileType::RegularFile => b'f',
            FileType::Symlink => b'l',
            _ => b'o',
        });
        let modified = self.modified.then_some(b'm');
        let attributes = self.attributes.then_some(b'a');
        let left = self.left.map(|_| b's');
        [removed, made, modified, attributes, left].into_iter().flatten().collect()
    }
}

/// Tag and path.
type Place = (String, Vec<u8>);

/// One for all shares of a machine.
#[derive(Debug, Clone)]
pub struct Feed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes who tells.
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    /// Who is to listen from now on.
    next: Option<UnixStream>,
    /// Somebody has said to listen.
    heard: bool,
    quit: bool,
    changes: HashMap<Place, Change>,
    /// The same in the order in which they came.
    order: VecDeque<Place>,
    /// Bytes of their paths.
    bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
    full: bool,
}

impl State {
    /// Who listened is gone, and with it what it was to be told.
    fn forget(&mut self) {
        *self = Self { next: self.next.take(), quit: self.quit, ..Self::default() };
    }
}

impl Feed {
    /// Nobody listens yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { state: Mutex::default(), wake })))
    }

    /// Tells `listener`, and nobody else, as soon as that says to listen.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(&self, listener: UnixStream) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.state().next = Some(listener);
        self.wake();
        Ok(())
    }

    /// Something has changed. Where nobody listens it is forgotten.
    pub(super) fn add(&self, tag: &str, path: Vec<u8>, change: Change) {
        let mut state = self.state();
        if !state.heard {
            return;
        }
        let place = (tag.to_owned(), path);
        if let Some(known) = state.changes.get_mut(&place) {
            return known.and(change);
        }
        if state.order.len() == MOST || state.bytes + place.1.len() > MOST_BYTES {
            if !std::mem::replace(&mut state.full, true) {
                let files = state.order.len();
                tracing::warn!("the guest does not hear of all changes: {files} files wait already");
            }
            return;
        }
        state.bytes += place.1.len();
        state.order.push_back(place.clone());
        state.changes.insert(place, change);
        if state.since.is_none() {
            state.since = Some(Instant::now());
            drop(state);
            self.wake();
        }
    }

    /// Has [`run`](Self::run) come to its end.
    pub fn quit(&self) {
        self.state().quit = true;
        self.wake();
    }

    /// Tells who listens, until it is told to quit.
    ///
    /// # Errors
    /// When it cannot wait any more.
    pub fn run(&self) -> io::Result<()> {
        let mut telling: Option<Telling> = None;
        loop {
            let mut state = self.state();
            if state.quit {
                return Ok(());
            }
            if let Some(next) = state.next.take() {
                state.forget();
                telling = Some(Telling::new(next));
            }
            drop(state);
            if let Some(listener) = &mut telling {
                let heard = listener.hear();
                if matches!(heard, Ok(true)) {
                    self.state().heard = true;
                }
                if heard.and_then(|_| flush(&listener.stream, &mut listener.out)).is_err() {
                    telling = None;
                    self.state().forget();
                }
            }
            let mut due = None;
            if let Some(telling) = telling.as_mut().filter(|telling| telling.is_ready()) {
                due = self.state().since.map(|since| since + GATHER);
                if due.is_some_and(|due| due <= Instant::now()) {
                    telling.say(&self.take(WINDOW));
                }
            }
            self.wait(telling.as_ref(), due)?;
        }
    }

    /// The first of what is to be told.
    fn take(&self, most: usize) -> Vec<(Place, Change)> {
        let mut state = self.state();
        let count = most.min(state.order.len());
        let places: Vec<Place> = state.order.drain(..count).collect();
        state.bytes -= places.iter().map(|(_, path)| path.len()).sum::<usize>();
        if state.order.is_empty() {
            (state.since, state.full) = (None, false);
        }
        places.into_iter().filter_map(|place| state.changes.remove_entry(&place)).collect()
    }

    /// Returns when there is something to do.
    fn wait(&self, telling: Option<&Telling>, until: Option<Instant>) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.0.wake, PollFlags::IN)];
        if let Some(telling) = telling {
            let out = if telling.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::from_borrowed_fd(telling.stream.as_fd(), PollFlags::IN | out));
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Not signalled is as good.
        let _ = rustix::io::read(&self.0.wake, &mut [0; 8]);
        Ok(())
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then it is awake anyway.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who listens.
struct Telling {
    stream: UnixStream,
    /// What it has not taken yet.
    out: Vec<u8>,
    /// Messages that it has not answered.
    unanswered: usize,
    /// It has said that it listens.
    listens: bool,
}

impl Telling {
    fn new(stream: UnixStream) -> Self {
        Self { stream, out: Vec::new(), unanswered: 0, listens: false }
    }

    fn is_ready(&self) -> bool {
        self.listens && self.out.is_empty() && self.unanswered == 0
    }

    /// Takes an answer; true for the word that somebody listens.
    fn take(&mut self, answer: u8) -> bool {
        if answer != LISTENS {
            self.unanswered = self.unanswered.saturating_sub(1);
            return false;
        }
        // Whoever listened before does not any more, and did not answer all. What was being said has an end.
        if self.out.is_empty() {
            self.out.extend([0, 0]);
        }
        (self.unanswered, self.listens) = (0, true);
        true
    }

    fn say(&mut self, changes: &[(Place, Change)]) {
        for ((tag, path), change) in changes {
            let letters = change.letters();
            if letters.is_empty() {
                continue;
            }
            let left = change.left.unwrap_or_default().to_string();
            for field in [&letters[..], left.as_bytes(), tag.as_bytes(), path] {
                self.out.extend_from_slice(field);
                self.out.push(0);
            }
            self.out.push(0);
            self.unanswered += 1;
        }
    }

    /// Hears answers; whether there is somebody new.
    fn hear(&mut self) -> io::Result<bool> {
        let mut answers = [0; 256];
        let mut is_new = false;
        loop {
            match self.stream.read(&mut answers) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    for answer in answers.iter().take(count) {
                        is_new |= self.take(*answer);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(is_new),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Writes of `out` as much as a stream that does not wait takes.
///
/// # Errors
/// What the system says.
pub fn flush(mut stream: &UnixStream, out: &mut Vec<u8>) -> io::Result<()> {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(count) => drop(out.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread::{self, JoinHandle};

    use super::*;

    const FILE: Option<FileType> = Some(FileType::RegularFile);
    const FOLDER: Option<FileType> = Some(FileType::Directory);

    fn none() -> Change {
        Change::default()
    }

    fn modified() -> Change {
        Change { modified: true, ..none() }
    }

    #[test]
    fn what_happens_in_a_row_is_brought_together() {
        let made = Change { made: FILE, ..none() };
        let removed = Change { removed: FILE, left: Some(7), ..none() };
        let replaced = Change { made: FOLDER, ..removed };
        let changed = Change { attributes: true, ..none() };
        for (all, letters) in [
            (vec![modified(), modified()], "m"),
            (vec![modified(), changed], "ma"),
            (vec![made, modified()], "fm"),
            (vec![removed], "rs"),
            (vec![replaced, modified()], "rdms"),
            (vec![modified(), removed], "rs"),
            (vec![removed, made], "rfs"),
            // Nobody has seen it.
            (vec![made, Change { left: None, ..removed }], ""),
            (vec![replaced, Change { removed: FOLDER, ..none() }], "rs"),
        ] {
            let mut sum = none();
            all.iter().for_each(|change| sum.and(*change));
            assert_eq!(String::from_utf8(sum.letters()).unwrap(), letters, "{all:?}");
        }
    }

    /// Who listens, and the thread that tells it.
    struct Listener {
        feed: Feed,
        stream: UnixStream,
        thread: Option<JoinHandle<io::Result<()>>>,
    }

    impl Listener {
        fn new() -> Self {
            let feed = Feed::new().unwrap();
            let stream = connect(&feed);
            let telling = feed.clone();
            let thread = Some(thread::spawn(move || telling.run()));
            until_heard(&feed, true);
            Self { feed, stream, thread }
        }

        fn next(&mut self) -> String {
            next(&mut self.stream)
        }

        fn answer(&mut self, count: usize) {
            self.stream.write_all(&vec![0; count]).unwrap();
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            self.feed.quit();
            self.thread.take().unwrap().join().unwrap().unwrap();
        }
    }

    fn connect(feed: &Feed) -> UnixStream {
        let (mut stream, theirs) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&[LISTENS]).unwrap();
        feed.connect(theirs).unwrap();
        stream
    }

    /// Until that is done by the thread.
    fn until_heard(feed: &Feed, heard: bool) {
        while feed.state().heard != heard || feed.state().next.is_some() {
            thread::yield_now();
        }
    }

    /// The next message that is not empty, with bars for zeros.
    fn next(stream: &mut UnixStream) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(&[0, 0]) || bytes == [0, 0] {
            if bytes == [0, 0] {
                bytes.clear();
            }
            let mut byte = [1];
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        String::from_utf8(bytes).unwrap().replace('\0', "|")
    }

    #[test]
    fn as_many_are_told_as_are_answered() {
        let mut listener = Listener::new();
        for number in 0..2 * WINDOW {
            listener.feed.add("tag", number.to_string().into(), modified());
        }
        let first: Vec<String> = (0..WINDOW).map(|_| listener.next()).collect();
        assert_eq!((first[0].as_str(), first[WINDOW - 1].as_str()), ("m|0|tag|0||", "m|0|tag|31||"));
        // Nothing more comes before all are answered, and meanwhile it is one message.
        let path = || WINDOW.to_string().into();
        listener.feed.add("tag", path(), Change { attributes: true, ..none() });
        listener.answer(WINDOW - 1);
        listener.stream.set_nonblocking(true).unwrap();
        assert_eq!(listener.stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        listener.stream.set_nonblocking(false).unwrap();
        listener.answer(1);
        assert_eq!(listener.next(), "ma|0|tag|32||");
        // A name is its bytes, and a share has names of its own.
        listener.answer(WINDOW);
        (1..WINDOW).for_each(|_| drop(listener.next()));
        listener.feed.add("other", b"32".to_vec(), Change { removed: FOLDER, left: Some(9), ..none() });
        assert_eq!(listener.next(), "Rs|9|other|32||");
    }

    #[test]
    fn who_is_not_there_hears_nothing_and_the_last_one_all() {
        let nobody = Feed::new().unwrap();
        nobody.add("tag", b"early".to_vec(), modified());
        assert!(nobody.state().order.is_empty());
        let mut listener = Listener::new();
        listener.feed.add("tag", b"one".to_vec(), modified());
        assert_eq!(listener.next(), "m|0|tag|one||");
        // The first one has not answered, and never will.
        let mut second = connect(&listener.feed);
        assert_eq!(listener.stream.read(&mut [0; 9]).unwrap(), 0);
        until_heard(&listener.feed, true);
        listener.feed.add("tag", b"two".to_vec(), modified());
        assert_eq!(next(&mut second), "m|0|tag|two||");
        // What is at the other end begins anew, and will not answer that either.
        second.write_all(&[LISTENS]).unwrap();
        second.read_exact(&mut [1; 2]).unwrap();
        listener.feed.add("tag", b"three".to_vec(), modified());
        assert_eq!(next(&mut second), "m|0|tag|three||");
        // The second goes, and is not waited for.
        listener.feed.add("tag", b"four".to_vec(), modified());
        drop(second);
        until_heard(&listener.feed, false);
        let mut third = connect(&listener.feed);
        until_heard(&listener.feed, true);
        listener.feed.add("tag", b"five".to_vec(), modified());
        assert_eq!(next(&mut third), "m|0|tag|five||");
    }

    #[test]
    fn who_does_not_say_to_listen_is_told_nothing() {
        let feed = Feed::new().unwrap();
        let (mut silent, theirs) = UnixStream::pair().unwrap();
        feed.connect(theirs).unwrap();
        let telling = feed.clone();
        let thread = thread::spawn(move || telling.run());
        until_heard(&feed, false);
        feed.add("tag", b"file".to_vec(), modified());
        assert!(feed.state().order.is_empty());
        feed.quit();
        thread.join().unwrap().unwrap();
        drop(feed);
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn what_waits_has_an_end() {
        let feed = Feed::new().unwrap();
        feed.state().heard = true;
        for number in 0..MOST + 10 {
            feed.add("tag", number.to_string().into(), modified());
        }
        feed.add("tag", b"7".to_vec(), Change { attributes: true, ..none() });
        let state = feed.state();
        assert_eq!((state.order.len(), state.changes.len()), (MOST, MOST));
        assert!(state.changes.values().any(|change| change.attributes));
        drop(state);
        while !feed.take(WINDOW).is_empty() {}
        assert_eq!(feed.state().bytes, 0);
        for number in 0..MOST_BYTES / 1000 + 10 {
            feed.add("tag", format!("{number:01000}").into(), modified());
        }
        assert_eq!(feed.state().order.len(), MOST_BYTES / 1000);
    }
}
