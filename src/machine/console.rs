//! The serial console's log, for people.

use std::fs;
use std::io;
use std::path::Path;

use crate::provider::CONSOLE_LOG;
use crate::state::store;

fn older(dir: &Path) -> std::path::PathBuf {
    dir.join(format!("{CONSOLE_LOG}.1"))
}

/// Each start begins a new log; the one before is kept beside it.
pub(super) fn rotate(dir: &Path) {
    // No log yet is fine, and a log that cannot be moved is only appended to.
    let _ = fs::rename(dir.join(CONSOLE_LOG), older(dir));
}

/// All of it, oldest first.
pub(super) fn whole(dir: &Path) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for path in [older(dir), dir.join(CONSOLE_LOG)] {
        match fs::read(path) {
            Ok(data) => all.extend(data),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The last `count` lines of the present boot that say something, without control characters.
pub(super) fn tail(dir: &Path, count: usize) -> Vec<String> {
    let data = fs::read(dir.join(CONSOLE_LOG)).unwrap_or_default();
    let text = String::from_utf8_lossy(&data);
    let lines: Vec<String> = text.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
    lines.into_iter().rev().take(count).rev().collect()
}

/// A guest's line with escape sequences and control characters taken out.
fn printable(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // ECMA-48 control sequence: ESC [ parameters, ended by a byte from @ to ~.
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\t' => out.push(' '),
            c if c.is_control() => (),
            c => out.push(c),
        }
    }
    out
}

/// Removes the logs, so that a machine that is made anew does not show another's.
pub(super) fn clear(dir: &Path) -> io::Result<()> {
    store::remove(&older(dir))?;
    store::remove(&dir.join(CONSOLE_LOG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_the_present_boot_without_escapes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONSOLE_LOG), "old\n").unwrap();
        rotate(dir.path());
        fs::write(dir.path().join(CONSOLE_LOG), "a\r\n\n\u{1b}[1;31mred\u{1b}[0m\n\u{7}b\n").unwrap();
        assert_eq!(tail(dir.path(), 2), ["red", "b"]);
        assert!(whole(dir.path()).unwrap().starts_with(b"old\na"));
        clear(dir.path()).unwrap();
        assert!(whole(dir.path()).unwrap().is_empty());
    }
}
