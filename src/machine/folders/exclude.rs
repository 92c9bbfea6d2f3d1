//! Which names are left out of a copy: patterns with the meaning that `rsync --exclude` gives them
//! (rsync(1), "PATTERN MATCHING RULES").

use std::path::{Path, PathBuf};

use regex::bytes::{Regex, RegexBuilder};

/// Left out of every copy, at its top: where rvm and Vagrant keep what they know of the project.
pub(super) const ALWAYS: &[&str] = &["/.rvm/", "/.vagrant/"];

/// What is left out of a copy.
#[derive(Debug)]
pub(super) struct Excluded {
    patterns: Vec<Pattern>,
    hidden: Vec<PathBuf>,
}

#[derive(Debug)]
struct Pattern {
    regex: Regex,
    folders_only: bool,
}

impl Excluded {
    /// By patterns, and by paths relative to the top. A pattern that is too large to be one is no pattern:
    /// the configuration takes none of these.
    pub fn new(patterns: &[String], hidden: &[PathBuf]) -> Excluded {
        let all = ALWAYS.iter().copied().chain(patterns.iter().map(String::as_str));
        Excluded { patterns: all.filter_map(Pattern::new).collect(), hidden: hidden.to_vec() }
    }

    /// The same as patterns for `rsync --exclude`.
    pub fn words(patterns: &[String], hidden: &[PathBuf]) -> Vec<std::ffi::OsString> {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let all = ALWAYS.iter().copied().chain(patterns.iter().map(String::as_str)).map(Into::into);
        let literal = |path: &PathBuf| {
            let mut word = b"/".to_vec();
            let bytes = path.as_os_str().as_bytes();
            // Without any of these, a backslash stands for itself.
            let wild = bytes.iter().any(|byte| b"*?[".contains(byte));
            for byte in bytes {
                if wild && b"*?[\\".contains(byte) {
                    word.push(b'\\');
                }
                word.push(*byte);
            }
            std::ffi::OsString::from_vec(word)
        };
        all.chain(hidden.iter().map(literal)).collect()
    }

    /// Whether a path, relative to the top, is left out. What is in a folder that is left out is, too: that
    /// is for the caller to see, who comes by the folder first.
    pub fn is(&self, path: &[u8], folder: bool) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let plain = Path::new(std::ffi::OsStr::from_bytes(path));
        self.hidden.iter().any(|hidden| hidden == plain)
            || self
                .patterns
                .iter()
                .any(|pattern| (folder || !pattern.folders_only) && pattern.regex.is_match(path))
    }

    /// Whether a path or a folder that it is in is left out.
    pub fn is_within(&self, path: &[u8], folder: bool) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut above = ends.filter_map(|at| path.get(..at));
        above.any(|folder| self.is(folder, true)) || self.is(path, folder)
    }
}

impl Pattern {
    fn new(text: &str) -> Option<Pattern> {
        let folders_only = text.ends_with('/');
        let text = text.strip_suffix('/').unwrap_or(text);
        // At the top, or at the end of any path: a pattern without a slash fits the last part of it.
        let (begin, text) = match text.strip_prefix('/') {
            Some(rest) => ("^", rest),
            None => ("(?:^|/)", text),
        };
        let (text, end) = match text.strip_suffix("/***") {
            Some(rest) => (rest, "(?:/.*)?$"),
            None => (text, "$"),
        };
        let body = if text.contains(['*', '?', '[']) { wild(text) } else { regex::escape(text) };
        let regex = RegexBuilder::new(&format!("{begin}{body}{end}"))
            .unicode(false)
            .dot_matches_new_line(true)
            .build()
            .ok()?;
        Some(Pattern { regex, folders_only })
    }
}

/// A pattern with wild cards as a regular expression.
fn wild(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                while chars.next_if_eq(&'*').is_some() {}
                out.push_str(".*");
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '\\' => out.push_str(&regex::escape(&chars.next().unwrap_or('\\').to_string())),
            '[' => match class(&mut chars) {
                Some(class) => out.push_str(&class),
                // One that is not closed fits nothing.
                None => out.push_str("[^\\x00-\\xff]"),
            },
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    out
}

