//! What methods of strings, numbers, lists and hashes come to. `None`: not known here.

use std::rc::Rc;

use super::super::value::{Text, Value};

/// Bytes of a string that a method makes.
const LONGEST: usize = 256 * 1024;

fn list(items: Vec<Value>) -> Value {
    Value::List(Rc::new(items))
}

fn texts<'t>(parts: impl Iterator<Item = &'t str>) -> Value {
    list(parts.map(Value::text).collect())
}

/// Methods that leave variables of the environment in a string as they are.
pub(super) fn of_open_text(value: &Value, name: &str, args: &[Value]) -> Option<Value> {
    let Value::Text(text) = value else { return None };
    text.names().next()?;
    match (name, args) {
        ("to_s" | "to_str" | "freeze" | "dup" | "strip" | "chomp" | "itself", []) => {
            let filled = value.to_text()?;
            Some(Value::Text(Rc::new(filled)))
        }
        // A number that is written as `"${NAME:-2}"`.
        ("to_i" | "to_f" | "to_sym", []) => match text.as_env()? {
            (name, None) => Some(Value::Text(Rc::new(Text::env(name, Some("0".into()))))),
            (_, Some(default)) => {
                default.trim().parse::<i64>().ok()?;
                Some(value.clone())
            }
        },
        ("+", [more]) => {
            let mut sum = value.to_text()?;
            sum.push(&more.to_text()?);
            Some(Value::Text(Rc::new(sum)))
        }
        _ => None,
    }
}

/// Methods of values that are known in full.
pub(super) fn of_value(value: &Value, name: &str, args: &[Value]) -> Option<Value> {
    match (name, args) {
        ("==" | "eql?" | "equal?" | "===", [other]) => return Some(Value::Bool(value == other)),
        ("!=", [other]) => return Some(Value::Bool(value != other)),
        ("!", []) => return Some(Value::Bool(matches!(value, Value::Nil | Value::Bool(false)))),
        ("nil?", []) => return Some(Value::Bool(*value == Value::Nil)),
        ("freeze" | "dup" | "clone" | "itself", []) => return Some(value.clone()),
        ("to_s" | "to_str" | "inspect", []) if !matches!(value, Value::List(_) | Value::Hash(_)) => {
            return Some(Value::Text(Rc::new(value.to_text()?)));
        }
        _ => {}
    }
    match value {
        Value::Nil => of_nil(name, args),
        Value::Int(number) => of_int(*number, name, args),
        Value::Float(number) => match (name, args) {
            ("to_i" | "floor" | "truncate" | "to_int", []) => whole(number.floor()),
            ("ceil", []) => whole(number.ceil()),
            ("round", []) => whole(number.round()),
            ("*", [Value::Int(other)]) => whole_or_not(number * i32::try_from(*other).ok().map(f64::from)?),
            ("/", [Value::Int(other)]) => whole_or_not(number / i32::try_from(*other).ok().map(f64::from)?),
            _ => None,
        },
        Value::Text(text) => of_text(text.as_plain()?, name, args),
        Value::Sym(symbol) => match name {
            "to_sym" => Some(value.clone()),
            _ => of_text(symbol, name, args),
        },
        Value::List(items) => of_list(items, name, args),
        Value::Hash(pairs) => of_hash(pairs, name, args),
        Value::Range(from, to) => of_range(*from, *to, name, args),
        _ => None,
    }
}

fn whole(number: f64) -> Option<Value> {
    // Every whole number of that size is exact.
    (number.abs() < 1e15).then_some(Value::Int(number as i64))
}

fn whole_or_not(number: f64) -> Option<Value> {
    number.is_finite().then_some(Value::Float(number))
}

fn of_nil(name: &str, args: &[Value]) -> Option<Value> {
    match (name, args) {
        ("to_i", []) => Some(Value::Int(0)),
        ("to_a", []) => Some(list(Vec::new())),
        _ => None,
    }
}

