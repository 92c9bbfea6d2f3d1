//! Sizes and times as people write them.

use std::time::Duration;

/// One mebibyte, in bytes.
pub(super) const MIB: u64 = 1024 * 1024;

/// Bytes of `512MiB`, `1.5GiB`, `2G`, `10GB`: a decimal number and a unit, in either case.
/// `MB` means the same as `MiB`, as it does for Vagrant and QEMU. `None`: not a size, or
/// not a whole number of MiB, or beyond 2⁶⁴ bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1024,
        "t" | "tb" | "tib" => 1024 * 1024,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    if number.contains('.') && !(1..=6).contains(&fraction.len()) {
        return None;
    }
    let scale = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scaled = whole.checked_mul(scale)?.checked_add(part)?.checked_mul(factor)?;
    if scaled % scale != 0 {
        return None;
    }
    (scaled / scale).checked_mul(MIB)
}

/// The time of `90`, `90s`, `5m`, `1h`: a whole number, seconds where no unit follows.
pub(super) fn time(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "s" | "sec" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(factor)?))
}

/// Number and unit, with or without a space between.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    number.starts_with(|c: char| c.is_ascii_digit()).then_some((number, unit.trim_start()))
}

/// A size the way the file would write it: `512MiB`, `2GiB`.
pub(super) fn show_size(bytes: u64) -> String {
    let mib = bytes / MIB;
    for (unit, factor) in [("TiB", 1024 * 1024), ("GiB", 1024)] {
        if mib >= factor && mib.is_multiple_of(factor) {
            return format!("{}{unit}", mib / factor);
        }
    }
    format!("{mib}MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, mib) in [
            ("512MiB", 512),
            ("512 MB", 512),
            ("1g", 1024),
            ("1.5GiB", 1536),
            ("0.5GB", 512),
            ("2TiB", 2 * 1024 * 1024),
            ("0MiB", 0),
        ] {
            assert_eq!(size(text), Some(mib * MIB), "{text}");
        }
        let wrong = ["", "lots", "512", "1.3MiB", "1.GiB", ".5GiB", "1.2.3GiB", "-1GiB", "99999999999999TiB"];
        for text in wrong {
            assert_eq!(size(text), None, "{text}");
        }
        assert_eq!(size("1.0000001GiB"), None);
        assert_eq!(size("16KiB"), None);
    }

    #[test]
    fn times() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("2 min", 120), ("1H", 3600)] {
            assert_eq!(time(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "soon", "1.5m", "-3", "99999999999999999999", "9999999999999999h", "5d"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        assert_eq!(show_size(512 * MIB), "512MiB");
        assert_eq!(show_size(1536 * MIB), "1536MiB");
        assert_eq!(show_size(2048 * MIB), "2GiB");
    }
}
