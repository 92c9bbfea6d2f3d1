//! The ENV file: names and values, parsed by `dotenvy`, and nothing expanded.
//!
//! `dotenvy` itself replaces `$NAME` in values from the environment of the process, and
//! an unknown one by nothing, which silently spoils a password such as `pa$word`. So each
//! entry is handed to it on its own with every `$` escaped: a `$` is a `$`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::read::{self, ReadError};

/// What an ENV file holds, or several that are laid over each other.
#[derive(Default)]
pub(super) struct EnvFile {
    /// The files that there are.
    pub paths: Vec<PathBuf>,
    /// The last value of each name, and its line.
    pub entries: BTreeMap<String, Entry>,
    /// Every value that stands in the file, with its name; also those overridden further down.
    pub all: Vec<(String, String)>,
}

/// A value and where it begins.
pub(super) struct Entry {
    /// The value.
    pub value: String,
    /// From 1.
    pub line: usize,
    /// Its file among `paths`.
    file: usize,
}

/// What is wrong with an ENV file. Never holds a value.
#[derive(Debug)]
pub(super) struct EnvProblem {
    /// From 1; `None`: about the file as a whole.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: &'static str,
    /// There is no such file (which is fine for the default one).
    pub missing: bool,
}

impl EnvFile {
    /// Reads `path`. Entries that can be understood are kept beside the problems.
    pub fn load(path: &Path) -> (Self, Vec<EnvProblem>) {
        let whole = |message: String, help, missing| EnvProblem { line: None, message, help, missing };
        let problem = match read::text(path) {
            Ok(text) => {
                let (mut file, problems) = Self::parse(&text);
                file.paths.push(path.to_owned());
                return (file, problems);
            }
            Err(ReadError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                whole("there is no such ENV file".into(), "write it, or correct `env_file`", true)
            }
            Err(ReadError::Io(e)) => {
                whole(format!("cannot read the ENV file: {e}"), "check that you may read it", false)
            }
            Err(ReadError::NotAFile(what)) => {
                whole(format!("the ENV file is {what}"), "name a file of `NAME=value` lines", false)
            }
            Err(ReadError::TooLarge) => {
                whole("the ENV file is larger than 1 MiB".into(), "name a file of `NAME=value` lines", false)
            }
            Err(ReadError::NotText { offset, line }) => EnvProblem {
                line: Some(line),
                message: format!("the ENV file is not UTF-8 text (byte {offset})"),
                help: "save it as UTF-8",
                missing: false,
            },
        };
        (EnvFile::default(), vec![problem])
    }

    /// Takes the entries of another file; they win.
    pub fn lay_over(&mut self, other: EnvFile) {
        let before = self.paths.len();
        self.paths.extend(other.paths);
        self.all.extend(other.all);
        let moved = other.entries.into_iter();
        self.entries.extend(moved.map(|(name, entry)| (name, Entry { file: before + entry.file, ..entry })));
    }

    /// The file and the line (from 1) that a name is on.
    pub fn place(&self, name: &str) -> Option<(&Path, usize)> {
        let entry = self.entries.get(name)?;
        Some((self.paths.get(entry.file)?, entry.line))
    }

    /// The entries of `text`, and what is wrong with the others.
    pub fn parse(text: &str) -> (Self, Vec<EnvProblem>) {
        let mut file = EnvFile::default();
        let mut problems = Vec::new();
        for (line, entry) in entries(text) {
            match parse_entry(&entry) {
                Ok(pairs) => {
                    for (name, value) in pairs {
                        file.all.push((name.clone(), value.clone()));
                        file.entries.insert(name, Entry { value, line, file: 0 });
                    }
                }
                Err((message, help)) => problems.push(EnvProblem {
                    line: Some(line),
                    message: message.into(),
                    help,
                    missing: false,
                }),
            }
        }
        (file, problems)
    }
}

/// A raw entry: one line, or several where a quote stays open.
struct RawEntry {
    /// With each `$` outside single quotes escaped.
    escaped: String,
    /// A quote is still open at the end of the file.
    open: bool,
    /// Ends in a lone `\`, which `dotenvy` would drop.
    dangling: bool,
    /// Has a `${NAME}` outside single quotes, which other tools would fill in.
    expands: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Plain,
    Space,
    Weak,
    Strong,
    Comment,
}

