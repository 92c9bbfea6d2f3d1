//! Ranges of an image file that the format has freed and that the host may have back.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of a file, none touching another.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// Start and end of each.
    ends: BTreeMap<u64, u64>,
    bytes: u64,
}

impl Ranges {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// Bytes in all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a range, of which some may be there.
    pub(super) fn add(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.remove(range);
        self.bytes += range.end - range.start;
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &before_end)) = self.ends.range(..start).next_back()
            && before_end == start
        {
            start = before;
        }
        if let Some(after_end) = self.ends.remove(&end) {
            end = after_end;
        }
        self.ends.insert(start, end);
    }

    /// Takes a range out, as far as it is there.
    pub(super) fn remove(&mut self, range: &Range<u64>) {
        while let Some((&start, &end)) = self.ends.range(..range.end).next_back() {
            if end <= range.start || range.is_empty() {
                return;
            }
            self.ends.remove(&start);
            self.bytes -= end - start;
            for rest in [start..range.start, range.end..end] {
                if !rest.is_empty() {
                    self.ends.insert(rest.start, rest.end);
                    self.bytes += rest.end - rest.start;
                }
            }
        }
    }

    /// Takes out the first range, or its first `most` bytes.
    pub(super) fn pop(&mut self, most: u64) -> Option<Range<u64>> {
        let (&start, &end) = self.ends.first_key_value()?;
        let range = start..end.min(start.saturating_add(most));
        self.remove(&range);
        Some(range)
    }

    /// Moves all that `other` has to here.
    pub(super) fn append(&mut self, other: &mut Self) {
        for (start, end) in std::mem::take(other).ends {
            self.add(&(start..end));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// They are what a set of bytes would be, and as few as can be.
        #[test]
        fn ranges_are_a_set_of_bytes(steps in prop::collection::vec((0..4u8, 0..60u64, 0..20u64), 1..60)) {
            let (mut ranges, mut model) = (Ranges::default(), std::collections::BTreeSet::new());
            for (step, start, len) in steps {
                let range = start..start + len;
                match step {
                    0 | 1 => {
                        ranges.add(&range);
                        model.extend(range);
                    }
                    2 => {
                        ranges.remove(&range);
                        model.retain(|at| !range.contains(at));
                    }
                    _ => match ranges.pop(len.max(1)) {
                        Some(popped) => {
                            prop_assert!(popped.end - popped.start <= len.max(1));
                            prop_assert_eq!(Some(&popped.start), model.first());
                            popped.for_each(|at| assert!(model.remove(&at)));
                        }
                        None => prop_assert!(model.is_empty()),
                    },
                }
                prop_assert_eq!(ranges.bytes(), model.len() as u64);
                let starts = model.iter().filter(|at| **at == 0 || !model.contains(&(**at - 1)));
                prop_assert_eq!(ranges.count(), starts.count());
                prop_assert!(ranges.ends.iter().all(|(start, end)| (*start..*end).all(|at| model.contains(&at))));
            }
        }
    }
}
