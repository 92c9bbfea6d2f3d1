//! The `rvm_version` marker: which versions of `rvm` a file is written for.

/// The version of this program.
pub(super) const OWN: &str = env!("CARGO_PKG_VERSION");

type Version = [u64; 3];

/// Whether `version` satisfies all of `constraints`, a comma list of `OP VERSION` with the
/// operators `=` (or none) `!=` `>` `>=` `<` `<=` `~>`, as `Vagrant.require_version` takes
/// them. `None`: this is not such a list.
pub(super) fn satisfied(constraints: &str, version: &str) -> Option<bool> {
    let (own, _) = parse(version)?;
    let mut all = true;
    for constraint in constraints.split(',') {
        let constraint = constraint.trim();
        let digits = constraint.find(|c: char| c.is_ascii_digit())?;
        let (operator, wanted) = constraint.split_at(digits);
        let (wanted, given) = parse(wanted)?;
        all &= match operator.trim() {
            "" | "=" => own == wanted,
            "!=" => own != wanted,
            ">" => own > wanted,
            ">=" => own >= wanted,
            "<" => own < wanted,
            "<=" => own <= wanted,
            "~>" => own >= wanted && own < next(wanted, given)?,
            _ => return None,
        };
    }
    Some(all)
}

/// One to three numbers with dots between, and how many there were.
fn parse(text: &str) -> Option<(Version, usize)> {
    let mut version = [0; 3];
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > version.len() {
        return None;
    }
    for (slot, part) in version.iter_mut().zip(&parts) {
        *slot = part.parse().ok()?;
    }
    Some((version, parts.len()))
}

/// `~> 1.2.3` ends below 1.3, `~> 1.2` and `~> 1` below 2.
fn next(version: Version, given: usize) -> Option<Version> {
    let [major, minor, _] = version;
    Some(if given == 3 { [major, minor.checked_add(1)?, 0] } else { [major.checked_add(1)?, 0, 0] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints() {
        for (constraints, holds) in [
            (">=0.1", true),
            ("1.2.3", true),
            ("= 1.2", false),
            ("!= 1.2.3", false),
            ("> 1.2, < 2", true),
            ("<= 1.2.2", false),
            ("~> 1.1", true),
            ("~> 1.2.0", true),
            ("~> 1.1.9", false),
        ] {
            assert_eq!(satisfied(constraints, "1.2.3"), Some(holds), "{constraints}");
        }
        for wrong in ["", "new", ">= 1.x", "=> 1", "1.2.3.4", ">= 1,", "~> 99999999999999999999"] {
            assert_eq!(satisfied(wrong, "1.2.3"), None, "{wrong}");
        }
        assert_eq!(satisfied(">=0.1", OWN), Some(true));
    }
}
