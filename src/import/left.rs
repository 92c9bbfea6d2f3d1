//! The lines of a Ruby file that are not in the TOML, and why.

/// Characters of a line that are shown.
const LONGEST: usize = 100;

/// Why a line was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// It means something that the TOML lacks.
    Lost,
    /// It means nothing to rvm: a matter of Vagrant or of another hypervisor.
    Needless,
}

/// A line (or several, as one expression) that was not carried over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its number, from 1.
    pub line: usize,
    /// The last line of what it begins.
    pub last: usize,
    /// The line itself, shortened, without what looks like a secret.
    pub text: String,
    /// Why it was not carried over: a fragment without a full stop.
    pub reason: String,
    /// Whether anything is missing for it.
    pub sort: Sort,
}

impl Left {
    /// `12` or `12-18`.
    pub fn lines(&self) -> String {
        if self.last > self.line { format!("{}-{}", self.line, self.last) } else { self.line.to_string() }
    }
}

/// Collects them, each once.
pub(super) struct Notes<'s> {
    lines: Vec<&'s str>,
    list: Vec<Left>,
}

/// Notes that are kept; a loop of hostile length must not make more.
const MOST: usize = 2000;

impl<'s> Notes<'s> {
    /// None yet.
    pub fn new(source: &'s str) -> Self {
        Notes { lines: source.lines().collect(), list: Vec::new() }
    }

    /// Notes lines `line` to `last`.
    pub fn add(&mut self, sort: Sort, (line, last): (usize, usize), reason: impl Into<String>) {
        let reason = one_line(&reason.into());
        let known = self.list.iter().any(|left| left.line == line && left.reason == reason);
        if known || self.list.len() >= MOST {
            return;
        }
        let text = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let text = one_line(&without_secrets(text.trim()));
        self.list.push(Left { line, last: last.max(line), text, reason, sort });
    }

    /// All of them by line.
    pub fn into_list(mut self) -> Vec<Left> {
        self.list.sort_by_key(|left| (left.line, left.sort));
        self.list
    }
}

/// Text as it may stand in a message or a comment: one short line without control characters.
pub(super) fn one_line(text: &str) -> String {
    let plain = |c: char| {
        let steers = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steers { ' ' } else { c }
    };
    let mut short: String = text.chars().map(plain).take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

/// The line without the strings on it where it speaks of a secret: it is shown and copied.
fn without_secrets(line: &str) -> String {
    let lower = line.to_lowercase();
    if !["password", "passwd", "secret", "token", "api_key", "apikey"].iter().any(|word| lower.contains(word))
    {
        return line.to_owned();
    }
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(c);
        if c != '"' && c != '\'' {
            continue;
        }
        let inside: String = std::iter::from_fn(|| chars.next_if(|next| *next != c)).collect();
        // Names of options are no secrets.
        let shown = inside == "shell" || inside.is_empty();
        out.push_str(if shown { &inside } else { "…" });
        out.extend(chars.next());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_noted_once_and_in_order() {
        let mut notes = Notes::new("one\n  two = \"x\"\nthree\n");
        notes.add(Sort::Lost, (3, 3), "why");
        notes.add(Sort::Lost, (2, 3), "why");
        notes.add(Sort::Lost, (2, 3), "why");
        notes.add(Sort::Needless, (99, 99), "beyond the file");
        let list = notes.into_list();
        let shown: Vec<_> = list.iter().map(|left| (left.lines(), left.text.as_str())).collect();
        assert_eq!(
            shown,
            [("2-3".into(), "two = \"x\""), ("3".into(), "three"), ("99".into(), "")] as [(String, &str); 3]
        );
    }

    #[test]
    fn secrets_and_control_characters_are_not_shown() {
        assert_eq!(without_secrets("config.ssh.password = 'hunter2'"), "config.ssh.password = '…'");
        assert_eq!(without_secrets("env: {\"DB_PASSWORD\" => \"x\"}"), "env: {\"…\" => \"…\"}");
        assert_eq!(without_secrets("config.vm.box = 'x'"), "config.vm.box = 'x'");
        assert_eq!(without_secrets("token = \"unfinished"), "token = \"…");
        assert_eq!(one_line("a\u{1b}[31m\u{202e}b"), "a [31m b");
        assert_eq!(one_line(&"x".repeat(500)).chars().count(), LONGEST + 1);
    }
}