/// `[…]` behind its bracket; never a slash. Characters that are no ASCII fit nothing: a name is bytes.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let negated = chars.next_if(|c| matches!(c, '!' | '^')).is_some();
    let mut fits = [false; 256];
    let mut first = true;
    loop {
        let c = match chars.next()? {
            ']' if !first => break,
            '[' if chars.peek() == Some(&':') => {
                chars.next();
                let name: String = std::iter::from_fn(|| chars.next_if(|c| *c != ':')).collect();
                (chars.next() == Some(':') && chars.next() == Some(']')).then_some(())?;
                let named = named(&name)?;
                (0..=u8::MAX).filter(named).for_each(|byte| set(&mut fits, byte));
                first = false;
                continue;
            }
            '\\' => chars.next()?,
            c => c,
        };
        first = false;
        let mut last = c;
        let mut ahead = chars.clone();
        if ahead.next() == Some('-') && ahead.peek().is_some_and(|c| *c != ']') {
            chars.next();
            last = match chars.next()? {
                '\\' => chars.next()?,
                c => c,
            };
        }
        if let (Ok(from), Ok(to)) = (u8::try_from(c), u8::try_from(last)) {
            (from..=to).filter(u8::is_ascii).for_each(|byte| set(&mut fits, byte));
        }
    }
    let member =
        |byte: &u8| *byte != b'/' && fits.get(usize::from(*byte)).is_some_and(|fits| *fits != negated);
    let bytes: String = (0..=u8::MAX).filter(member).map(|byte| format!("\\x{byte:02x}")).collect();
    Some(if bytes.is_empty() { "[^\\x00-\\xff]".into() } else { format!("[{bytes}]") })
}

fn set(fits: &mut [bool; 256], byte: u8) {
    if let Some(slot) = fits.get_mut(usize::from(byte)) {
        *slot = true;
    }
}