fn of_int(number: i64, name: &str, args: &[Value]) -> Option<Value> {
    let value = match (name, args) {
        ("to_i" | "to_int" | "ord" | "abs", []) if number >= 0 => number,
        ("to_i" | "to_int", []) => number,
        ("-@", []) => number.checked_neg()?,
        ("succ" | "next", []) => number.checked_add(1)?,
        ("pred", []) => number.checked_sub(1)?,
        ("to_f", []) => return Some(Value::Float(f64::from(i32::try_from(number).ok()?))),
        ("zero?", []) => return Some(Value::Bool(number == 0)),
        ("even?", []) => return Some(Value::Bool(number % 2 == 0)),
        ("odd?", []) => return Some(Value::Bool(number % 2 != 0)),
        ("positive?", []) => return Some(Value::Bool(number > 0)),
        ("between?", [Value::Int(from), Value::Int(to)]) => {
            return Some(Value::Bool((from..=to).contains(&&number)));
        }
        ("*", [Value::Float(other)]) => {
            return whole_or_not(f64::from(i32::try_from(number).ok()?) * other);
        }
        (operator, [Value::Int(other)]) => match operator {
            "+" => number.checked_add(*other)?,
            "-" => number.checked_sub(*other)?,
            "*" => number.checked_mul(*other)?,
            "/" | "div" => number.checked_div_euclid(*other)?,
            "%" | "modulo" => number.checked_rem_euclid(*other)?,
            "**" => number.checked_pow(u32::try_from(*other).ok()?)?,
            "<<" => number.checked_mul(1i64.checked_shl(u32::try_from(*other).ok()?)?)?,
            "<" => return Some(Value::Bool(number < *other)),
            "<=" => return Some(Value::Bool(number <= *other)),
            ">" => return Some(Value::Bool(number > *other)),
            ">=" => return Some(Value::Bool(number >= *other)),
            _ => return None,
        },
        _ => return None,
    };
    Some(Value::Int(value))
}

fn of_text(text: &str, name: &str, args: &[Value]) -> Option<Value> {
    let word = |index: usize| args.get(index).and_then(Value::as_word);
    let made = match (name, args) {
        ("to_sym" | "intern", []) => return Some(Value::Sym(text.into())),
        ("to_i", []) => {
            let end = text.trim_start().find(|c: char| !c.is_ascii_digit() && c != '-' && c != '_');
            let digits = text.trim_start().get(..end.unwrap_or(text.trim_start().len()))?.replace('_', "");
            return Some(Value::Int(digits.parse().unwrap_or(0)));
        }
        ("to_f", []) => return Some(Value::Float(text.trim().parse().unwrap_or(0.0))),
        ("+", [more]) => format!("{text}{}", more.to_text()?.as_plain()?),
        ("*", [Value::Int(count)]) => {
            let count = usize::try_from(*count).ok()?;
            if text.len().checked_mul(count)? > LONGEST {
                return None;
            }
            text.repeat(count)
        }
        ("%", [Value::List(values)]) => format_text(text, values)?,
        ("%", [value]) => format_text(text, std::slice::from_ref(value))?,
        ("upcase", []) => text.to_uppercase(),
        ("downcase", []) => text.to_lowercase(),
        ("capitalize", []) => {
            let mut chars = text.chars();
            let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
            first + &chars.as_str().to_lowercase()
        }
        ("strip", []) => text.trim().to_owned(),
        ("lstrip", []) => text.trim_start().to_owned(),
        ("rstrip", []) => text.trim_end().to_owned(),
        ("chomp", []) => text.strip_suffix('\n').unwrap_or(text).to_owned(),
        ("chomp" | "delete_suffix", [_]) => text.strip_suffix(word(0)?).unwrap_or(text).to_owned(),
        ("delete_prefix", [_]) => text.strip_prefix(word(0)?).unwrap_or(text).to_owned(),
        ("gsub" | "sub" | "tr", [_, _]) => {
            let (from, to) = (word(0)?, word(1)?);
            // `tr` with sets of characters is more than a replacement.
            if from.is_empty() || (name == "tr" && (from.chars().count() != 1 || to.chars().count() > 1)) {
                return None;
            }
            let made = if name == "sub" { text.replacen(from, to, 1) } else { text.replace(from, to) };
            if made.len() > LONGEST {
                return None;
            }
            made
        }
        ("rjust" | "ljust", [Value::Int(width), rest @ ..]) => {
            let width = usize::try_from(*width).ok().filter(|width| *width <= 200)?;
            let fill = rest.first().map_or(Some(" "), Value::as_word)?.chars().next()?;
            let missing = width.saturating_sub(text.chars().count());
            let pad: String = std::iter::repeat_n(fill, missing).collect();
            if name == "rjust" { pad + text } else { text.to_owned() + &pad }
        }
        ("split", []) => return Some(texts(text.split_whitespace())),
        ("split", [_]) if word(0)? == " " => return Some(texts(text.split_whitespace())),
        ("split", [_]) if !word(0)?.is_empty() => {
            let mut parts: Vec<&str> = text.split(word(0)?).collect();
            while parts.last().is_some_and(|part| part.is_empty()) {
                parts.pop();
            }
            return Some(texts(parts.into_iter()));
        }
        ("split", [_, Value::Int(most)]) if !word(0)?.is_empty() && *most > 0 => {
            return Some(texts(text.splitn(usize::try_from(*most).ok()?, word(0)?)));
        }
        ("lines", []) => return Some(texts(text.split_inclusive('\n'))),
        ("empty?", []) => return Some(Value::Bool(text.is_empty())),
        ("include?", [_]) => return Some(Value::Bool(text.contains(word(0)?))),
        ("start_with?", [_]) => return Some(Value::Bool(text.starts_with(word(0)?))),
        ("end_with?", [_]) => return Some(Value::Bool(text.ends_with(word(0)?))),
        ("length" | "size", []) => return Some(Value::Int(i64::try_from(text.chars().count()).ok()?)),
        _ => return None,
    };
    Some(Value::text(made))
}

