//! Trees of several files → one tree.

use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// The same table, its spans moved on by `by` bytes.
pub(super) fn moved<'t>(table: DeTable<'t>, by: usize) -> DeTable<'t> {
    let entries = table.into_iter();
    entries
        .map(|(key, value)| {
            let span = key.span();
            (Spanned::new(span.start + by..span.end + by, key.into_inner()), moved_value(value, by))
        })
        .collect()
}

fn moved_value<'t>(value: Spanned<DeValue<'t>>, by: usize) -> Spanned<DeValue<'t>> {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(moved(table, by)),
        DeValue::Array(list) => {
            DeValue::Array(list.into_iter().map(|value| moved_value(value, by)).collect::<DeArray<'t>>())
        }
        other => other,
    };
    Spanned::new(span.start + by..span.end + by, value)
}

/// Lays `over` on `base`: tables are merged key by key, lists of tables entry by entry
/// (those with a `name` that `base` has are merged with that one, others are added); every
/// other value takes the place of the old one.
pub(super) fn merge<'t>(base: &mut DeTable<'t>, over: DeTable<'t>) {
    for (key, value) in over {
        let name: &str = key.get_ref();
        let value = match base.get_mut(name) {
            None => value,
            Some(old) => match merge_values(old, value) {
                None => continue,
                Some(value) => value,
            },
        };
        // Removed first: the place of the old key would stay otherwise.
        base.remove(name);
        base.insert(key, value);
    }
}

/// Gives back what has to take the place of `base`.
fn merge_values<'t>(
    base: &mut Spanned<DeValue<'t>>,
    over: Spanned<DeValue<'t>>,
) -> Option<Spanned<DeValue<'t>>> {
    let span = over.span();
    match (base.get_mut(), over.into_inner()) {
        (DeValue::Table(base), DeValue::Table(over)) => merge(base, over),
        (DeValue::Array(base), DeValue::Array(over)) if all_tables(base) && all_tables(&over) => {
            merge_lists(base, over);
        }
        (_, over) => return Some(Spanned::new(span, over)),
    }
    None
}

fn all_tables(list: &DeArray<'_>) -> bool {
    !list.is_empty() && list.iter().all(|value| value.get_ref().is_table())
}

fn merge_lists<'t>(base: &mut DeArray<'t>, over: DeArray<'t>) {
    // A name is used up by the first entry that has it: a second one in the same file is told
    // as a repeated name.
    let mut named: HashMap<String, usize> = HashMap::new();
    for (at, entry) in base.iter().enumerate() {
        if let Some(name) = name_of(entry) {
            named.entry(name).or_insert(at);
        }
    }
    for entry in over {
        let old = name_of(&entry).and_then(|name| named.remove(&name)).and_then(|at| base.get_mut(at));
        let left = match old {
            Some(old) => merge_values(old, entry),
            None => Some(entry),
        };
        if let Some(entry) = left {
            base.push(entry);
        }
    }
}

fn name_of(entry: &Spanned<DeValue<'_>>) -> Option<String> {
    Some(entry.get_ref().as_table()?.get("name")?.get_ref().as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(files: &[&str]) -> String {
        let mut base = DeTable::new();
        let mut at = 0;
        for file in files {
            merge(&mut base, moved(DeTable::parse(file).unwrap().into_inner(), at));
            at += file.len() + 1;
        }
        let mut out = String::new();
        show(&DeValue::Table(base), &mut out);
        out
    }

    fn show(value: &DeValue<'_>, out: &mut String) {
        match value {
            DeValue::Table(table) => {
                out.push('{');
                for (key, value) in table {
                    out.push_str(&format!(" {}=", key.get_ref()));
                    show(value.get_ref(), out);
                }
                out.push_str(" }");
            }
            DeValue::Array(list) => {
                out.push('[');
                for value in list {
                    out.push(' ');
                    show(value.get_ref(), out);
                }
                out.push_str(" ]");
            }
            DeValue::String(text) => out.push_str(text),
            DeValue::Integer(number) => out.push_str(number.as_str()),
            other => out.push_str(other.type_str()),
        }
    }

    #[test]
    fn tables_merge_and_values_are_replaced() {
        assert_eq!(
            merged(&[
                "a = 1\nb = 2\n[t]\nx = 1\ny = 1\n[t.u]\nz = 1",
                "b = [3]\n[t]\ny = 2\n[t.u]\nw = 2",
                "c = 3"
            ]),
            "{ a=1 b=[ 3 ] c=3 t={ u={ w=2 z=1 } x=1 y=2 } }"
        );
        assert_eq!(merged(&["a = ['x', 'y']", "a = ['z']"]), "{ a=[ z ] }");
        assert_eq!(merged(&["disk = '1GiB'", "[[disk]]\nname = 'd'"]), "{ disk=[ { name=d } ] }");
        assert_eq!(merged(&["[t]\nx = 1", "t = 5"]), "{ t=5 }");
    }

    #[test]
    fn lists_of_tables_merge_by_name() {
        let base = "[[m]]\nname = 'a'\nx = 1\n[[m.p]]\ng = 1\n[[m]]\ny = 1\n[[m]]\nname = 'b'\n";
        let over = "[[m]]\nname = 'b'\nx = 2\n[[m]]\nname = 'a'\nx = 3\n[[m.p]]\ng = 2\n[[m]]\nname = 'a'\nx = 4\n[[m]]\nz = 5\n";
        assert_eq!(
            merged(&[base, over]),
            "{ m=[ { name=a p=[ { g=1 } { g=2 } ] x=3 } { y=1 } { name=b x=2 } { name=a x=4 } { z=5 } ] }"
        );
    }

    #[test]
    fn places_are_those_of_the_file_that_won() {
        let (first, second) = ("a = 1\nb = 2", "b = 3");
        let mut base = moved(DeTable::parse(first).unwrap().into_inner(), 0);
        merge(&mut base, moved(DeTable::parse(second).unwrap().into_inner(), 100));
        let (key, value) = base.get_key_value("b").unwrap();
        assert_eq!((key.span(), value.span()), (100..101, 104..105));
        assert_eq!(base.get("a").unwrap().span(), 4..5);
    }
}
