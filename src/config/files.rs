//! `file = { … }` in a step.

use crate::model::{Exclude, FileCopy, StepKind};

use super::keys::Place;
use super::report::brief;
use super::walk::{Reader, Table};

const FORM: &str = "write `file = { source = \"local\", destination = \"in/the/guest\" }`";
/// Longest name of a user or a group (useradd(8)).
const LONGEST_NAME: usize = 32;

impl Reader<'_> {
    pub(super) fn file(&mut self, table: &Table<'_>) -> Option<StepKind> {
        let value = table.raw("file")?;
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong(&value.span(), "`file` says neither where from nor where to", FORM);
            return None;
        };
        let file = self.open(entries, value.span(), Place::File);
        for key in ["source", "destination"] {
            if file.raw(key).is_none() {
                self.wrong(&file.span, format!("`file` has no `{key}`"), FORM);
            }
        }
        let source = self.text(&file, "source", "\"site/index.html\"");
        let source = source.and_then(|source| self.host_path(&source, "source"));
        let destination = self.text(&file, "destination", "\"/var/www/html/index.html\"").and_then(|text| {
            let fine = !text.value.value.trim().is_empty() && !text.value.value.contains(['\0', '\n']);
            if !fine {
                self.wrong(&text.span, "`destination` is not a path", "write a path in the guest");
            }
            fine.then_some(text.value.value)
        });
        if let (Some(source), Some(span)) = (&source, file.key_span("exclude"))
            && !source.is_dir()
        {
            self.wrong(&span, "`exclude` is for folders, and `source` is a file", "remove it");
        }
        let exclude = self.exclude(&file);
        let owner = self.account(&file, "owner");
        let group = self.account(&file, "group");
        let mode = self.mode(&file);
        let (source, destination) = (source?, destination?);
        let copy = FileCopy {
            exclude: exclude?,
            owner: owner?,
            group: group?,
            mode: mode?,
            ..FileCopy::new(source, destination)
        };
        Some(StepKind::File(Box::new(copy)))
    }

    fn exclude(&mut self, table: &Table<'_>) -> Option<Exclude> {
        if table.raw("exclude").is_none() {
            return Some(Exclude::default());
        }
        let patterns = self.texts(table, "exclude", "[\"*.log\", \"node_modules/\"]")?;
        let mut fine = true;
        for pattern in &patterns {
            if let Err(why) = Exclude::new([pattern.value.value.as_str()]) {
                fine = false;
                let message = format!("{:?} is not a pattern: {why}", brief(&pattern.value.shown));
                self.wrong(&pattern.span, message, "write it as in a .gitignore");
            }
        }
        let all = Exclude::new(patterns.iter().map(|pattern| pattern.value.value.as_str()));
        all.ok().filter(|_| fine)
    }

    /// A user or group of the guest: `Some(None)` where the key is not there.
    fn account(&mut self, table: &Table<'_>, key: &str) -> Option<Option<String>> {
        if table.raw(key).is_none() {
            return Some(None);
        }
        let name = self.text(table, key, "\"www-data\"")?;
        if !is_account(&name.value.value) {
            let message = format!("`{key}` cannot be {:?}", brief(&name.value.shown));
            self.wrong(&name.span, message, "write the name of one in the guest, or its number");
            return None;
        }
        Some(Some(name.value.value))
    }

    fn mode(&mut self, table: &Table<'_>) -> Option<Option<u32>> {
        if table.raw("mode").is_none() {
            return Some(None);
        }
        let text = self.text(table, "mode", "\"0644\"")?;
        let mode = parse_mode(&text.value.value);
        if mode.is_none() {
            let message = format!("`mode` cannot be {:?}", brief(&text.value.shown));
            self.wrong(&text.span, message, "write it as chmod takes it in octal digits, such as \"0644\"");
        }
        mode.map(Some)
    }
}

/// A name that Linux tools make (useradd(8)), or a number.
fn is_account(name: &str) -> bool {
    let is_name = name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c));
    // The last number means "nobody" to chown(2).
    is_name || (name.chars().all(|c| c.is_ascii_digit()) && name.parse().is_ok_and(|id: u32| id < u32::MAX))
}

/// Three or four octal digits.
fn parse_mode(text: &str) -> Option<u32> {
    let fits = matches!(text.len(), 3 | 4) && text.chars().all(|c| c.is_digit(8));
    fits.then(|| u32::from_str_radix(text, 8).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_and_modes() {
        for name in ["www-data", "_apt", "root", "0", "1000", "a.b"] {
            assert!(is_account(name), "{name}");
        }
        for name in ["", "-x", "Root", "a b", "a:b", "1a", "4294967295", "99999999999", "$x"] {
            assert!(!is_account(name), "{name}");
        }
        assert_eq!(["644", "0644", "4755"].map(parse_mode), [Some(0o644), Some(0o644), Some(0o4755)]);
        for text in ["", "64", "888", "00644", "u+x", "+644"] {
            assert_eq!(parse_mode(text), None, "{text}");
        }
    }
}