/// `%s`, `%d` and their widths; `%{name}` with a hash.
fn format_text(format: &str, values: &[Value]) -> Option<String> {
    const WIDEST: usize = 200;
    let mut values_left = values.iter();
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(rest.get(..at)?);
        rest = rest.get(at + 1..)?;
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix('{') {
            let (name, after) = after.split_once('}')?;
            let Some(Value::Hash(pairs)) = values.first() else { return None };
            out.push_str(super::super::value::option(pairs, name)?.to_text()?.as_plain()?);
            rest = after;
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '-' && c != '+')?;
        let (flags, after) = rest.split_at(end);
        let kind = after.chars().next()?;
        rest = after.get(kind.len_utf8()..)?;
        let (left, digits) = match flags.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, flags),
        };
        let zero = digits.starts_with('0');
        let width: usize = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        let value = values_left.next()?;
        let text = match (kind, value) {
            ('s', value) => value.to_text()?.as_plain()?.to_owned(),
            ('d' | 'i' | 'u', Value::Int(number)) => number.to_string(),
            ('d' | 'i' | 'u', value) => value.as_word()?.trim().parse::<i64>().ok()?.to_string(),
            ('x', Value::Int(number)) if *number >= 0 => format!("{number:x}"),
            ('X', Value::Int(number)) if *number >= 0 => format!("{number:X}"),
            _ => return None,
        };
        if width > WIDEST || out.len() > LONGEST {
            return None;
        }
        match (left, zero) {
            (true, _) => out.push_str(&format!("{text:<width$}")),
            (false, true) => out.push_str(&format!("{text:0>width$}")),
            (false, false) => out.push_str(&format!("{text:>width$}")),
        }
    }
    out.push_str(rest);
    Some(out)
}

