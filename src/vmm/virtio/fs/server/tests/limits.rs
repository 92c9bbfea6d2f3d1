//! Floods and nonsense.

use proptest::prelude::*;

use super::*;
use crate::vmm::virtio::fs::server::nodes::MAX_FOLDERS;

/// How many descriptors of this process are of files below a folder, or were.
fn open_below(folder: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    // Other tests close theirs meanwhile.
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|path| path.starts_with(folder))
        .count()
}

#[test]
fn files_that_the_guest_knows_cost_no_descriptors() {
    let mut guest = Guest::new();
    // Folders in folders, with files: more of each than are kept open.
    let mut deepest = (ROOT, PathBuf::new());
    for number in 0..MAX_FOLDERS * 2 {
        let name = format!("d{number}");
        let parent = if number % 3 == 0 { (ROOT, PathBuf::new()) } else { deepest.clone() };
        let path = parent.1.join(&name);
        std::fs::create_dir(guest.path(&path)).unwrap();
        for file in 0..3 {
            std::fs::write(guest.path(&path).join(format!("f{file}")), "").unwrap();
        }
        deepest = (guest.lookup(parent.0, &name).unwrap().node, path);
        guest.list(deepest.0, true, 4096).unwrap();
        assert!(guest.server.nodes.open_folders() <= MAX_FOLDERS);
    }
    assert!(guest.server.nodes.len() >= MAX_FOLDERS * 2 * 4);
    // Those that were closed are opened again when they are needed.
    for node in guest.server.nodes.numbers() {
        guest.getattr(node).unwrap();
    }
    assert!(guest.server.nodes.open_folders() <= MAX_FOLDERS);
}

#[test]
fn a_guest_cannot_know_or_open_more_than_it_may() {
    let mut guest = Guest::with(false, 20, 10);
    for number in 0..30 {
        std::fs::write(guest.path(format!("f{number}")), "").unwrap();
    }
    let mut known = Vec::new();
    for number in 0..20 {
        known.push(guest.lookup(ROOT, format!("f{number}")).unwrap().node);
    }
    assert_eq!(guest.lookup(ROOT, "f20").unwrap_err(), libc::ENFILE);
    assert_eq!(guest.create(ROOT, "new", 0o644).unwrap_err(), libc::ENFILE);
    assert!(!guest.path("new").exists());
    // The rest of a listing is told of by name only.
    let listed = guest.list(ROOT, true, 65536).unwrap();
    assert_eq!(listed.len(), 32);
    assert_eq!(listed.iter().filter(|(_, node)| *node != 0).count(), 20);
    let handles: Vec<_> = (0..10).map(|_| guest.open(known[0], 0).unwrap()).collect();
    assert_eq!(guest.open(known[0], 0).unwrap_err(), libc::ENFILE);
    assert_eq!(guest.list(ROOT, false, 4096).unwrap_err(), libc::ENFILE);
    guest.release(handles[3]).unwrap();
    guest.open(known[0], 0).unwrap();
    assert_eq!(guest.server.handles.len(), 10);
    // By lookup and by listing.
    guest.forget(known[5], 2);
    guest.lookup(ROOT, "f20").unwrap();
}

/// Its folders have what it may know together, and it is given back by one that is reset, or ends.
#[test]
fn all_folders_of_a_machine_have_one_limit() {
    let budget = Budget::of_files(10);
    let mut shares = [(), ()].map(|()| Guest::of_machine(false, &budget, 10));
    let [one, other] = &mut shares;
    for guest in [&*one, &*other] {
        (0..8).for_each(|number| std::fs::write(guest.path(format!("f{number}")), "").unwrap());
    }
    let know = |guest: &mut Guest, count: usize| {
        (0..count)
            .map(|n| guest.lookup(ROOT, format!("f{n}")).map(|seen| seen.node))
            .collect::<Result<Vec<_>, _>>()
    };
    know(one, 7).unwrap();
    know(other, 3).unwrap();
    assert_eq!(know(other, 4).unwrap_err(), libc::ENFILE);
    assert_eq!(know(one, 8).unwrap_err(), libc::ENFILE);
    // What it knows it can use.
    let known = know(other, 3).unwrap();
    other.open(known[0], 0).unwrap();
    one.start();
    know(other, 8).unwrap();
    know(one, 2).unwrap();
    assert_eq!(know(one, 3).unwrap_err(), libc::ENFILE);
    let [mut one, other] = shares;
    drop(other);
    know(&mut one, 8).unwrap();
}

