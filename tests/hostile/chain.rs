//! The reader of descriptor chains, at the level of rings and memory.

use proptest::prelude::*;
use rvm::vmm::virtio::chain::{Chain, ChainError};
use rvm::vmm::virtio::queue::{Fault, QueueConfig, Ring};
use rvm::vmm::virtio::{VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::driver::{DATA, HIGH_END, HIGH_START, INDIRECT, LOW_END, NEXT, Queue, WRITE, memory};

const SIZE: u16 = 16;
const MAX_SIZE: u16 = 32;
const LIMIT: u32 = 1 << 20;
const TABLE: u64 = 0x8_0000;

/// One descriptor as it lies in memory.
#[derive(Debug, Clone, Copy)]
struct Desc {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc { addr, len, flags, next }
}

fn write_table(mem: &GuestMemoryMmap, at: u64, table: &[Desc]) {
    for (index, desc) in table.iter().enumerate() {
        let at = at + 16 * index as u64;
        mem.write_obj(desc.addr, GuestAddress(at)).unwrap();
        mem.write_obj(desc.len, GuestAddress(at + 8)).unwrap();
        mem.write_obj(desc.flags, GuestAddress(at + 12)).unwrap();
        mem.write_obj(desc.next, GuestAddress(at + 14)).unwrap();
    }
}

fn ring(mem: &GuestMemoryMmap, features: u64) -> Ring<'_> {
    let queue = Queue::at(0, SIZE);
    let config = QueueConfig {
        max_size: MAX_SIZE,
        size: SIZE.into(),
        ready: true,
        descriptors: queue.descriptors,
        avail: queue.avail,
        used: queue.used,
    };
    let features = features | VIRTIO_F_VERSION_1;
    Ring::new(mem, &config.build(mem, features).unwrap(), features, LIMIT).unwrap()
}

/// Readable and writable buffers, as host address and length.
type Pieces = (Vec<(usize, usize)>, Vec<(usize, usize)>);

fn pieces(chain: &Chain<'_>) -> Pieces {
    let list = |slices: &[vm_memory::VolatileSlice<'_>]| {
        slices.iter().map(|slice| (slice.ptr_guard().as_ptr() as usize, slice.len())).collect()
    };
    (list(chain.readable()), list(chain.writable()))
}

/// Pops the one chain that begins at `head` of `table`.
fn pop_from<'m>(
    mem: &'m GuestMemoryMmap,
    table: &[Desc],
    head: u16,
    features: u64,
) -> Result<Chain<'m>, Fault> {
    let queue = Queue::at(0, SIZE);
    write_table(mem, queue.descriptors, table);
    mem.write_obj(head, GuestAddress(queue.avail + 4)).unwrap();
    mem.write_obj(1u16, GuestAddress(queue.avail + 2)).unwrap();
    let mut ring = ring(mem, features);
    let mut chain = ring.new_chain();
    assert!(ring.pop(&mut chain)?, "nothing to pop");
    Ok(chain)
}

