//! Page numbers from a driver, and what becomes of the pages.

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileSlice};

use super::{BALLOON_PAGE, MAX_PFNS};
use crate::vmm::memory::{self, Sharing};
use crate::vmm::virtio::chain::Chain;

/// Page numbers taken from a chain at once.
const STEP: usize = 256;

/// What became of pages, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Given back to the host.
    pub(super) given_back: u64,
    /// Not guest memory, no whole page, or not to be had back.
    pub(super) refused: u64,
}

/// The way back to the host for pages of guest memory. Space for a list of their numbers is allocated once.
pub(super) struct Pages {
    numbers: Vec<u32>,
    sharing: Sharing,
}

impl Pages {
    pub(super) fn new(mem: &GuestMemoryMmap) -> Self {
        Self { numbers: Vec::with_capacity(MAX_PFNS), sharing: memory::sharing(mem) }
    }

    /// Gives the pages whose numbers are in `chain` back to the host, those that are guest memory.
    /// Neighbours go together, in whatever order they are listed. A chain holds no more than
    /// [`MAX_PFNS`]; what is left over of a number is ignored.
    pub(super) fn inflate(&mut self, chain: &mut Chain<'_>, mem: &GuestMemoryMmap) -> Outcome {
        self.read(chain);
        let mut outcome = Outcome::default();
        let mut rest = self.numbers.as_slice();
        while let Some(&first) = rest.first() {
            let address = GuestAddress(u64::from(first) * BALLOON_PAGE);
            let room = mem.to_region_addr(address).map(|(region, at)| (region, at, region.len() - at.0));
            let Some((region, at, room)) = room.filter(|(.., room)| *room >= BALLOON_PAGE) else {
                outcome.refused += BALLOON_PAGE;
                rest = rest.split_first().map(|(_, rest)| rest).unwrap_or_default();
                continue;
            };
            let most = usize::try_from(room / BALLOON_PAGE).unwrap_or(usize::MAX);
            let count = run_length(rest).min(most);
            let len = count * BALLOON_PAGE as usize;
            match region.get_slice(at, len) {
                Ok(slice) => outcome.add(self.discard(&slice)),
                Err(_) => outcome.refused += len as u64,
            }
            rest = rest.get(count..).unwrap_or_default();
        }
        outcome
    }

    /// Takes all numbers out of `chain`, in order and each once.
    fn read(&mut self, chain: &mut Chain<'_>) {
        self.numbers.clear();
        let mut bytes = [0; STEP * 4];
        let mut left = chain.readable_len().min(MAX_PFNS * 4) / 4 * 4;
        while left > 0 {
            let Some(step) = bytes.get_mut(..left.min(STEP * 4)) else { break };
            if !chain.read_exact(step) {
                break;
            }
            left -= step.len();
            let (numbers, _) = step.as_chunks::<4>();
            self.numbers.extend(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)));
        }
        self.numbers.sort_unstable();
        self.numbers.dedup();
    }

    /// Gives free pages back that the driver reports as the buffers themselves (section 5.5.6.7).
    pub(super) fn report(&self, chain: &Chain<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        for slice in chain.writable() {
            outcome.add(self.discard(slice));
        }
        outcome
    }

    fn discard(&self, slice: &VolatileSlice<'_>) -> Outcome {
        let len = slice.len() as u64;
        let given_back = memory::give_back(slice, self.sharing).unwrap_or(0);
        Outcome { given_back, refused: len - given_back }
    }
}

/// How many of `numbers`, which are in order, follow one another from the first on.
fn run_length(numbers: &[u32]) -> usize {
    let ends = numbers.windows(2).position(|pair| matches!(pair, [a, b] if a.checked_add(1) != Some(*b)));
    ends.map_or(numbers.len(), |at| at + 1)
}

impl Outcome {
    pub(super) fn add(&mut self, other: Self) {
        self.given_back += other.given_back;
        self.refused += other.refused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_counted() {
        assert_eq!(run_length(&[5]), 1);
        assert_eq!(run_length(&[5, 6, 7, 9]), 3);
        assert_eq!(run_length(&[5, 9]), 1);
        assert_eq!(run_length(&[u32::MAX - 1, u32::MAX]), 2);
    }
}