/// A class of POSIX.
fn named(name: &str) -> Option<fn(&u8) -> bool> {
    Some(match name {
        "alnum" => u8::is_ascii_alphanumeric,
        "alpha" => u8::is_ascii_alphabetic,
        "digit" => u8::is_ascii_digit,
        "lower" => u8::is_ascii_lowercase,
        "upper" => u8::is_ascii_uppercase,
        "space" => |byte| byte.is_ascii_whitespace() || *byte == 0x0b,
        "blank" => |byte| matches!(byte, b' ' | b'\t'),
        "punct" => u8::is_ascii_punctuation,
        "xdigit" => u8::is_ascii_hexdigit,
        "cntrl" => u8::is_ascii_control,
        "graph" => u8::is_ascii_graphic,
        "print" => |byte| byte.is_ascii_graphic() || *byte == b' ',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each with paths that it leaves out, and paths that it does not; `/` at the end: a folder.
    const CASES: &[(&str, &[&str], &[&str])] = &[
        ("*.o", &["a.o", "d/e/a.o", ".o", "x.o/"], &["a.oo", "a.o/b"]),
        ("/foo", &["foo", "foo/"], &["a/foo", "foobar"]),
        ("foo/", &["foo/", "a/foo/"], &["foo", "a/foo"]),
        ("foo/bar", &["foo/bar", "a/foo/bar"], &["xfoo/bar", "foo/a/bar"]),
        ("/foo/*/bar", &["foo/x/bar"], &["foo/bar", "foo/x/y/bar", "a/foo/x/bar"]),
        ("/foo/**/bar", &["foo/x/bar", "foo/x/y/bar"], &["foo/bar", "foo/x/bard"]),
        ("dir/***", &["dir/", "dir/a", "dir/a/b", "x/dir/a"], &["dirs/", "adir/"]),
        ("a?c", &["abc", "x/axc"], &["ac", "a/c", "abbc"]),
        ("[a-c]x", &["ax", "d/bx"], &["dx", "x"]),
        ("[!a-c]x", &["dx", "-x"], &["ax", "/x"]),
        ("[^a]x", &["bx"], &["ax"]),
        ("[]]x", &["]x"], &["[x"]),
        ("[a-]x", &["-x", "ax"], &["bx"]),
        ("[[:digit:]]x", &["7x"], &["ax", "[x"]),
        ("[a", &[], &["[a", "a"]),
        ("a\\*b*", &["a*b", "a*bc"], &["axb", "ab"]),
        ("a\\b", &["a\\b"], &["ab"]),
        ("a.b", &["a.b"], &["axb"]),
        ("(x|y)+", &["(x|y)+"], &["x", "xy"]),
        ("", &[], &["a"]),
    ];

    fn is(excluded: &Excluded, path: &str) -> bool {
        match path.strip_suffix('/') {
            Some(folder) => excluded.is(folder.as_bytes(), true),
            None => excluded.is(path.as_bytes(), false),
        }
    }

    #[test]
    fn patterns_fit_what_they_fit_for_rsync() {
        for (pattern, fits, others) in CASES {
            let excluded = Excluded::new(&[pattern.to_string()], &[]);
            for path in *fits {
                assert!(is(&excluded, path), "{pattern} does not fit {path}");
            }
            for path in *others {
                assert!(!is(&excluded, path), "{pattern} fits {path}");
            }
        }
    }

    /// The same cases, asked of rsync itself.
    #[test]
    fn rsync_agrees() {
        use std::process::Command;
        for (pattern, fits, others) in CASES {
            for (path, fits) in fits.iter().map(|p| (p, true)).chain(others.iter().map(|p| (p, false))) {
                // What cannot be a name, and what is within a folder that is left out.
                if path.starts_with('/') || pattern.is_empty() {
                    continue;
                }
                let dir = tempfile::tempdir().unwrap();
                let (from, to) = (dir.path().join("from"), dir.path().join("to"));
                let whole = from.join(path.trim_end_matches('/'));
                match path.ends_with('/') {
                    true => std::fs::create_dir_all(&whole).unwrap(),
                    false => {
                        std::fs::create_dir_all(whole.parent().unwrap()).unwrap();
                        std::fs::write(&whole, "x").unwrap();
                    }
                }
                let output = Command::new("rsync")
                    .arg("-a")
                    .args(["--exclude", pattern])
                    .args([format!("{}/", from.display()), format!("{}/", to.display())])
                    .output()
                    .expect("the tests need the package rsync");
                assert!(output.status.success(), "{pattern}: {}", String::from_utf8_lossy(&output.stderr));
                let excluded = Excluded::new(&[pattern.to_string()], &[]);
                let ours = excluded.is_within(path.trim_end_matches('/').as_bytes(), path.ends_with('/'));
                let there = to.join(path.trim_end_matches('/')).exists();
                assert_eq!(!there, ours, "{pattern} and {path}");
                assert!(ours || !fits, "{pattern} and {path}");
            }
        }
    }

    #[test]
    fn names_need_not_be_text_and_what_is_inside_goes_too() {
        let excluded = Excluded::new(&["*.tmp".into(), "target/".into()], &["env/.env".into()]);
        assert!(excluded.is(b"a\xff.tmp", false) && !excluded.is(b"a\xff.txt", false));
        assert!(excluded.is_within(b"x/target/debug/a", false) && !excluded.is(b"x/target/debug/a", false));
        assert!(excluded.is(b".rvm", true) && excluded.is_within(b".vagrant/x", false));
        assert!(!excluded.is(b"sub/.rvm", true), "only at the top");
        assert!(excluded.is(b"env/.env", false) && !excluded.is(b".env", false));
    }

    #[test]
    fn hidden_names_are_literal_for_rsync() {
        let words = Excluded::words(&["*.o".into()], &["a*b".into(), "plain\\name".into()]);
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words, ["/.rvm/", "/.vagrant/", "*.o", "/a\\*b", "/plain\\name"]);
    }
}
