//! Names of Vagrant boxes → ours.

/// Boxes that are the same distribution, without what their makers added.
const SAME: &[(&str, &str)] = &[
    ("debian/trixie64", "debian/13"),
    ("debian/bookworm64", "debian/12"),
    ("debian/contrib-trixie64", "debian/13"),
    ("debian/contrib-bookworm64", "debian/12"),
    ("generic/debian13", "debian/13"),
    ("generic/debian12", "debian/12"),
    ("generic-x64/debian13", "debian/13"),
    ("generic-x64/debian12", "debian/12"),
    ("bento/debian-13", "debian/13"),
    ("bento/debian-12", "debian/12"),
    ("cloud-image/debian-13", "debian/13"),
    ("cloud-image/debian-12", "debian/12"),
    ("boxomatic/debian-13", "debian/13"),
    ("boxomatic/debian-12", "debian/12"),
    ("roboxes/debian12", "debian/12"),
    ("alvistack/debian-13", "debian/13"),
    ("alvistack/debian-12", "debian/12"),
];
/// What rvm has.
const OURS: [&str; 3] = ["debian/13", "debian/12", "micro"];
/// In place of a name that cannot be written.
pub(super) const STAND_IN: &str = "debian/13";

/// Our name for a box.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// rvm has it.
    Ours(&'static str),
    /// rvm does not have it, but the name is one.
    Other(String),
    /// No box of rvm can have this name.
    NoName,
}

pub(super) fn find(name: &str) -> Found {
    let lower = name.to_lowercase();
    let same = SAME.iter().find(|(other, _)| *other == lower).map(|(_, ours)| *ours);
    if let Some(ours) = same.or_else(|| OURS.into_iter().find(|ours| *ours == lower)) {
        return Found::Ours(ours);
    }
    if is_name(&lower) { Found::Other(lower) } else { Found::NoName }
}

/// What `config` takes for the name of a box.
fn is_name(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        (1..=64).contains(&part.len())
            && part.starts_with(word)
            && part.chars().all(|c| word(c) || "._-".contains(c))
    };
    match text.split_once('/') {
        Some((owner, name)) => part(owner) && part(name),
        None => part(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes() {
        assert_eq!(find("debian/bookworm64"), Found::Ours("debian/12"));
        assert_eq!(find("micro"), Found::Ours("micro"));
        assert_eq!(find("ubuntu/jammy64"), Found::Other("ubuntu/jammy64".into()));
        assert_eq!(find("Official Box"), Found::NoName);
    }
}
