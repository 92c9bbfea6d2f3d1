//! The draft as text: settings first, then disks, ports and steps, then the machines.

use super::draft::{Entry, Layer, Out, Table};
use super::left::{Left, Sort, one_line};

/// The order of keys; those that are not here come last.
const KEYS: &[&str] = &[
    "box",
    "cpus",
    "memory",
    "nested",
    "disk",
    "hostname",
    "groups",
    "primary",
    "autostart",
    "boot_timeout",
    "halt_timeout",
    "message",
];
/// The order of tables.
const TABLES: &[&str] = &["disk", "folder", "network", "port", "provision", "hook", "after_all"];

/// The file.
pub(super) fn write(layers: &[Layer], from: &str, left: &[Left]) -> String {
    let lost = left.iter().filter(|left| left.sort == Sort::Lost).count();
    let mut out = format!("# Made by `rvm import` from the Ruby file {}.\n", one_line(from));
    match lost {
        0 => {}
        1 => out.push_str("# One line of it is not in here: see the end.\n"),
        n => out.push_str(&format!("# {n} lines of it are not in here: see the end.\n")),
    }
    for layer in layers {
        write_layer(&mut out, layer);
    }
    for (sort, title) in [(Sort::Lost, "Not carried over"), (Sort::Needless, "Without a meaning for rvm")] {
        write_left(&mut out, left.iter().filter(|left| left.sort == sort), title);
    }
    out
}

fn write_left<'l>(out: &mut String, left: impl Iterator<Item = &'l Left>, title: &str) {
    let mut left = left.peekable();
    if left.peek().is_none() {
        return;
    }
    out.push_str(&format!("\n# {title}:\n#\n"));
    for left in left {
        out.push_str(&format!("# {:>5}: {}\n#        {}\n", left.lines(), left.text, left.reason));
    }
}

fn write_layer(out: &mut String, layer: &Layer) {
    let prefix = match &layer.name {
        Some(name) => {
            out.push_str(&format!("\n[[machine]]\nname = {}\n", quoted(name)));
            "machine."
        }
        None => {
            if !layer.entries.is_empty() {
                out.push('\n');
            }
            ""
        }
    };
    let place = |key: &str| KEYS.iter().position(|known| *known == key).unwrap_or(KEYS.len());
    let mut entries: Vec<&Entry> = layer.entries.iter().collect();
    entries.sort_by_key(|entry| place(entry.key));
    for entry in entries {
        let value = show(&entry.value);
        let remark = entry.remark.as_ref().map(|remark| format!("  # {}", one_line(remark)));
        out.push_str(&format!("{} = {value}{}\n", entry.key, remark.unwrap_or_default()));
    }
    if !layer.vars.is_empty() {
        out.push_str("\n[vars]\n");
    }
    for (name, value) in &layer.vars {
        out.push_str(&format!("{name} = {}\n", show(value)));
    }
    let place = |kind: &str| TABLES.iter().position(|known| *known == kind).unwrap_or(TABLES.len());
    let mut tables: Vec<&Table> = layer.tables.iter().collect();
    tables.sort_by_key(|table| place(table.kind));
    for table in tables {
        out.push_str(&format!("\n[[{prefix}{}]]\n", table.kind));
        write_entries(out, &format!("{prefix}{}", table.kind), &table.entries);
    }
}

/// Entries, and the tables among them after all others.
fn write_entries(out: &mut String, path: &str, entries: &[(&'static str, Out)]) {
    for (key, value) in entries {
        if !matches!(value, Out::Table(_) | Out::Tables(_)) {
            out.push_str(&format!("{key} = {}\n", show(value)));
        }
    }
    for (key, value) in entries {
        let path = format!("{path}.{key}");
        match value {
            Out::Table(entries) => {
                out.push_str(&format!("\n[{path}]\n"));
                write_entries(out, &path, entries);
            }
            Out::Tables(list) => {
                for entries in list {
                    out.push_str(&format!("\n[[{path}]]\n"));
                    write_entries(out, &path, entries);
                }
            }
            _ => {}
        }
    }
}

fn show(value: &Out) -> String {
    match value {
        Out::Str(text) => quoted(text),
        Out::Script(text) => script(text),
        Out::Int(number) => number.to_string(),
        Out::Bool(is) => is.to_string(),
        Out::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Out::Inline(pairs) => {
            let pairs: Vec<String> =
                pairs.iter().map(|(key, value)| format!("{key} = {}", show(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Out::Map(pairs) => {
            let pairs: Vec<String> =
                pairs.iter().map(|(key, value)| format!("{} = {}", key_of(key), show(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        // Written by `write_entries`; within a list they have no place of their own.
        Out::Table(entries) => show(&Out::Inline(entries.clone())),
        Out::Tables(list) => show(&Out::List(list.iter().cloned().map(Out::Inline).collect())),
    }
}

/// A key, in quotes where it is no word.
fn key_of(key: &str) -> String {
    let is_word = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if is_word { key.to_owned() } else { format!("\"{}\"", escaped(key, false)) }
}

/// A string on one line: as it stands where quotes or backslashes are in it, if that can be.
fn quoted(text: &str) -> String {
    let literal = text.contains(['"', '\\']) && !text.contains('\'') && !text.chars().any(|c| c.is_control());
    if literal { format!("'{text}'") } else { format!("\"{}\"", escaped(text, false)) }
}

/// A string of several lines, as it stands if that can be.
fn script(text: &str) -> String {
    if !text.trim_end_matches('\n').contains('\n') {
        return quoted(text.trim_end_matches('\n'));
    }
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains("'''") || text.ends_with('\'') || text.chars().any(steers) {
        return format!("\"\"\"\n{}\"\"\"", escaped(text, true));
    }
    format!("'''\n{text}'''")
}

/// The inside of a basic string.
fn escaped(text: &str, lines: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' if lines => out.push('\n'),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str(if lines { "\t" } else { "\\t" }),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_back(text: &str) -> String {
        let table: toml::Table =
            toml::from_str(&format!("x = {text}\n")).unwrap_or_else(|e| panic!("{text}: {e}"));
        table["x"].as_str().unwrap().to_owned()
    }

    proptest! {
        #[test]
        fn any_string_is_read_back(text in "(\\PC|[\n\r\t\u{0}\u{7f}'\"\\\\$]){0,40}") {
            prop_assert_eq!(read_back(&quoted(&text)), text.clone());
            let wanted = if text.trim_end_matches('\n').contains('\n') { text.as_str() } else { text.trim_end_matches('\n') };
            prop_assert_eq!(read_back(&script(&text)), wanted);
        }
    }

    #[test]
    fn scripts_are_easy_to_read() {
        assert_eq!(script("echo \"a\"\nexit\n"), "'''\necho \"a\"\nexit\n'''");
        assert_eq!(script("echo 'x'\n"), "\"echo 'x'\"");
        assert_eq!(script("echo \"x\"\n"), "'echo \"x\"'");
    }
}
