//! Typed looks into the tree of the file. Each returns `None` where the key is missing or
//! wrong; what is wrong has then been noted.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Place, help_for};
use super::report::{Problems, brief};
use super::shares::Host;
use super::suggest::{nearest, one_of};
use super::units;
use super::vars::{Text, Vars};

/// Entries of one list of tables or strings; more are a mistake or an attack.
const MOST_ENTRIES: usize = 1000;

/// A value and the bytes of the file that say it.
#[derive(Debug, Clone)]
pub(super) struct Sp<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Range<usize>,
}

impl<T> Sp<T> {
    /// The same place, another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Sp<U> {
        Sp { value: change(self.value), span: self.span }
    }
}

/// A table whose keys have been checked.
#[derive(Clone)]
pub(super) struct Table<'t> {
    entries: &'t DeTable<'t>,
    /// Its header, or the whole of it where it is inline.
    pub span: Range<usize>,
}

impl<'t> Table<'t> {
    /// A table whose keys are not checked.
    pub fn unchecked(entries: &'t DeTable<'t>, span: Range<usize>) -> Self {
        Table { entries, span }
    }

    /// The value of a key, as it stands.
    pub fn raw(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.entries.get(key)
    }

    /// Where a key is written.
    pub fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.entries.get_key_value(key).map(|(name, _)| name.span())
    }
}

/// What is needed to read values: variables, the project folder, and a place for problems.
pub(super) struct Reader<'a> {
    /// The folder of the file, absolute.
    pub root: PathBuf,
    /// What `${NAME}` and `{i}` stand for.
    pub vars: Vars<'a>,
    /// What shares are shares of.
    pub host: Option<Host>,
    /// What is wrong so far.
    pub problems: Problems,
    /// The private networks so far.
    pub networks: super::networks::Networks,
    /// The volumes of the project.
    pub volumes: Vec<crate::model::Volume>,
    /// The ENV files by all their names, once they have been asked for.
    pub env_names: std::cell::OnceCell<Vec<PathBuf>>,
}

impl<'a> Reader<'a> {
    /// Notes a problem.
    pub fn wrong(&mut self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.add(span, message, help);
    }

    /// Takes a table, and notes each key that does not belong into it.
    pub fn open<'t>(&mut self, entries: &'t DeTable<'t>, span: Range<usize>, place: Place) -> Table<'t> {
        for (key, _) in entries {
            let name: &str = key.get_ref();
            if !place.keys().any(|known| known == name) {
                let message = format!("unknown key `{}` {}", brief(name), place.within());
                let help =
                    if self.problems.is_full() { String::new() } else { help_for(&brief(name), place) };
                self.wrong(&key.span(), message, help);
            }
        }
        Table { entries, span }
    }

    fn wrong_type(&mut self, what: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = match value.get_ref() {
            DeValue::Array(_) => "a list",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Table(_) => "a table",
            DeValue::String(_) => "a string",
        };
        self.wrong(&value.span(), format!("{what} is {found}"), format!("write {wanted}"));
    }

