//! A shared folder: requests good and bad, and the chains that bring them.

use std::path::PathBuf;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::Share;
use rvm::vmm::virtio::fs::{Budget, Feed, Fs};

use crate::rig::{Rig, folder, mostly, readable, writable};

/// The operations of the server but for two that take the host's time and space, and some that it lacks.
const OPERATIONS: [u32; 33] = [
    1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 25, 26, 27, 28, 29, 30, 34, 35, 38,
    42, 44, 45, 46, 47,
];
/// Names of files, some of which are there.
const NAMES: [&[u8]; 8] = [b"a\0", b"b\0", b"folder\0", b"link\0", b"..\0", b"folder/a\0", b"\0", b"a\0b\0"];
const HEADER: usize = 40;
/// The first group of the guest's agent.
const AGENT: u32 = 0x7276_6d00;

/// A fresh folder with one of each in it, and a file beside it that nobody may touch.
fn fresh() -> PathBuf {
    let share = folder().join("share");
    let _ = std::fs::remove_dir_all(&share);
    std::fs::create_dir_all(share.join("folder")).unwrap();
    std::fs::write(share.join("a"), "content").unwrap();
    std::os::unix::fs::symlink("../beside", share.join("link")).unwrap();
    std::fs::write(folder().join("beside"), "b").unwrap();
    share
}

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let share = Share {
        tag: "fuzz".into(),
        source: fresh(),
        hidden: vec!["a".into()],
        read_only: u.ratio(1, 8)?,
        owner: (1000, 1000),
    };
    let device = Fs::new(&share, &Budget::of_memory(16 << 20)).unwrap().telling(&Feed::new().unwrap());
    let Some(mut rig) = Rig::start(device, u)? else { return Ok(()) };
    let init = [7u32, 31, 0, u32::MAX].map(u32::to_le_bytes).concat();
    let result = offer(&mut rig, u, 26, 0, &init).and_then(|()| ask(&mut rig, u));
    for queue in [0, 1] {
        rig.kick(queue as u32);
        rig.settle(queue);
    }
    rig.reset();
    assert_eq!(std::fs::read(folder().join("beside")).unwrap(), b"b", "a file beside the share was changed");
    result
}

fn ask(rig: &mut Rig, u: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=12)? {
        let (opcode, node) = (*u.choose(&OPERATIONS)?, u.int_in_range(0..=5)?);
        let mut body = Vec::new();
        // Numbers that mean something: handles, offsets, flags.
        for _ in 0..u.int_in_range(0..=7)? {
            let number = u.int_in_range(0..=4)?;
            body.extend(mostly(u, number).to_le_bytes());
        }
        for _ in 0..u.int_in_range(0..=2)? {
            body.extend(*u.choose(&NAMES)?);
        }
        if opcode == 16 {
            body.resize(body.len() + u.int_in_range(0..=100)?, 7);
        }
        offer(rig, u, opcode, node, &body)?;
        if u.arbitrary()? {
            rig.kick(u.int_in_range(0..=1)?);
        }
    }
    Ok(())
}

fn offer(rig: &mut Rig, u: &mut Unstructured<'_>, opcode: u32, node: u64, body: &[u8]) -> Result<()> {
    let len = mostly(u, (HEADER + body.len()) as u64) as u32;
    let mut request = [len, opcode].map(u32::to_le_bytes).concat();
    // Some come as the agent.
    let group = if u.ratio(1, 4)? { AGENT + u.int_in_range(0..=4)? } else { 0 };
    request.extend([1, mostly(u, node), u64::from(group) << 32, 0].map(u64::to_le_bytes).concat());
    request.extend(body);
    let queue = usize::from(!u.ratio(1, 8)?);
    let room = u.int_in_range(0..=5000)?;
    rig.offer(u, queue, &[readable(request), writable(room)])
}