fn refused(table: &[Desc], head: u16, features: u64) -> ChainError {
    let mem = memory();
    match pop_from(&mem, table, head, features) {
        Err(Fault::Chain(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn good_chain_comes_apart_into_readable_and_writable() {
    let mem = memory();
    let table = [
        desc(DATA, 16, NEXT, 5),
        desc(0, 0, 0, 0),
        desc(HIGH_START, 4096, WRITE | NEXT, 3),
        desc(HIGH_END - 1, 1, WRITE, 0),
        desc(0, 0, 0, 0),
        desc(LOW_END - 512, 512, NEXT, 2),
    ];
    let mut chain = pop_from(&mem, &table, 0, 0).unwrap();
    assert_eq!((chain.head(), chain.readable_len(), chain.writable_len()), (0, 528, 4097));
    let mut header = [0; 20];
    assert!(chain.read_exact(&mut header));
    assert_eq!(chain.readable_len(), 508);
    assert!(!chain.read_exact(&mut [0; 509]));
    assert_eq!(chain.readable_len(), 508);
    assert!(chain.take_last_byte().is_some());
    assert_eq!(chain.writable_len(), 4096);
    assert_eq!(chain.write(&[7; 5000]), 4096);
    assert_eq!(chain.writable_len(), 0);
    assert!(chain.take_last_byte().is_none());
    let mut back = [0; 4096];
    mem.read_slice(&mut back, GuestAddress(HIGH_START)).unwrap();
    assert_eq!(back, [7; 4096]);
}

#[test]
fn index_out_of_range_is_refused() {
    let out = |index| ChainError::Index { index, entries: SIZE };
    assert_eq!(refused(&[], SIZE, 0), out(SIZE));
    assert_eq!(refused(&[], u16::MAX, 0), out(u16::MAX));
    assert_eq!(refused(&[desc(DATA, 1, NEXT, SIZE)], 0, 0), out(SIZE));
    assert_eq!(refused(&[desc(DATA, 1, NEXT, u16::MAX)], 0, 0), out(u16::MAX));
}

#[test]
fn loop_is_refused() {
    let too_long = ChainError::TooLong { limit: SIZE };
    assert_eq!(refused(&[desc(DATA, 1, NEXT, 0)], 0, 0), too_long);
    assert_eq!(refused(&[desc(DATA, 1, NEXT, 1), desc(DATA, 1, NEXT, 0)], 0, 0), too_long);
    assert_eq!(refused(&[desc(DATA, 0, NEXT, 0)], 0, 0), too_long);
}

#[test]
fn chain_as_long_as_the_queue_is_taken() {
    let mem = memory();
    let mut table: Vec<_> = (0..SIZE).map(|at| desc(DATA, 1, NEXT, at + 1)).collect();
    table[15].flags = 0;
    assert_eq!(pop_from(&mem, &table, 0, 0).unwrap().readable_len(), 16);
}

#[test]
fn buffer_outside_memory_is_refused_before_any_is_touched() {
    let bad = [
        (LOW_END, 1),
        (LOW_END - 1, 2),
        (HIGH_START - 1, 2),
        (HIGH_END - 4, 5),
        (HIGH_END, 1),
        (LOW_END - 4096, (HIGH_START - LOW_END) as u32 + 8192),
        (DATA, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX - 3, 8),
        (0, u32::MAX),
    ];
    for (addr, len) in bad {
        let error = refused(&[desc(DATA, 512, NEXT, 1), desc(addr, len, WRITE, 0)], 0, 0);
        // Longer than any chain may be counts first.
        let expected = if u64::from(len) > u64::from(LIMIT) {
            ChainError::TooLarge { limit: LIMIT }
        } else {
            ChainError::Memory { addr, len }
        };
        assert_eq!(error, expected, "{addr:#x}+{len:#x}");
    }
}

#[test]
fn total_length_is_limited() {
    let half = LIMIT / 2;
    let table = |last| [desc(DATA, half, NEXT, 1), desc(DATA, half, NEXT, 2), desc(DATA, last, 0, 0)];
    assert_eq!(refused(&table(1), 0, 0), ChainError::TooLarge { limit: LIMIT });
    assert_eq!(pop_from(&memory(), &table(0), 0, 0).unwrap().readable_len(), LIMIT as usize);
    let wrap = [desc(DATA, u32::MAX, NEXT, 1), desc(DATA, 2, 0, 0)];
    assert_eq!(refused(&wrap, 0, 0), ChainError::TooLarge { limit: LIMIT });
}

#[test]
fn readable_after_writable_is_refused() {
    let table = [desc(DATA, 1, WRITE | NEXT, 1), desc(DATA, 1, 0, 0)];
    assert_eq!(refused(&table, 0, 0), ChainError::Order);
    let table = [desc(DATA, 0, WRITE | NEXT, 1), desc(DATA, 1, 0, 0)];
    assert_eq!(refused(&table, 0, 0), ChainError::Order);
}

#[test]
fn empty_buffers_are_tolerated_wherever_they_point() {
    let mem = memory();
    let table = [
        desc(u64::MAX, 0, NEXT, 1),
        desc(DATA, 4, NEXT, 2),
        desc(LOW_END, 0, WRITE | NEXT, 3),
        desc(DATA, 8, WRITE, 0),
    ];
    let chain = pop_from(&mem, &table, 0, 0).unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (4, 8));
    let nothing = pop_from(&mem, &[desc(0, 0, 0, 0)], 0, 0).unwrap();
    assert_eq!((nothing.readable_len(), nothing.writable_len()), (0, 0));
}

#[test]
fn indirect_table_is_followed() {
    let mem = memory();
    let table = [desc(DATA, 4, NEXT, 2), desc(0, 0, 0, 0), desc(DATA, 8, WRITE, 0)];
    write_table(&mem, TABLE, &table);
    // The flag for writing means nothing on the table itself.
    let head = [desc(DATA + 64, 2, NEXT, 1), desc(TABLE, 48, INDIRECT | WRITE, 0)];
    let chain = pop_from(&mem, &head, 0, VIRTIO_F_INDIRECT_DESC).unwrap();
    assert_eq!((chain.head(), chain.readable_len(), chain.writable_len()), (0, 6, 8));
}

#[test]
fn indirect_table_may_be_as_long_as_the_device_offers_and_no_longer() {
    let mem = memory();
    let mut table: Vec<_> = (0..=MAX_SIZE).map(|at| desc(DATA, 1, NEXT, at + 1)).collect();
    table[usize::from(MAX_SIZE) - 1].flags = 0;
    write_table(&mem, TABLE, &table);
    let head = |entries: u16| [desc(TABLE, u32::from(entries) * 16, INDIRECT, 0)];
    let chain = pop_from(&mem, &head(MAX_SIZE), 0, VIRTIO_F_INDIRECT_DESC).unwrap();
    assert_eq!(chain.readable_len(), usize::from(MAX_SIZE));
    for entries in [MAX_SIZE + 1, u16::MAX] {
        let error = refused(&head(entries), 0, VIRTIO_F_INDIRECT_DESC);
        assert_eq!(error, ChainError::IndirectSize { len: u32::from(entries) * 16 });
    }
}

#[test]
fn bad_indirect_table_is_refused() {
    let indirect = |desc: Desc| refused(&[desc], 0, VIRTIO_F_INDIRECT_DESC);
    for len in [0, 1, 15, 17, 16 * 65536, u32::MAX, u32::MAX - 15] {
        assert_eq!(indirect(desc(TABLE, len, INDIRECT, 0)), ChainError::IndirectSize { len });
    }
    for addr in [LOW_END, LOW_END - 16, HIGH_END - 8, u64::MAX - 15] {
        let error = indirect(desc(addr, 32, INDIRECT, 0));
        assert_eq!(error, ChainError::Memory { addr, len: 32 });
    }
    assert_eq!(indirect(desc(TABLE, 32, INDIRECT | NEXT, 0)), ChainError::Indirect);
    assert_eq!(refused(&[desc(TABLE, 32, INDIRECT, 0)], 0, 0), ChainError::Indirect);
}

#[test]
fn indirect_chain_keeps_the_rules_inside() {
    let mem = memory();
    let head = [desc(TABLE, 32, INDIRECT, 0)];
    let inside = |table: &[Desc]| {
        write_table(&mem, TABLE, table);
        match pop_from(&mem, &head, 0, VIRTIO_F_INDIRECT_DESC) {
            Err(Fault::Chain(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(inside(&[desc(TABLE, 32, INDIRECT, 0)]), ChainError::Indirect);
    let out = ChainError::Index { index: 2, entries: 2 };
    assert_eq!(inside(&[desc(DATA, 1, NEXT, 2)]), out);
    assert_eq!(inside(&[desc(DATA, 1, NEXT, 0)]), ChainError::TooLong { limit: MAX_SIZE });
}

#[test]
fn chain_is_read_once() {
    let mem = memory();
    let table = [desc(DATA, 16, NEXT, 1), desc(DATA + 64, 16, WRITE, 0)];
    let mut chain = pop_from(&mem, &table, 0, 0).unwrap();
    let before = pieces(&chain);
    // The driver changes its mind; the device does not.
    let evil = [desc(u64::MAX, u32::MAX, WRITE | NEXT, 0), desc(HIGH_END, 1 << 30, 0, 9)];
    write_table(&mem, Queue::at(0, SIZE).descriptors, &evil);
    assert_eq!(pieces(&chain), before);
    assert_eq!(chain.write(&[1; 32]), 16);
    assert!(chain.read_exact(&mut [0; 16]));
}

#[test]
fn collecting_does_not_allocate_beyond_the_first_chain() {
    let mem = memory();
    let mut ring = ring(&mem, VIRTIO_F_INDIRECT_DESC);
    let mut chain = ring.new_chain();
    let queue = Queue::at(0, SIZE);
    let mut table: Vec<_> = (0..MAX_SIZE).map(|at| desc(DATA, 1, NEXT, at + 1)).collect();
    table[usize::from(MAX_SIZE) - 1].flags = 0;
    write_table(&mem, TABLE, &table);
    write_table(&mem, queue.descriptors, &[desc(TABLE, u32::from(MAX_SIZE) * 16, INDIRECT, 0)]);
    mem.write_obj(2u16, GuestAddress(queue.avail + 2)).unwrap();
    assert!(ring.pop(&mut chain).unwrap());
    let first = chain.readable().as_ptr() as usize;
    assert!(ring.pop(&mut chain).unwrap());
    assert_eq!(chain.readable().len(), usize::from(MAX_SIZE));
    assert_eq!(chain.readable().as_ptr() as usize, first);
}

/// The rules of section 2.7 a second time, as a list of what is allowed rather than a walk with
/// limits: the chain's buffers in order, or nothing.
fn model(direct: &[Desc], indirect: &[Desc], head: u16) -> Option<Vec<(u64, u32, bool)>> {
    let mut out = Vec::new();
    let (mut table, mut inside, mut index, mut steps) = (direct, false, head, 0);
    loop {
        let limit = if inside { MAX_SIZE } else { SIZE };
        let desc = table.get(usize::from(index))?;
        if desc.flags & INDIRECT != 0 {
            let whole = desc.addr == TABLE && desc.len % 16 == 0 && desc.len > 0;
            let entries = (desc.len / 16) as usize;
            if inside || !whole || entries > indirect.len() || desc.flags & NEXT != 0 {
                return None;
            }
            (table, inside, index) = (&indirect[..entries], true, 0);
            // Whatever came before counts.
            if steps >= MAX_SIZE {
                return None;
            }
            continue;
        }
        steps += 1;
        if steps > limit {
            return None;
        }
        let end = u128::from(desc.addr) + u128::from(desc.len);
        let in_low = end <= u128::from(LOW_END);
        let in_high = desc.addr >= HIGH_START && end <= u128::from(HIGH_END);
        if desc.len > 0 && !in_low && !in_high {
            return None;
        }
        out.push((desc.addr, desc.len, desc.flags & WRITE != 0));
        if desc.flags & NEXT == 0 {
            break;
        }
        index = desc.next;
    }
    let total: u64 = out.iter().map(|piece| u64::from(piece.1)).sum();
    let ordered = out.is_sorted_by_key(|piece| piece.2);
    (ordered && total <= u64::from(LIMIT)).then_some(out)
}

/// Mostly sound descriptors, and now and then each kind of wrong one.
fn any_desc(entries: u16, indirect: bool) -> impl Strategy<Value = Desc> {
    let addr = prop_oneof![
        40 => DATA..DATA + 0x1_0000,
        4 => prop::sample::select(vec![LOW_END - 64, HIGH_START, HIGH_END - 64]),
        1 => prop::sample::select(vec![LOW_END, HIGH_START - 8, HIGH_END, u64::MAX, u64::MAX - 63, 0]),
    ];
    let len = prop_oneof![
        20 => 0..65u32,
        4 => 65..70_000u32,
        1 => prop::sample::select(vec![LIMIT, LIMIT + 1, u32::MAX]),
    ];
    let next = prop_oneof![30 => 0..entries, 1 => any::<u16>()];
    let table = prop_oneof![
        6 => (1..=u32::from(MAX_SIZE)).prop_map(|entries| entries * 16),
        1 => any::<u32>(),
    ];
    let odds = if indirect { 8 } else { 64 };
    (addr, len, next, table, any::<(bool, bool)>(), 0..odds).prop_map(
        |(addr, len, next, table, (more, write), kind)| match kind {
            0 => desc(TABLE, table, INDIRECT | if more && write { NEXT } else { 0 }, next),
            _ => desc(addr, len, if more { NEXT } else { 0 } | if write { WRITE } else { 0 }, next),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Exactly the chains that the rules allow come through, piece by piece the same, and nothing
    /// panics.
    #[test]
    fn reader_agrees_with_the_rules(
        direct in prop::collection::vec(any_desc(SIZE, true), usize::from(SIZE)),
        indirect in prop::collection::vec(any_desc(MAX_SIZE, false), usize::from(MAX_SIZE)),
        head in prop_oneof![30 => 0..SIZE, 1 => any::<u16>()],
    ) {
        let mem = memory();
        write_table(&mem, TABLE, &indirect);
        let result = pop_from(&mem, &direct, head, VIRTIO_F_INDIRECT_DESC);
        match (model(&direct, &indirect, head), result) {
            (None, Err(Fault::Chain(_))) => {}
            (Some(expected), Ok(chain)) => {
                let host = |addr| {
                    use vm_memory::GuestMemoryBackend;
                    GuestMemoryBackend::get_host_address(&mem, GuestAddress(addr)).unwrap() as usize
                };
                let list = |write| -> Vec<_> {
                    let wanted = |piece: &&(u64, u32, bool)| piece.1 > 0 && piece.2 == write;
                    let place = |piece: &(u64, u32, bool)| (host(piece.0), piece.1 as usize);
                    expected.iter().filter(wanted).map(place).collect()
                };
                prop_assert_eq!(pieces(&chain), (list(false), list(true)));
            }
            (expected, got) => prop_assert!(false, "rules: {expected:?}, reader: {got:?}"),
        }
    }
}