    /// A string value with its variables filled in.
    pub fn fill(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Sp<Text>> {
        let text = value.get_ref().as_str()?;
        match self.vars.expand(text) {
            Ok(text) => Some(Sp { value: text, span: value.span() }),
            Err(bad) => {
                for reference in bad {
                    let span = self.locate(&value.span(), text, &reference.range);
                    self.wrong(&span, reference.message, reference.help);
                }
                None
            }
        }
    }

    /// Where a part of a string stands in the file: the same occurrence of the same text,
    /// or the whole value where escapes hide it.
    pub fn locate(&self, value: &Range<usize>, text: &str, part: &Range<usize>) -> Range<usize> {
        let find = || {
            let wanted = text.get(part.clone())?;
            let earlier = text.get(..part.start)?.matches(wanted).count();
            let source = self.problems.text_of(value)?;
            let (at, _) = source.match_indices(wanted).nth(earlier)?;
            Some(value.start + at..value.start + at + wanted.len())
        };
        find().unwrap_or_else(|| value.clone())
    }

    /// `key` as a string; `example` is shown where it is something else.
    pub fn text(&mut self, table: &Table<'_>, key: &str, example: &str) -> Option<Sp<Text>> {
        let value = table.raw(key)?;
        if !value.get_ref().is_str() {
            self.wrong_type(&format!("`{key}`"), value, &format!("a string, such as `{key} = {example}`"));
            return None;
        }
        self.fill(value)
    }

    /// A string in which nothing is filled in, such as a script.
    pub fn verbatim(&mut self, table: &Table<'_>, key: &str, example: &str) -> Option<Sp<String>> {
        let value = table.raw(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(Sp { value: text.to_owned(), span: value.span() }),
            None => {
                self.wrong_type(
                    &format!("`{key}`"),
                    value,
                    &format!("a string, such as `{key} = {example}`"),
                );
                None
            }
        }
    }

    /// A value written as a bare number or as a string, which is what variables give.
    pub fn scalar<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        wanted: &str,
        from_number: impl Fn(u64) -> Option<T>,
        from_text: impl Fn(&str) -> Option<T>,
    ) -> Option<Sp<T>> {
        let value = table.raw(key)?;
        let (shown, parsed) = match value.get_ref() {
            DeValue::Integer(number) => {
                let count = u64::from_str_radix(number.as_str(), number.radix()).ok();
                (brief(&number.to_string()), count.and_then(from_number))
            }
            DeValue::String(_) => {
                let text = self.fill(value)?.value;
                (format!("{:?}", brief(&text.shown)), from_text(text.value.trim()))
            }
            _ => {
                self.wrong_type(&format!("`{key}`"), value, wanted);
                return None;
            }
        };
        if parsed.is_none() {
            self.wrong(&value.span(), format!("`{key}` cannot be {shown}"), format!("write {wanted}"));
        }
        parsed.map(|parsed| Sp { value: parsed, span: value.span() })
    }

    /// A whole number from `least` to `most`.
    pub fn number(&mut self, table: &Table<'_>, key: &str, least: u64, most: u64) -> Option<Sp<u64>> {
        let fits = |number: u64| (least..=most).contains(&number).then_some(number);
        let wanted = format!("a whole number from {least} to {most}");
        self.scalar(table, key, &wanted, fits, |text| text.parse().ok().and_then(fits))
    }

    /// A size in bytes from `least` to `most`. Where `plain` is given, a number without a unit
    /// counts that many bytes each.
    pub fn size(
        &mut self,
        table: &Table<'_>,
        key: &str,
        plain: Option<u64>,
        (least, most): (u64, u64),
    ) -> Option<Sp<u64>> {
        let range = format!("from {} to {}", units::show_size(least), units::show_size(most));
        let bare_is = if plain == Some(units::MIB) { " (a number without a unit counts MiB)" } else { "" };
        let wanted = format!("a size with a unit {range}, such as `{key} = \"2GiB\"`{bare_is}");
        let fits = |bytes: u64| (least..=most).contains(&bytes).then_some(bytes);
        let bare = |count: u64| plain.and_then(|unit| count.checked_mul(unit)).and_then(fits);
        let text = |text: &str| match text.parse() {
            Ok(count) => bare(count),
            Err(_) => units::size(text).and_then(fits),
        };
        self.scalar(table, key, &wanted, bare, text)
    }