fn position(index: i64, length: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(index) => Some(index),
        Err(_) => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

fn of_list(items: &[Value], name: &str, args: &[Value]) -> Option<Value> {
    let count = || Value::Int(i64::try_from(items.len()).unwrap_or(i64::MAX));
    let nil = |item: Option<&Value>| item.cloned().unwrap_or(Value::Nil);
    Some(match (name, args) {
        ("length" | "size" | "count", []) => count(),
        ("empty?", []) => Value::Bool(items.is_empty()),
        ("any?", []) => {
            Value::Bool(items.iter().any(|item| !matches!(item, Value::Nil | Value::Bool(false))))
        }
        ("first", []) => nil(items.first()),
        ("last", []) => nil(items.last()),
        ("first" | "take", [Value::Int(count)]) => {
            list(items.iter().take(usize::try_from(*count).ok()?).cloned().collect())
        }
        ("drop", [Value::Int(count)]) => {
            list(items.iter().skip(usize::try_from(*count).ok()?).cloned().collect())
        }
        ("[]" | "at" | "fetch" | "slice", [Value::Int(index)]) => {
            nil(position(*index, items.len()).and_then(|index| items.get(index)))
        }
        ("[]" | "slice", [Value::Range(from, to)]) => {
            let (from, to) = (position(*from, items.len())?, position(*to, items.len())?);
            list(items.iter().take(to.checked_add(1)?).skip(from).cloned().collect())
        }
        ("include?" | "member?", [item]) => Value::Bool(items.contains(item)),
        ("index" | "find_index", [item]) => match items.iter().position(|known| known == item) {
            Some(index) => Value::Int(i64::try_from(index).ok()?),
            None => Value::Nil,
        },
        ("push", more) => list(items.iter().chain(more).cloned().collect()),
        ("+", [Value::List(more)]) => list(items.iter().chain(more.iter()).cloned().collect()),
        ("-", [Value::List(less)]) => {
            list(items.iter().filter(|item| !less.contains(item)).cloned().collect())
        }
        ("reverse", []) => list(items.iter().rev().cloned().collect()),
        ("uniq", []) => {
            let mut kept: Vec<Value> = Vec::new();
            for item in items {
                if !kept.contains(item) {
                    kept.push(item.clone());
                }
            }
            list(kept)
        }
        ("compact", []) => list(items.iter().filter(|item| **item != Value::Nil).cloned().collect()),
        ("flatten", []) => {
            let flat = items.iter().flat_map(|item| match item {
                Value::List(inner) => Vec::clone(inner),
                other => vec![other.clone()],
            });
            list(flat.collect())
        }
        ("each" | "map" | "each_with_index" | "to_a" | "each_entry", []) => list(items.to_vec()),
        ("join", separator) => {
            let separator = match separator {
                [] => "",
                [one] => one.as_word()?,
                _ => return None,
            };
            let mut joined = Text::default();
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    joined.push(&Text::plain(separator));
                }
                joined.push(&item.to_text()?);
            }
            Value::Text(Rc::new(joined))
        }
        ("max" | "min" | "sum", []) => {
            let numbers: Option<Vec<i64>> = items
                .iter()
                .map(|item| if let Value::Int(number) = item { Some(*number) } else { None })
                .collect();
            let numbers = numbers?;
            Value::Int(match name {
                "max" => numbers.into_iter().max()?,
                "min" => numbers.into_iter().min()?,
                _ => numbers.into_iter().try_fold(0i64, i64::checked_add)?,
            })
        }
        ("to_h", []) => {
            let pairs: Option<Vec<(Value, Value)>> = items
                .iter()
                .map(|item| match item {
                    Value::List(pair) => match pair.as_slice() {
                        [key, value] => Some((key.clone(), value.clone())),
                        _ => None,
                    },
                    _ => None,
                })
                .collect();
            Value::Hash(Rc::new(pairs?))
        }
        _ => return None,
    })
}

fn of_hash(pairs: &[(Value, Value)], name: &str, args: &[Value]) -> Option<Value> {
    let get = |key: &Value| pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone());
    Some(match (name, args) {
        ("[]" | "fetch", [key]) => get(key).unwrap_or(Value::Nil),
        ("fetch", [key, default]) => get(key).unwrap_or_else(|| default.clone()),
        ("dig", [key]) => get(key).unwrap_or(Value::Nil),
        ("dig", [key, rest @ ..]) => match get(key) {
            Some(Value::Hash(inner)) => of_hash(&inner, "dig", rest)?,
            _ => Value::Nil,
        },
        ("key?" | "has_key?" | "include?" | "member?", [key]) => Value::Bool(get(key).is_some()),
        ("keys", []) => list(pairs.iter().map(|(key, _)| key.clone()).collect()),
        ("values", []) => list(pairs.iter().map(|(_, value)| value.clone()).collect()),
        ("length" | "size" | "count", []) => Value::Int(i64::try_from(pairs.len()).ok()?),
        ("empty?", []) => Value::Bool(pairs.is_empty()),
        ("any?", []) => Value::Bool(!pairs.is_empty()),
        ("merge", [Value::Hash(more)]) => {
            let mut merged = pairs.to_vec();
            for (key, value) in more.iter() {
                match merged.iter_mut().find(|(known, _)| known == key) {
                    Some((_, old)) => *old = value.clone(),
                    None => merged.push((key.clone(), value.clone())),
                }
            }
            Value::Hash(Rc::new(merged))
        }
        ("each" | "each_pair" | "to_h" | "each_with_index" | "map", []) => {
            Value::Hash(Rc::new(pairs.to_vec()))
        }
        ("to_a", []) => {
            list(pairs.iter().map(|(key, value)| list(vec![key.clone(), value.clone()])).collect())
        }
        ("first", []) => match pairs.first() {
            Some((key, value)) => list(vec![key.clone(), value.clone()]),
            None => Value::Nil,
        },
        _ => return None,
    })
}