/// The entries with the line that each begins on. Follows the quoting rules of `dotenvy`.
fn entries(text: &str) -> Vec<(usize, RawEntry)> {
    let mut list = Vec::new();
    let mut lines = text.split('\n').enumerate();
    while let Some((index, first)) = lines.next() {
        let trimmed = first.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let mut entry = RawEntry { escaped: String::new(), open: false, dangling: false, expands: false };
        let mut state = State::Plain;
        let mut next = Some(first);
        while let Some(line) = next.take() {
            state = scan(line.strip_suffix('\r').unwrap_or(line), state, &mut entry);
            if matches!(state, State::Weak | State::Strong) {
                entry.escaped.push('\n');
                next = lines.next().map(|(_, line)| line);
                entry.open = next.is_none();
            }
        }
        list.push((index + 1, entry));
    }
    list
}

/// One line of an entry, `$` escaped on the way; the state at its end.
fn scan(line: &str, mut state: State, entry: &mut RawEntry) -> State {
    let mut chars = line.chars().peekable();
    entry.dangling = false;
    while let Some(c) = chars.next() {
        if c == '$' && state != State::Strong && state != State::Comment {
            entry.expands |= chars.peek() == Some(&'{');
            entry.escaped.push('\\');
        }
        entry.escaped.push(c);
        state = match (state, c) {
            (State::Comment, _) => State::Comment,
            (State::Space, '#') => State::Comment,
            (State::Plain | State::Space | State::Weak, '\\') => {
                match chars.next() {
                    Some(escaped) => entry.escaped.push(escaped),
                    None => entry.dangling = true,
                }
                if state == State::Weak { State::Weak } else { State::Plain }
            }
            (State::Strong, '\'') | (State::Weak, '"') => State::Plain,
            (State::Strong | State::Weak, _) => state,
            (_, '\'') => State::Strong,
            (_, '"') => State::Weak,
            (_, ' ' | '\t') => State::Space,
            _ => State::Plain,
        };
    }
    state
}