    /// A time from one second to a day, in seconds or with a unit.
    pub fn time(&mut self, table: &Table<'_>, key: &str) -> Option<Sp<Duration>> {
        const DAY: u64 = 24 * 3600;
        let wanted = format!("a time from 1 second to 24 hours, such as `{key} = \"90s\"` or `\"5m\"`");
        let fits = |time: Duration| (1..=DAY).contains(&time.as_secs()).then_some(time);
        let from_number = |seconds| fits(Duration::from_secs(seconds));
        self.scalar(table, key, &wanted, from_number, |text| units::time(text).and_then(fits))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, table: &Table<'_>, key: &str) -> Option<bool> {
        if let Some(DeValue::Boolean(is)) = table.raw(key).map(Spanned::get_ref) {
            return Some(*is);
        }
        let from_text = |text: &str| match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        self.scalar(table, key, "`true` or `false`", |_| None, from_text).map(|is| is.value)
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, table: &Table<'_>, key: &str, words: &[(&str, T)]) -> Option<Sp<T>> {
        let value = table.raw(key)?;
        let all = one_of(words.iter().map(|(word, _)| *word));
        if !value.get_ref().is_str() {
            self.wrong_type(&format!("`{key}`"), value, &format!("one of the words {all}, in quotes"));
            return None;
        }
        let text = self.fill(value)?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text.value.value) {
            return Some(text.map(|_| *meaning));
        }
        let near = nearest(&text.value.value, words.iter().map(|(word, _)| *word));
        let help = match near {
            Some(near) => format!("did you mean `{near}`? It can be {all}"),
            None => format!("it can be {all}"),
        };
        self.wrong(&text.span, format!("`{key}` cannot be {:?}", brief(&text.value.shown)), help);
        None
    }

    /// A string, or a list of them: those that can be read, and whether these are all.
    pub fn one_or_more(&mut self, table: &Table<'_>, key: &str, example: &str) -> (Vec<Sp<Text>>, bool) {
        match table.raw(key).map(Spanned::get_ref) {
            None => (Vec::new(), true),
            Some(DeValue::Array(_)) => self.some_texts(table, key, &format!("[{example}]")),
            Some(_) => {
                let text = self.text(table, key, example);
                let complete = text.is_some();
                (text.into_iter().collect(), complete)
            }
        }
    }

    /// A list of strings.
    pub fn texts(&mut self, table: &Table<'_>, key: &str, example: &str) -> Option<Vec<Sp<Text>>> {
        table.raw(key)?;
        let (texts, complete) = self.some_texts(table, key, example);
        complete.then_some(texts)
    }

    /// The entries of a list of strings that can be read, and whether these are all.
    fn some_texts(&mut self, table: &Table<'_>, key: &str, example: &str) -> (Vec<Sp<Text>>, bool) {
        let Some(value) = table.raw(key) else { return (Vec::new(), true) };
        let wanted = format!("a list of strings, such as `{key} = {example}`");
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(&format!("`{key}`"), value, &wanted);
            return (Vec::new(), false);
        };
        if !self.few_enough(key, &value.span(), list.len()) {
            return (Vec::new(), false);
        }
        let mut texts = Vec::new();
        for item in list {
            if item.get_ref().is_str() {
                texts.extend(self.fill(item));
            } else {
                self.wrong_type(&format!("an entry of `{key}`"), item, &wanted);
            }
        }
        let complete = texts.len() == list.len();
        (texts, complete)
    }

    /// The tables of `[[key]]`, in the order of the file.
    pub fn tables<'t>(&mut self, table: &Table<'t>, key: &str, place: Place) -> Vec<Table<'t>> {
        let Some(value) = table.raw(key) else { return Vec::new() };
        let list = match value.get_ref() {
            DeValue::Array(list) => list,
            DeValue::Table(_) => {
                let message = format!("`{key}` is a single table, but there can be several");
                self.wrong(&value.span(), message, format!("write `[[{key}]]` with two brackets"));
                return Vec::new();
            }
            _ => {
                self.wrong_type(
                    &format!("`{key}`"),
                    value,
                    &format!("`[[{key}]]` and its keys on the lines below"),
                );
                return Vec::new();
            }
        };
        if !self.few_enough(key, &value.span(), list.len()) {
            return Vec::new();
        }
        let mut tables = Vec::new();
        for item in list {
            match item.get_ref() {
                DeValue::Table(entries) => tables.push(self.open(entries, item.span(), place)),
                _ => self.wrong_type(
                    &format!("an entry of `{key}`"),
                    item,
                    &format!("`[[{key}]]` and its keys on the lines below"),
                ),
            }
        }
        tables
    }

    fn few_enough(&mut self, key: &str, span: &Range<usize>, count: usize) -> bool {
        let fits = count <= MOST_ENTRIES;
        if !fits {
            let message = format!("`{key}` has {count} entries");
            self.wrong(span, message, format!("at most {MOST_ENTRIES} are accepted"));
        }
        fits
    }
}
