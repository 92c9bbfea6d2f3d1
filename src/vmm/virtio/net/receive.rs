//! Received frames on their way into the driver's buffers.

use vm_memory::{Bytes, VolatileSlice};

use super::HEADER_LEN;
use crate::vmm::virtio::chain::Chain;
use crate::vmm::virtio::queue::{Fault, Ring};

/// Where `num_buffers` is in the header (virtio 1.2, section 5.1.6).
const NUM_BUFFERS: usize = 10;

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The guest has it, once the ring is published.
    Done,
    /// It does not fit into what the driver offers.
    Dropped,
    /// It has to wait for buffers.
    NoBuffers,
    /// The driver offered so much rubbish that others are to have a turn first.
    Later,
}

/// The receive queue and the space for what is taken from it.
#[derive(Debug)]
pub(super) struct Receiver<'m> {
    pub(super) ring: Ring<'m>,
    chain: Chain<'m>,
    mergeable: bool,
    /// Buffers taken for the current frame: chain and bytes written.
    taken: Vec<(u16, u32)>,
}

impl<'m> Receiver<'m> {
    /// `mergeable` says whether a frame may span several buffers.
    pub(super) fn new(ring: Ring<'m>, mergeable: bool) -> Self {
        let taken = Vec::with_capacity(usize::from(ring.size()));
        Self { chain: ring.new_chain(), ring, mergeable, taken }
    }

    /// Writes `frame`, behind the `header` that says how the driver is to take it, to the driver's
    /// buffers. Buffers that turn out not to be enough stay the driver's next ones.
    pub(super) fn deliver(&mut self, mut header: [u8; HEADER_LEN], frame: &[u8]) -> Result<Delivery, Fault> {
        self.taken.clear();
        if let Some(missing) = self.first_buffer()? {
            return Ok(missing);
        }
        let fits = self.chain.writable_len() >= HEADER_LEN + frame.len();
        if !fits && !self.mergeable {
            self.ring.unpop(1);
            return Ok(Delivery::Dropped);
        }
        let number = if fits { None } else { number_field(&self.chain) };
        header[NUM_BUFFERS..].copy_from_slice(&1u16.to_le_bytes());
        self.chain.write(&header);
        let mut written = self.chain.write(frame);
        self.take(HEADER_LEN + written);
        while let Some(rest) = frame.get(written..).filter(|rest| !rest.is_empty()) {
            if self.taken.len() == usize::from(self.ring.size()) {
                return Ok(self.put_back(Delivery::Dropped));
            }
            if !self.ring.pop(&mut self.chain)? {
                return Ok(self.put_back(Delivery::NoBuffers));
            }
            let count = self.chain.write(rest);
            self.take(count);
            written += count;
        }
        if let Some(number) = number {
            let buffers = u16::try_from(self.taken.len()).unwrap_or(u16::MAX).to_le_bytes();
            for (slot, byte) in number.iter().zip(buffers) {
                slot.write_obj(byte, 0).map_err(|_| Fault::Ring)?;
            }
        }
        for &(head, len) in &self.taken {
            self.ring.push(head, len)?;
        }
        Ok(Delivery::Done)
    }

    /// Takes the next buffer that can begin a frame, or says why there is none. What cannot begin
    /// one goes back unused, a queue's worth at most.
    fn first_buffer(&mut self) -> Result<Option<Delivery>, Fault> {
        for _ in 0..self.ring.size() {
            if !self.ring.pop(&mut self.chain)? {
                return Ok(Some(Delivery::NoBuffers));
            }
            if self.chain.readable().is_empty() && self.chain.writable_len() >= HEADER_LEN {
                return Ok(None);
            }
            self.ring.push(self.chain.head(), 0)?;
        }
        Ok(Some(Delivery::Later))
    }

    fn take(&mut self, written: usize) {
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.taken.push((self.chain.head(), written));
    }

    fn put_back(&mut self, delivery: Delivery) -> Delivery {
        // Never more than the queue size.
        self.ring.unpop(u16::try_from(self.taken.len()).unwrap_or(u16::MAX));
        delivery
    }
}

/// The two bytes of `num_buffers`, wherever the driver's pieces put them.
fn number_field<'m>(chain: &Chain<'m>) -> Option<[VolatileSlice<'m>; 2]> {
    Some([chain.writable_byte(NUM_BUFFERS)?, chain.writable_byte(NUM_BUFFERS + 1)?])
}
