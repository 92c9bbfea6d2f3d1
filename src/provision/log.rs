//! What steps printed, kept in the machine's folder: the beginning and the end of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::model::hex;
use crate::state::store;

/// Folder of a machine's folder that holds one file a step.
const FOLDER: &str = "steps";

/// Bytes kept of the beginning, with line ends. They are in the file as soon as they were printed.
const HEAD: usize = 256 << 10;

/// Bytes kept of the end. They are in memory until the step ends.
const TAIL: usize = 768 << 10;

/// What begins the first line of a file; the name of the step follows.
const TITLE: &str = "step: ";

/// Where the output of the steps of one machine is kept.
#[derive(Debug, Clone)]
pub struct StepLogs {
    dir: PathBuf,
}

impl StepLogs {
    /// Those of a machine's folder; nothing is made yet.
    pub fn of(machine_dir: &Path) -> Self {
        StepLogs { dir: machine_dir.join(FOLDER) }
    }

    /// Begins the output of a step anew; what an earlier run printed is gone. The file is the owner's
    /// alone (mode 0600). `shown` is its name as it may be read by all who read the output.
    pub(super) fn begin(&self, step: &str, shown: &str) -> io::Result<StepLog> {
        store::create_private_dir(&self.dir)?;
        let mut file = store::create_empty(&self.path(step))?;
        writeln!(file, "{TITLE}{shown}")?;
        Ok(StepLog { file, head_left: HEAD, tail: VecDeque::new(), tail_bytes: 0, lines: 0, bytes: 0 })
    }

    /// What a step printed when it ran last; `None` when it has not run.
    pub fn read(&self, step: &str) -> io::Result<Option<String>> {
        let mut data = Vec::new();
        // Some room for the lines of our own.
        let most = (HEAD + TAIL) as u64 * 2;
        match File::open(self.path(step)) {
            Ok(file) => file.take(most).read_to_end(&mut data)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&data);
        Ok(Some(text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default()))
    }

    /// Names of the steps whose output is kept, sorted.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let mut start = Vec::new();
            File::open(entry?.path())?.take(1024).read_to_end(&mut start)?;
            let start = String::from_utf8_lossy(&start);
            names.extend(start.lines().next().and_then(|line| line.strip_prefix(TITLE)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// A step may have any name: the file has what is harmless of it, and a digest.
    fn path(&self, step: &str) -> PathBuf {
        let word: String =
            step.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
        let digest = hex(&Sha256::digest(step.as_bytes())[..6]);
        self.dir.join(format!("{word}.{digest}.log"))
    }
}

/// The output of a step that runs: bounded, however much it prints.
#[derive(Debug)]
pub(super) struct StepLog {
    file: File,
    head_left: usize,
    tail: VecDeque<String>,
    tail_bytes: usize,
    /// What was left out between the two.
    lines: u64,
    bytes: u64,
}

impl StepLog {
    /// Adds a line, given without its end.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        let size = text.len() + 1;
        if self.tail.is_empty() && size <= self.head_left {
            self.head_left -= size;
            return self.file.write_all(format!("{text}\n").as_bytes());
        }
        // What follows must not come before it.
        self.head_left = 0;
        self.tail.push_back(text.to_owned());
        self.tail_bytes += size;
        while self.tail_bytes > TAIL
            && let Some(gone) = self.tail.pop_front()
        {
            self.tail_bytes -= gone.len() + 1;
            self.lines += 1;
            self.bytes += gone.len() as u64 + 1;
        }
        Ok(())
    }

    /// Writes the end of the output.
    pub fn finish(mut self) -> io::Result<()> {
        let mut end = String::with_capacity(self.tail_bytes + 80);
        if self.lines > 0 {
            end.push_str(&format!("[… {} lines, {} bytes left out …]\n", self.lines, self.bytes));
        }
        for line in &self.tail {
            end.push_str(line);
            end.push('\n');
        }
        self.file.write_all(end.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn kept(lines: impl Iterator<Item = String>) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let logs = StepLogs::of(dir.path());
        let mut log = logs.begin("a/b c", "a/b c").unwrap();
        for line in lines {
            log.line(&line).unwrap();
        }
        log.finish().unwrap();
        let text = logs.read("a/b c").unwrap().unwrap();
        (dir, text)
    }

    #[test]
    fn little_is_kept_whole_and_for_the_owner_alone() {
        let (dir, text) = kept(["one".into(), String::new(), "two".into()].into_iter());
        assert_eq!(text, "one\n\ntwo\n");
        let logs = StepLogs::of(dir.path());
        assert_eq!(logs.names().unwrap(), ["a/b c"]);
        assert_eq!(logs.read("other").unwrap(), None);
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(logs.path("a/b c")), mode(logs.dir.clone())), (0o600, 0o700));
        logs.begin("a/b c", "a/b c").unwrap().finish().unwrap();
        assert_eq!(logs.read("a/b c").unwrap().unwrap(), "", "each run begins anew");
    }

    #[test]
    fn of_much_the_beginning_and_the_end_are_kept() {
        let (dir, text) = kept((0..500_000).map(|n| format!("line {n}")));
        assert!(text.len() <= HEAD + TAIL + 100, "{}", text.len());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[lines.len() - 1]), ("line 0", "line 499999"));
        let cut = lines.iter().position(|line| line.starts_with("[…")).unwrap();
        let number = |line: &str| line.strip_prefix("line ").unwrap().parse::<u64>().unwrap();
        let (before, after) = (number(lines[cut - 1]), number(lines[cut + 1]));
        let left_out = after - before - 1;
        assert!(lines[cut].starts_with(&format!("[… {left_out} lines, ")), "{}", lines[cut]);
        assert!(before > 20_000 && after < 450_000, "{before} {after}");
        drop(dir);
    }

    #[test]
    fn a_name_stays_inside_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let logs = StepLogs::of(dir.path());
        for name in ["../../x", "/etc/passwd", ".", "ü", &"x".repeat(64)] {
            let path = logs.path(name);
            assert_eq!(path.parent(), Some(logs.dir.as_path()));
            assert!(!path.file_name().unwrap().to_string_lossy().starts_with('.'), "{name}");
        }
        assert_ne!(logs.path("a b"), logs.path("a-b"));
    }
}