fn parse_entry(entry: &RawEntry) -> Result<Vec<(String, String)>, (&'static str, &'static str)> {
    if entry.open {
        return Err((
            "a quote that opens here is never closed",
            "close it, or put the value in other quotes",
        ));
    }
    if entry.dangling {
        return Err(("a value ends in a single `\\`", "write `\\\\`, or put the value in single quotes"));
    }
    if entry.expands {
        return Err((
            "`${…}` is not filled in inside an ENV file",
            "write the value out, or put it in single quotes if it is meant as it stands",
        ));
    }
    let with_end = format!("{}\n", entry.escaped);
    let mut pairs = Vec::new();
    for item in dotenvy::from_read_iter(with_end.as_bytes()) {
        // The error holds the line, and the line holds the value: neither goes on.
        let (name, value) = item.map_err(|_| {
            ("this is not a `NAME=value` line", "put values with spaces, quotes or `\\` in single quotes")
        })?;
        if value.contains('\0') {
            return Err(("a value holds a NUL byte", "remove it: no shell can take it"));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(text: &str) -> Vec<(String, String)> {
        let (file, problems) = EnvFile::parse(text);
        assert!(problems.is_empty(), "{problems:?}");
        file.all
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn the_usual_forms() {
        let text = "\n# comment\nA=1\nexport B = two\nC=\"three \\\"3\\\" # not a comment\"\nD='four $4'\n\
                    E=\"first\nsecond\"\nF=a=b=c # comment with 'quote\nG=\nH=last ";
        let expected = [
            pair("A", "1"),
            pair("B", "two"),
            pair("C", "three \"3\" # not a comment"),
            pair("D", "four $4"),
            pair("E", "first\nsecond"),
            pair("F", "a=b=c"),
            pair("G", ""),
            pair("H", "last"),
        ];
        assert_eq!(values(text), expected);
        assert_eq!(values(&text.replace('\n', "\r\n"))[0], expected[0]);
    }

    #[test]
    fn a_dollar_is_a_dollar() {
        let text = "A=pa$word\nB=\"$HOME\"\nC='${X}'\nD=\\$x\nE=$\nF=\"a\\$b\"\n";
        let got: Vec<String> = values(text).into_iter().map(|(_, v)| v).collect();
        assert_eq!(got, ["pa$word", "$HOME", "${X}", "$x", "$", "a$b"]);
    }

    #[test]
    fn the_last_value_of_a_name_wins_and_both_are_known() {
        let (file, _) = EnvFile::parse("A=one\nA=two\n");
        assert_eq!(file.entries["A"].value, "two");
        assert_eq!(file.entries["A"].line, 2);
        assert_eq!(file.all.len(), 2);
    }

    #[test]
    fn later_files_win() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join(".env"), dir.path().join(".env.local")];
        std::fs::write(&paths[0], "A=1\nB=1\n").unwrap();
        std::fs::write(&paths[1], "\nB=2\nC=2\n").unwrap();
        let mut all = EnvFile::default();
        all.lay_over(EnvFile::load(&dir.path().join("none")).0);
        for path in &paths {
            all.lay_over(EnvFile::load(path).0);
        }
        let values: Vec<_> = all.entries.iter().map(|(name, e)| (name.as_str(), e.value.as_str())).collect();
        assert_eq!(values, [("A", "1"), ("B", "2"), ("C", "2")]);
        assert_eq!(all.place("A"), Some((paths[0].as_path(), 1)));
        assert_eq!(all.place("B"), Some((paths[1].as_path(), 2)));
        assert_eq!(all.all.len(), 4);
    }

    #[test]
    fn values_with_equal_signs_quotes_export_and_several_lines() {
        let text = "export URL=\"postgres://u:p@h/db?a=1&b=2\"\nexport\tTOKEN='a=b==\nc=d'\nRAW=k1=v1;k2=v2\n\
                    MIXED='it'\"'\"'s'\nJSON='{\"a\": \"b=c\"}'\nKEY=\"-----BEGIN-----\nAAA=\n-----END-----\"\nLAST==\n";
        let expected = [
            pair("URL", "postgres://u:p@h/db?a=1&b=2"),
            pair("TOKEN", "a=b==\nc=d"),
            pair("RAW", "k1=v1;k2=v2"),
            pair("MIXED", "it's"),
            pair("JSON", "{\"a\": \"b=c\"}"),
            pair("KEY", "-----BEGIN-----\nAAA=\n-----END-----"),
            pair("LAST", "="),
        ];
        assert_eq!(values(text), expected);
        assert_eq!(values(&text.replace('\n', "\r\n"))[6], expected[6]);
    }

    #[test]
    fn faults_name_the_line_and_never_the_value() {
        let text = "OK=1\nsecret phrase\nX=\"hush\nhush\"hush\"\nY=a\\qb\nZ=${OK}hush\nW=hush\\\nE='hush\n";
        let (file, problems) = EnvFile::parse(text);
        let lines: Vec<_> = problems.iter().filter_map(|p| p.line).collect();
        assert_eq!(file.entries["OK"].value, "1");
        assert!(lines.contains(&2), "{problems:?}");
        assert!(problems.len() >= 2);
        assert!(!format!("{problems:?}").contains("hush"), "{problems:?}");
        assert!(!format!("{problems:?}").contains("phrase"));
    }

    #[test]
    fn each_fault_has_its_own_words() {
        for (text, word) in [
            ("A='x\n", "never closed"),
            ("A=x\\", "single `\\`"),
            ("A=${B}", "filled in"),
            ("A", "NAME=value"),
            ("A=b c", "NAME=value"),
            ("1A=b", "NAME=value"),
            ("A=\0", "NUL"),
        ] {
            let (_, problems) = EnvFile::parse(text);
            assert_eq!(problems.len(), 1, "{text:?}");
            assert!(problems[0].message.contains(word), "{text:?}: {problems:?}");
        }
    }

    proptest! {
        /// Escaping changes nothing but the meaning of `$`: with a letter in its place
        /// `dotenvy` reads the same.
        #[test]
        fn a_dollar_is_read_like_a_letter(value in "(\\\\[n' \"]|[ab#$ \t='\"\n]){0,24}") {
            let text = format!("K={value}");
            let (file, problems) = EnvFile::parse(&text);
            let plain = format!("{}\n", text.replace('$', "S"));
            let reference: Result<Vec<_>, _> = dotenvy::from_read_iter(plain.as_bytes()).collect();
            if let (true, Ok(reference)) = (problems.is_empty(), reference) {
                let got: Vec<_> = file.all.iter().map(|(k, v)| (k.replace('$', "S"), v.replace('$', "S"))).collect();
                prop_assert_eq!(got, reference);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            EnvFile::parse(&text);
        }

        #[test]
        fn no_shape_panics(text in "[A-Z='\"\\\\$#{} \r\n\t]{0,64}") {
            EnvFile::parse(&text);
        }
    }
}