fn of_range(from: i64, to: i64, name: &str, args: &[Value]) -> Option<Value> {
    let length = to.checked_sub(from)?.checked_add(1)?.max(0);
    Some(match (name, args) {
        ("to_a" | "entries" | "map" | "each" | "each_with_index", []) if length <= super::loops::LONGEST => {
            list((from..=to).map(Value::Int).collect())
        }
        ("first" | "begin" | "min", []) => Value::Int(from),
        ("last" | "end" | "max", []) => Value::Int(to),
        ("size" | "count" | "length", []) => Value::Int(length),
        ("include?" | "member?" | "cover?", [Value::Int(number)]) => {
            Value::Bool((from..=to).contains(number))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: &str, name: &str, args: &[Value]) -> Option<String> {
        of_value(&Value::text(of), name, args)?.to_text()?.as_plain().map(str::to_owned)
    }

    #[test]
    fn formats() {
        let one = |format: &str, values: &[Value]| format_text(format, values);
        assert_eq!(one("%s-%02d", &[Value::text("core"), Value::Int(7)]).as_deref(), Some("core-07"));
        assert_eq!(one("%-4s|%3d%%", &[Value::text("a"), Value::Int(5)]).as_deref(), Some("a   |  5%"));
        assert_eq!(one("%x", &[Value::Int(255)]).as_deref(), Some("ff"));
        let hash = Value::Hash(Rc::new(vec![(Value::Sym("n".into()), Value::Int(3))]));
        assert_eq!(one("web-%{n}", &[hash]).as_deref(), Some("web-3"));
        for wrong in ["%", "%s", "%999999999d", "%q", "%{n", "%9999999999999999999999d"] {
            assert_eq!(one(wrong, &[]), None, "{wrong}");
        }
    }

    #[test]
    fn strings() {
        assert_eq!(text("Web_1", "downcase", &[]).as_deref(), Some("web_1"));
        assert_eq!(text("a-b", "gsub", &[Value::text("-"), Value::text("_")]).as_deref(), Some("a_b"));
        assert_eq!(text("7", "rjust", &[Value::Int(3), Value::text("0")]).as_deref(), Some("007"));
        assert_eq!(text("x", "*", &[Value::Int(1 << 40)]), None);
        assert_eq!(of_value(&Value::text("12 GB"), "to_i", &[]), Some(Value::Int(12)));
        assert_eq!(of_value(&Value::text("é"), "to_i", &[]), Some(Value::Int(0)));
    }

    #[test]
    fn numbers_do_not_overflow() {
        for (name, other) in [("+", i64::MAX), ("*", i64::MAX), ("**", 64), ("/", 0), ("%", 0), ("<<", 64)] {
            assert_eq!(of_int(i64::MAX, name, &[Value::Int(other)]), None, "{name}");
        }
        assert_eq!(of_int(i64::MIN, "/", &[Value::Int(-1)]), None);
        assert_eq!(of_int(7, "/", &[Value::Int(2)]), Some(Value::Int(3)));
    }

    #[test]
    fn indexes_from_either_end() {
        let items = [Value::Int(1), Value::Int(2), Value::Int(3)];
        let get = |index: i64| of_list(&items, "[]", &[Value::Int(index)]);
        assert_eq!((get(0), get(-1), get(3)), (Some(Value::Int(1)), Some(Value::Int(3)), Some(Value::Nil)));
        assert_eq!(get(i64::MIN), Some(Value::Nil));
    }
}