/// What a listing takes here depends on the guest's buffer, and what is remembered on how much it may know.
#[test]
fn a_hundred_thousand_files_are_listed_in_little_memory() {
    const FILES: usize = 100_000;
    let mut guest = Guest::with(false, 1000, 10);
    let folder = std::fs::File::open(guest.share()).unwrap();
    let mode = Mode::RUSR | Mode::WUSR;
    for number in 0..FILES {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::openat(&folder, number.to_string(), flags, mode).unwrap();
    }
    for plus in [false, true] {
        let mut names: Vec<Vec<u8>> =
            guest.list(ROOT, plus, 1 << 20).unwrap().into_iter().map(|(name, _)| name).collect();
        names.dedup();
        assert_eq!(names.len(), FILES + 2);
        assert_eq!(guest.server.nodes.len(), if plus { 1000 } else { 0 });
        assert_eq!(guest.server.nodes.open_folders(), 0);
        let (answer, body) = (guest.server.answer.room(), guest.server.body.capacity());
        assert!(answer <= 128 << 10 && body <= 4096, "{answer} and {body} bytes");
    }
    assert_eq!(guest.server.handles.len(), 0);
}

#[test]
fn a_folder_is_remembered_as_long_as_something_in_it() {
    let mut guest = Guest::new();
    let a = guest.mkdir(ROOT, "a").unwrap().node;
    let b = guest.mkdir(a, "b").unwrap().node;
    let (file, handle) = guest.create(b, "file", 0o644).unwrap();
    guest.release(handle).unwrap();
    guest.forget(a, 1);
    guest.forget(b, 1);
    guest.open(file.node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.server.nodes.len(), 3);
    guest.forget(file.node, 1);
    assert_eq!(guest.server.nodes.len(), 0);
    assert_eq!(guest.server.nodes.open_folders(), 0);
}

/// The guest learns of two folders at different times, and the host moves each into the other between.
#[test]
fn folders_that_seem_to_lie_in_each_other_end_in_an_error() {
    let mut guest = Guest::new();
    std::fs::create_dir_all(guest.path("a/b")).unwrap();
    let a = guest.lookup(ROOT, "a").unwrap().node;
    let b = guest.lookup(a, "b").unwrap().node;
    guest.list(b, false, 4096).unwrap();
    std::fs::rename(guest.path("a/b"), guest.path("b")).unwrap();
    std::fs::rename(guest.path("a"), guest.path("b/a")).unwrap();
    assert_eq!(guest.lookup(b, "a").unwrap().node, a);
    // Now each is in the other, as far as is known, and nothing is open.
    guest.server.nodes.close_folders();
    assert_eq!(guest.lookup(a, "x").unwrap_err(), libc::ESTALE);
    assert_eq!(guest.getattr(b).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.lookup(ROOT, "b").unwrap().node, b);
    guest.getattr(a).unwrap();
}

