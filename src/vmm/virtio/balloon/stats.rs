//! What a guest says about its memory (virtio 1.2, section 5.5.6.4).

use serde::{Deserialize, Serialize};

use crate::vmm::virtio::chain::Chain;

/// Bytes of one statistic: a tag and a value.
const ENTRY: usize = 10;
/// Statistics that are looked at in one buffer; the specification knows 10, Linux some more.
const MAX_ENTRIES: usize = 64;

/// What a guest says about its memory: its own words, which may be wrong or lies. Sizes are in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// All memory that it has (`MemTotal`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Memory that nothing uses (`MemFree`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// Memory that a new program could have without swapping (`MemAvailable`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    /// Memory that caches files and can be had back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caches: Option<u64>,
    /// Read from swap since it booted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    /// Written to swap since it booted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    /// Page faults that needed a disk, since it booted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
}

impl Stats {
    /// Reads them from a buffer of the driver's. What is unknown, cut short or too much is ignored.
    pub(super) fn read(chain: &mut Chain<'_>) -> Self {
        let mut stats = Self::default();
        let mut entry = [0; ENTRY];
        for _ in 0..MAX_ENTRIES {
            if !chain.read_exact(&mut entry) {
                break;
            }
            let [t0, t1, value @ ..] = entry;
            stats.set(u16::from_le_bytes([t0, t1]), u64::from_le_bytes(value));
        }
        stats
    }

    /// Tags of section 5.5.6.4.
    fn set(&mut self, tag: u16, value: u64) {
        let field = match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free,
            5 => &mut self.total,
            6 => &mut self.available,
            7 => &mut self.caches,
            _ => return,
        };
        // The driver's word for "I cannot say" is all ones.
        *field = (value != u64::MAX).then_some(value);
    }
}
