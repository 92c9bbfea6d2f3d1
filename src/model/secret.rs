//! Values that must not be printed, and the masking of those that would be.

use std::sync::Arc;

/// A value that neither `Debug` nor `Display` shows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Takes the value.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value itself: for the one place that must have it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Replaces secret values in text by `***`.
#[derive(Clone, Default)]
pub struct Masker {
    // Longest first, so that a value that contains another is masked whole.
    values: Arc<Vec<String>>,
}

impl Masker {
    /// Shorter values would mask every second word; they are left alone.
    pub const MIN_LEN: usize = 3;

    /// Masks each of `values`, and each line of a value that has several.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut list: Vec<String> = Vec::new();
        for value in values {
            list.push(value.to_owned());
            list.extend(value.lines().map(|line| line.trim().to_owned()));
        }
        list.retain(|v| v.len() >= Self::MIN_LEN);
        list.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        list.dedup();
        Masker { values: Arc::new(list) }
    }

    /// The text with each secret value replaced.
    pub fn mask(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for value in self.values.iter() {
            if out.contains(value.as_str()) {
                out = out.replace(value.as_str(), "***");
            }
        }
        out
    }
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Masker({} values)", self.values.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_value_is_masked_whole() {
        let masker = Masker::new(["hunter", "hunter2-long", "ab"]);
        assert_eq!(masker.mask("x hunter2-long y hunter ab"), "x *** y *** ab");
    }

    #[test]
    fn lines_of_a_long_value_are_masked_too() {
        let masker = Masker::new(["first-line\nsecond-line"]);
        assert_eq!(masker.mask("got second-line"), "got ***");
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("pw")), "***");
        assert!(!format!("{:?}", Masker::new(["topsecret"])).contains("topsecret"));
    }
}