#[test]
fn requests_that_say_a_wrong_length_are_refused() {
    let mut guest = Guest::new();
    let (_, handle) = guest.create(ROOT, "file", 0o644).unwrap();
    let header = |len: u32, opcode: u32| {
        let mut request = Answer::default();
        request.u32(len).u32(opcode).u64(1).u64(ROOT).zeros(16);
        request
    };
    let error = |answer: &[u8]| -i32::from_le_bytes(answer[4..8].try_into().unwrap());
    for len in [0, 39, 41, 1000, u32::MAX] {
        for opcode in [op::LOOKUP, op::READ, op::WRITE, op::GETATTR] {
            let answer = guest.raw(header(len, opcode).bytes(), 4096);
            assert_eq!(error(&answer), libc::EINVAL, "{opcode} of {len}");
        }
    }
    assert!(guest.raw(&[0; 39], 4096).is_empty());
    for room in 0..16 {
        assert!(guest.raw(header(40, op::STATFS).bytes(), room).is_empty());
    }
    assert_eq!(error(&guest.raw(header(40, op::STATFS).bytes(), 16)), libc::EINVAL);
    // A write that has fewer bytes than it says, and one with more.
    for (size, data) in [(10u32, 9usize), (10, 11), (u32::MAX, 10)] {
        let mut body = Answer::default();
        body.u64(handle).u64(0).u32(size).u32(0).u64(0).u64(0).zeros(data);
        assert_eq!(guest.call(op::WRITE, 0, body.bytes()).unwrap_err(), libc::EINVAL);
    }
    assert_eq!(guest.write(handle, u64::MAX, b"x", 0).unwrap_err(), libc::EINVAL);
    assert_eq!(guest.read(handle, u64::MAX, 1).unwrap_err(), libc::EINVAL);
    // A name without an end.
    assert_eq!(guest.call(op::LOOKUP, ROOT, b"file").unwrap_err(), libc::EINVAL);
    assert_eq!(guest.call(op::LOOKUP, ROOT, &vec![b'a'; 100_000]).unwrap_err(), libc::EINVAL);
}

#[test]
fn nothing_goes_before_the_beginning() {
    let mut guest = Guest::new();
    guest.server.reset();
    for opcode in (0..60).filter(|opcode| ![op::INIT, op::FORGET, op::BATCH_FORGET].contains(opcode)) {
        assert_eq!(guest.call(opcode, ROOT, &[0; 128]).unwrap_err(), libc::EIO, "{opcode}");
    }
    // An old kernel, and one of the future, which asks again.
    let init = |major: u32| [major.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    assert_eq!(guest.call(op::INIT, 0, &init(6)).unwrap_err(), libc::EPROTO);
    let answer = guest.call(op::INIT, 0, &init(8)).unwrap();
    assert_eq!(Args::new(&answer).u32(), Ok(7));
    assert_eq!(guest.lookup(ROOT, "x").unwrap_err(), libc::EIO);
    guest.start();
    assert_eq!(guest.lookup(ROOT, "x").unwrap_err(), libc::ENOENT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever comes, in whatever order: no panic, no descriptor lost, nothing beside the share touched.
    #[test]
    fn any_request_is_answered(requests in prop::collection::vec(
        (0u32..54, 0u64..8, prop::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(1u8), any::<u8>()], 0..120)),
        1..40,
    )) {
        let mut guest = Guest::new();
        std::fs::write(guest.outer.path().join("beside"), "b").unwrap();
        std::fs::create_dir(guest.path("a")).unwrap();
        guest.lookup(ROOT, "a").unwrap();
        guest.create(ROOT, "f", 0o644).unwrap();
        for (opcode, node, body) in requests {
            // Neither the time to sync the whole host nor its space is what this is about.
            if [op::SYNCFS, op::FALLOCATE, op::INIT, op::DESTROY].contains(&opcode) {
                continue;
            }
            // Of those that it knows, and others.
            let known = guest.server.nodes.numbers();
            let node = node.checked_sub(2).and_then(|at| known.get(at as usize).copied()).unwrap_or(node);
            let mut request = Answer::default();
            request.u32((40 + body.len()) as u32).u32(opcode).u64(9).u64(node).zeros(16).raw(&body);
            guest.raw(request.bytes(), 5000);
        }
        prop_assert_eq!(std::fs::read(guest.outer.path().join("beside")).unwrap(), b"b");
        prop_assert_eq!(std::fs::read_dir(guest.outer.path()).unwrap().count(), 2);
        let (place, server) = (guest.outer.path().canonicalize().unwrap(), &guest.server);
        // The share itself, what the guest has open, and folders on the way.
        prop_assert_eq!(open_below(&place), 1 + server.handles.len() + server.nodes.open_folders());
        drop(guest);
        prop_assert_eq!(open_below(&place), 0);
    }
}
