//! The control queue (virtio 1.2, section 5.1.6.5): how many pairs of queues the driver uses. Nothing else
//! is offered, so any other command is refused.

use super::pairs::Pairs;
use crate::vmm::virtio::chain::Chain;

/// `VIRTIO_NET_CTRL_MQ` and its command `VQ_PAIRS_SET`.
const MQ: u8 = 4;
const PAIRS_SET: u8 = 0;
/// `VIRTIO_NET_OK` and `VIRTIO_NET_ERR`.
const OK: u8 = 0;
const ERR: u8 = 1;
/// Bytes of the one command that there is: class, command, number of pairs.
const LEN: usize = 4;
/// Most bytes in a chain: more than any command of the specification has to have.
pub(super) const BYTE_LIMIT: u32 = 1 << 16;

/// Does as a command says; `running` pairs have been set up. Gives the number of bytes written.
pub(super) fn execute(chain: &mut Chain<'_>, pairs: &Pairs, running: usize) -> u32 {
    let mut command = [0; LEN];
    let whole = chain.readable_len() == LEN && chain.read_exact(&mut command);
    let [class, command, low, high] = command;
    let count = usize::from(u16::from_le_bytes([low, high]));
    let known = whole && (class, command) == (MQ, PAIRS_SET) && (1..=running).contains(&count);
    let done = known
        && pairs
            .use_first(count)
            .inspect_err(
                |error| tracing::warn!(%error, count, "cannot use so many queues of a TAP interface"),
            )
            .is_ok();
    chain.write(&[if done { OK } else { ERR }]) as u32
}
