//! "Did you mean …?": the nearest of a few known words.

/// Longer words are not compared: nobody mistypes them into a known one.
const LONGEST: usize = 64;

/// The word of `known` that `word` most likely stands for, if any is near enough:
/// at most one edit for each three characters, and one for short words.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let length = word.chars().count();
    if length == 0 || length > LONGEST {
        return None;
    }
    let allowed = (length / 3).max(1);
    let lower = word.to_lowercase();
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= allowed && *edits < candidate.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) that lead from `a` to `b`:
/// the optimal string alignment distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous_a = None;
    for (row, ca) in a.chars().enumerate() {
        let mut now = vec![row + 1];
        for (column, &cb) in b.iter().enumerate() {
            let at = |list: &[usize], index: usize| list.get(index).copied().unwrap_or(usize::MAX / 2);
            let replace = at(&last, column) + usize::from(ca != cb);
            let mut best = replace.min(at(&last, column + 1) + 1).min(at(&now, column) + 1);
            let swapped = column > 0 && previous_a == Some(cb) && b.get(column - 1) == Some(&ca);
            if swapped {
                best = best.min(at(&before, column - 1) + 1);
            }
            now.push(best);
        }
        before = std::mem::replace(&mut last, now);
        previous_a = Some(ca);
    }
    last.last().copied().unwrap_or(0)
}

/// `a`, `b` or `c`, each in backquotes.
pub(super) fn one_of<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let mut list: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match (list.pop(), list.is_empty()) {
        (None, _) => String::new(),
        (Some(only), true) => only,
        (Some(last), false) => format!("{} or {last}", list.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("memory", "memory"), 0);
        assert_eq!(distance("memroy", "memory"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["memory", "cpus", "box", "disk"];
        assert_eq!(nearest("memroy", known), Some("memory"));
        assert_eq!(nearest("CPU", known), Some("cpus"));
        assert_eq!(nearest("boxx", known), Some("box"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest(&"m".repeat(100), known), None);
    }

    #[test]
    fn lists_read_well() {
        assert_eq!(one_of(["a"]), "`a`");
        assert_eq!(one_of(["a", "b", "c"]), "`a`, `b` or `c`");
        assert_eq!(one_of([]), "");
    }
}
