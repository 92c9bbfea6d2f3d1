//! Processors and memory as shares of the host's.

use std::cell::Cell;

use super::units::MIB;
use super::walk::{Reader, Table};

/// Virtual CPUs of a machine.
pub(super) const CPUS: (u64, u64) = (1, 64);
/// Bytes of memory of a machine.
pub(super) const MEMORY: (u64, u64) = (64 * MIB, 1024 * 1024 * MIB);
/// Largest denominator of a share.
const MOST_PARTS: u64 = 1000;

/// What the host has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Processors that programs of this user may use, at least 1.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory: u64,
}

impl Reader<'_> {
    /// A number of processors, `"auto"` for all of the host's, or a share of them.
    pub fn cpus(&mut self, table: &Table<'_>) -> Option<u8> {
        let (least, most) = CPUS;
        let host = self.host;
        let unknown = Cell::new(false);
        let wanted = format!(
            "a whole number from {least} to {most}, `\"auto\"` for as many as the host has, or a share of \
             them such as `\"half\"`, `\"1/4\"` or `\"50%\"`"
        );
        let fits = |number: u64| (least..=most).contains(&number).then_some(number);
        let from_text = |text: &str| {
            let Some((part, whole)) = share(text).or((text == "auto").then_some((1, 1))) else {
                return text.parse().ok().and_then(fits);
            };
            unknown.set(host.is_none());
            // A host that is not known gives one, so that only that is told.
            let cpus = host.map_or(1, |host| u64::from(host.cpus));
            Some((cpus.saturating_mul(part) / whole).clamp(least, most))
        };
        let cpus = self.scalar(table, "cpus", &wanted, fits, from_text)?;
        if unknown.get() {
            self.wrong(&cpus.span, "it is not known how many processors this host has", "write a number");
        }
        u8::try_from(cpus.value).ok()
    }

    /// A size, or a share of the host's memory.
    pub fn memory(&mut self, table: &Table<'_>) -> Option<u64> {
        let value = table.raw("memory")?;
        let filled = value.get_ref().as_str().and_then(|text| self.vars.expand(text).ok());
        let Some((part, whole)) = filled.and_then(|text| share(text.value.trim())) else {
            return self.size(table, "memory", Some(MIB), MEMORY).map(|size| size.value);
        };
        let Some(host) = self.host else {
            self.wrong(&value.span(), "it is not known how much memory this host has", "write a size");
            return None;
        };
        let bytes = u128::from(host.memory) * u128::from(part) / u128::from(whole);
        let (least, most) = MEMORY;
        let bytes = u64::try_from(bytes).unwrap_or(most).min(most) / MIB * MIB;
        if bytes < least {
            let message = format!("this share of the host's memory is {} MiB", bytes / MIB);
            self.wrong(&value.span(), message, "a machine needs 64 MiB at least");
            return None;
        }
        Some(bytes)
    }
}

/// `half`, `1/4`, `50%`: more than nothing, at most all.
fn share(text: &str) -> Option<(u64, u64)> {
    let (part, whole) = match text.strip_suffix('%') {
        _ if text == "half" => (1, 2),
        Some(percent) => (percent.trim_end().parse().ok()?, 100),
        None => {
            let (part, whole) = text.split_once('/')?;
            (part.trim().parse().ok()?, whole.trim().parse().ok()?)
        }
    };
    ((1..=whole).contains(&part) && whole <= MOST_PARTS).then_some((part, whole))
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares() {
        for (text, expected) in
            [("half", (1, 2)), ("1/4", (1, 4)), ("3 / 4", (3, 4)), ("50%", (50, 100)), ("100 %", (100, 100))]
        {
            assert_eq!(share(text), Some(expected), "{text}");
        }
        for text in
            ["", "0%", "101%", "1/0", "0/4", "5/4", "1/1001", "-1/2", "1.5%", "quarter", "%", "/", "4"]
        {
            assert_eq!(share(text), None, "{text}");
        }
    }
}
