//! The table on a terminal, drawn anew in its place.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::SIGWINCH;

use super::rates::Row;
use super::{Watch, text};
use crate::cli::app::App;
use crate::cli::error::CliError;
use crate::cli::ui::Ui;
use crate::cli::{DONE, Outcome};
use crate::model::{Code, Stream};
use crate::vmm::RawMode;

/// The other screen, without a cursor, and back (ECMA-48 and xterm's private modes).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// The size of a terminal that does not say it.
const USUAL: (usize, usize) = (80, 24);
/// Keys that end it: q, Ctrl-C, Ctrl-D.
const END: [u8; 4] = [b'q', b'Q', 3, 4];
/// How long a stop from outside may go unseen.
const GLANCE: Duration = Duration::from_millis(200);

/// Shows the machines until a key ends it.
pub(super) fn run(app: &App, watch: &mut Watch<'_>, pause: Duration) -> Outcome {
    let cannot = |error: io::Error| {
        CliError::failed(Code::Terminal, "cannot use the terminal").because(&error).hint("`rvm top --once`")
    };
    let (resized, waker) = UnixStream::pair().map_err(cannot)?;
    resized.set_nonblocking(true).map_err(cannot)?;
    waker.set_nonblocking(true).map_err(cannot)?;
    signal_hook::low_level::pipe::register(SIGWINCH, waker).map_err(cannot)?;
    let screen = Screen::enter(&app.ui).map_err(cannot)?;
    let mut rows = watch.look()?;
    let mut next = Instant::now() + pause;
    screen.draw(&rows, pause);
    loop {
        let left = next.saturating_duration_since(Instant::now());
        match screen.wait(&resized, left.min(GLANCE)).map_err(cannot)? {
            Seen::End => return Ok(DONE),
            Seen::Nothing if app.cancel.is_cancelled() || app.ui.stdout_closed() => return Ok(DONE),
            Seen::Nothing if Instant::now() >= next => {
                rows = watch.look()?;
                next = Instant::now() + pause;
                screen.draw(&rows, pause);
            }
            Seen::Resized => screen.draw(&rows, pause),
            Seen::Nothing => {}
        }
    }
}

/// What happened while it waited.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    End,
    Resized,
    Nothing,
}

/// The terminal, as it was again once this is dropped.
struct Screen<'a> {
    ui: &'a Ui,
    raw: Option<RawMode>,
}

impl<'a> Screen<'a> {
    fn enter(ui: &'a Ui) -> io::Result<Self> {
        let raw = RawMode::enter()?;
        ui.bytes(Stream::Stdout, ENTER.as_bytes());
        Ok(Screen { ui, raw })
    }

    fn draw(&self, rows: &[Row], pause: Duration) {
        let size = tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let (columns, lines) = size.map_or(USUAL, |size| (size.ws_col.into(), size.ws_row.into()));
        let end = if self.raw.is_some() { "q ends" } else { "Ctrl-C ends" };
        let foot = format!("every {} s; {end}", pause.as_secs_f64());
        self.ui.bytes(Stream::Stdout, frame(&text::table(rows), &foot, columns, lines).as_bytes());
    }

    fn wait(&self, mut resized: &UnixStream, time: Duration) -> io::Result<Seen> {
        let stdin = stdin();
        let mut fds = vec![PollFd::new(resized, PollFlags::IN)];
        if self.raw.is_some() {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&time)) {
            Ok(0) | Err(Errno::INTR) => return Ok(Seen::Nothing),
            result => result?,
        };
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            let mut keys = [0; 64];
            return Ok(match rustix::io::read(stdin, &mut keys) {
                // A terminal that is gone.
                Ok(0) | Err(Errno::IO) => Seen::End,
                Ok(count) if keys.iter().take(count).any(|key| END.contains(key)) => Seen::End,
                Ok(_) | Err(Errno::INTR | Errno::AGAIN) => Seen::Nothing,
                Err(error) => return Err(error.into()),
            });
        }
        let mut bytes = [0; 64];
        while matches!(resized.read(&mut bytes), Ok(1..)) {}
        Ok(Seen::Resized)
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.ui.bytes(Stream::Stdout, LEAVE.as_bytes());
    }
}

/// One picture: what fits, in the place of the one before, and nothing of that left over.
pub(super) fn frame(table: &str, foot: &str, columns: usize, lines: usize) -> String {
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    let rows = lines.saturating_sub(2);
    let shown: Vec<&str> = table.lines().take(rows).collect();
    let hidden = table.lines().count().saturating_sub(shown.len());
    let more = if hidden > 0 { format!("{hidden} more; ") } else { String::new() };
    let mut out = String::from("\x1b[H");
    for (at, line) in shown.iter().enumerate() {
        let (on, off) = if at == 0 { ("\x1b[7m", "\x1b[0m") } else { ("", "") };
        out.push_str(&format!("{on}{}{off}\x1b[K\r\n", cut(line)));
    }
    out.push_str(&format!("\x1b[K\r\n{}\x1b[K\x1b[J", cut(&format!("{more}{foot}"))));
    out
}
