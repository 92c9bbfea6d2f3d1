//! `{i}` in a machine with `count`: the number of the copy, and arithmetic with it.

use super::report::brief;

/// Longer ones are a mistake, and would nest too deeply.
const LONGEST: usize = 64;
/// Most digits that `{i:0N}` asks for.
const MOST_DIGITS: usize = 9;
/// The forms, for messages.
pub(super) const FORMS: &str =
    "write `{i}`, arithmetic such as `{i+8000}` or `{(i-1)*10}`, or `{i:02}` for two digits";

/// Which copy of a machine is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Turn {
    /// None: `{i}` has no meaning.
    #[default]
    Uncounted,
    /// Keys that hold for several machines; read as for the first copy.
    Any,
    /// This one, from 1.
    Number(u32),
    /// The name that all copies share: `{i}` is left out.
    Family,
}

/// The length of the `{…}` that `text` begins with, if it speaks of `i`.
pub(super) fn reference(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('{')?;
    let inner = inner.get(..inner.find('}')?)?;
    let known = |c: char| c.is_ascii_digit() || "i+-*/%(): ".contains(c);
    let counts = inner.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "i");
    (counts && inner.chars().all(known)).then_some(inner.len() + 2)
}

/// What a [`reference`] says in copy `i`, or what is wrong with it: message and help.
pub(super) fn value(reference: &str, i: u32) -> Result<String, (String, String)> {
    let shown = brief(reference);
    let wrong = |message: String, help: &str| Err((message, help.to_owned()));
    let inner = reference.trim_start_matches('{').trim_end_matches('}');
    let (expression, digits) = match inner.split_once(':') {
        Some((expression, format)) => (expression, width(format)),
        None => (inner, Some(0)),
    };
    let (Some(digits), true) = (digits, inner.len() <= LONGEST) else {
        return wrong(format!("`{shown}` is not understood"), FORMS);
    };
    let mut parser = Parser { rest: expression, i: i64::from(i) };
    let value = parser.sum().and_then(|value| match parser.peek() {
        None => Ok(value),
        Some(_) => Err(Fault::Form),
    });
    match value {
        Ok(value) if value >= 0 => Ok(format!("{value:0digits$}")),
        Ok(value) => wrong(format!("`{shown}` is {value} in copy {i}"), "copies count from 1"),
        Err(Fault::Form) => wrong(format!("`{shown}` is not understood"), FORMS),
        Err(Fault::Zero) => wrong(format!("`{shown}` divides by zero in copy {i}"), "copies count from 1"),
        Err(Fault::Range) => wrong(format!("`{shown}` is too large in copy {i}"), "use smaller numbers"),
    }
}

/// `02`: at least two digits.
fn width(format: &str) -> Option<usize> {
    let digits: usize = format.trim().strip_prefix('0')?.parse().ok()?;
    (1..=MOST_DIGITS).contains(&digits).then_some(digits)
}

enum Fault {
    Form,
    Zero,
    Range,
}

/// `+ -` below `* / %` below `i`, numbers and parentheses.
struct Parser<'t> {
    rest: &'t str,
    i: i64,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn take(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn sum(&mut self) -> Result<i64, Fault> {
        let mut left = self.product()?;
        while let Some(operator @ ('+' | '-')) = self.peek() {
            self.take();
            let right = self.product()?;
            let sum = if operator == '+' { left.checked_add(right) } else { left.checked_sub(right) };
            left = sum.ok_or(Fault::Range)?;
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<i64, Fault> {
        let mut left = self.operand()?;
        while let Some(operator @ ('*' | '/' | '%')) = self.peek() {
            self.take();
            let right = self.operand()?;
            if operator != '*' && right == 0 {
                return Err(Fault::Zero);
            }
            let product = match operator {
                '*' => left.checked_mul(right),
                '/' => left.checked_div(right),
                _ => left.checked_rem(right),
            };
            left = product.ok_or(Fault::Range)?;
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<i64, Fault> {
        match self.peek() {
            Some('i') => {
                self.take();
                Ok(self.i)
            }
            Some('(') => {
                self.take();
                let value = self.sum()?;
                if self.peek() != Some(')') {
                    return Err(Fault::Form);
                }
                self.take();
                Ok(value)
            }
            Some(c) if c.is_ascii_digit() => {
                let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
                let (number, rest) = self.rest.split_at(end);
                self.rest = rest;
                number.parse().map_err(|_| Fault::Range)
            }
            _ => Err(Fault::Form),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str, i: u32) -> String {
        assert_eq!(reference(text), Some(text.len()), "{text}");
        value(text, i).unwrap_or_else(|(message, _)| message)
    }

    #[test]
    fn arithmetic() {
        for (text, expected) in [
            ("{i}", "3"),
            ("{ i + 8000 }", "8003"),
            ("{100+i*2}", "106"),
            ("{(i-1)*10+5}", "25"),
            ("{i%2}", "1"),
            ("{7/i}", "2"),
            ("{i:02}", "03"),
            ("{i+100:02}", "103"),
            ("{10-i-1}", "6"),
        ] {
            assert_eq!(of(text, 3), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_computed_says_why() {
        for (text, word) in [
            ("{i+}", "not understood"),
            ("{i i}", "not understood"),
            ("{(i}", "not understood"),
            ("{i:2}", "not understood"),
            ("{i:099}", "not understood"),
            ("{i-2}", "is -1 in copy 1"),
            ("{5/(i-1)}", "divides by zero in copy 1"),
            ("{i%0}", "divides by zero"),
            ("{i*9223372036854775807*9}", "too large"),
            ("{i+99999999999999999999}", "too large"),
        ] {
            assert!(of(text, 1).contains(word), "{text}: {}", of(text, 1));
        }
        let deep = format!("{{{}i}}", "(".repeat(100));
        assert!(of(&deep, 1).contains("not understood"));
    }

    #[test]
    fn other_braces_are_left_alone() {
        for text in ["{}", "{x}", "{ii}", "{1}", "{.Names}", "{if}", "{i", "i}", "{i,j}", "{i1}", ""] {
            assert_eq!(reference(text), None, "{text}");
        }
        assert_eq!(reference("{i}rest"), Some(3));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\{[i0-9+*/%(): -]{0,40}\\}", i in 0u32..300) {
            if let Some(length) = reference(&text) {
                prop_assert_eq!(length, text.len());
                let _ = value(&text, i);
            }
        }

        #[test]
        fn sums_are_right(i in 1u32..300, a in 0i64..1000, b in 1i64..50) {
            prop_assert_eq!(of(&format!("{{i*{b}+{a}}}"), i), (i64::from(i) * b + a).to_string());
            prop_assert_eq!(of(&format!("{{({a}+i)/{b}}}"), i), ((i64::from(i) + a) / b).to_string());
        }
    }
}
