use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use super::*;

/// A relay at work, and the folder with its sockets.
struct Rig {
    dir: tempfile::TempDir,
    work: JoinHandle<io::Result<()>>,
}

impl Rig {
    fn new() -> (Self, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let mut relay = relay(&dir);
        let program = control::connect(&dir.path().join("program.sock")).unwrap();
        (Self { dir, work: std::thread::spawn(move || relay.run(None)) }, program)
    }

    /// A server that is introduced, as the relay is connected to it.
    fn server(&self) -> UnixStream {
        let path = self.dir.path().join("server.sock");
        let listener = control::bind(&path).unwrap();
        introduce(&self.dir.path().join("relay.sock"), &path).unwrap();
        listener.accept().unwrap().0
    }
}

fn relay(dir: &tempfile::TempDir) -> Relay {
    let bind = |name: &str| control::bind(&dir.path().join(name)).unwrap();
    Relay::new(bind("program.sock"), bind("relay.sock"))
}

fn say(socket: &UnixStream, request: Request, flags: u32, payload: &[u8], files: Vec<OwnedFd>) {
    let message = Message { request: request.into(), flags: 1 | flags, payload: payload.to_vec(), files };
    message.send(socket).unwrap();
}

/// The next message, whose request and last bytes are these; the descriptors that came with it.
#[track_caller]
fn hears(socket: &UnixStream, request: Request, flags: u32, payload: &[u8]) -> Vec<OwnedFd> {
    let message = Message::receive(socket).unwrap().expect("an end");
    assert_eq!((message.kind(), message.flags, &message.payload[..]), (Some(request), 1 | flags, payload));
    message.files
}

fn counter() -> (OwnedFd, OwnedFd) {
    let counter = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    (counter.try_clone().unwrap(), counter)
}

fn count(counter: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    match rustix::io::read(counter, &mut bytes) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(Errno::AGAIN) => 0,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn who_takes_over_is_told_all_and_rung_for() {
    let (rig, program) = Rig::new();
    let first = rig.server();
    say(&program, Request::GET_FEATURES, 0, &[], vec![]);
    hears(&first, Request::GET_FEATURES, 0, &[]);
    say(&first, Request::GET_FEATURES, 4, &[1; 8], vec![]);
    hears(&program, Request::GET_FEATURES, 4, &[1; 8]);
    let (kick, ours) = counter();
    let (call, heard) = counter();
    let memory = vec![counter().0, counter().0];
    say(&program, Request::SET_VRING_CALL, 0, &[1, 0, 0, 0, 0, 0, 0, 0], vec![call]);
    say(&program, Request::SET_MEM_TABLE, NEED_REPLY, &[7; 72], memory);
    hears(&first, Request::SET_VRING_CALL, 0, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(hears(&first, Request::SET_MEM_TABLE, NEED_REPLY, &[7; 72]).len(), 2);
    say(&first, Request::SET_MEM_TABLE, 4, &[0; 8], vec![]);
    hears(&program, Request::SET_MEM_TABLE, 4, &[0; 8]);
    for size in [64, 128] {
        say(&program, Request::SET_VRING_NUM, 0, &[1, 0, 0, 0, size, 0, 0, 0], vec![]);
        hears(&first, Request::SET_VRING_NUM, 0, &[1, 0, 0, 0, size, 0, 0, 0]);
    }
    say(&program, Request::SET_VRING_KICK, 0, &[1, 0, 0, 0, 0, 0, 0, 0], vec![kick]);
    hears(&first, Request::SET_VRING_KICK, 0, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((count(&ours), count(&heard)), (0, 0));

    say(&program, Request::SET_VRING_ENABLE, 0, &[1, 0, 0, 0, 1, 0, 0, 0], vec![]);
    hears(&first, Request::SET_VRING_ENABLE, 0, &[1, 0, 0, 0, 1, 0, 0, 0]);

    // It dies of a question.
    say(&program, Request::GET_QUEUE_NUM, 0, &[], vec![]);
    hears(&first, Request::GET_QUEUE_NUM, 0, &[]);
    drop(first);
    let second = rig.server();
    hears(&second, Request::GET_FEATURES, 0, &[]);
    say(&second, Request::GET_FEATURES, 4, &[1; 8], vec![]);
    assert_eq!(hears(&second, Request::SET_VRING_CALL, 0, &[1, 0, 0, 0, 0, 0, 0, 0]).len(), 1);
    assert_eq!(hears(&second, Request::SET_MEM_TABLE, 0, &[7; 72]).len(), 2);
    hears(&second, Request::SET_VRING_NUM, 0, &[1, 0, 0, 0, 128, 0, 0, 0]);
    assert_eq!(hears(&second, Request::SET_VRING_KICK, 0, &[1, 0, 0, 0, 0, 0, 0, 0]).len(), 1);
    hears(&second, Request::SET_VRING_ENABLE, 0, &[1, 0, 0, 0, 1, 0, 0, 0]);
    // Once as it was said, once as it waits for an answer.
    hears(&second, Request::GET_QUEUE_NUM, 0, &[]);
    say(&second, Request::GET_QUEUE_NUM, 4, &[2; 8], vec![]);
    hears(&second, Request::GET_QUEUE_NUM, 0, &[]);
    say(&second, Request::GET_QUEUE_NUM, 4, &[2; 8], vec![]);
    hears(&program, Request::GET_QUEUE_NUM, 4, &[2; 8]);
    assert_eq!((count(&ours), count(&heard)), (1, 1));

    // A queue that was stopped is not begun by who comes next.
    say(&program, Request::GET_VRING_BASE, 0, &[1, 0, 0, 0, 0, 0, 0, 0], vec![]);
    hears(&second, Request::GET_VRING_BASE, 0, &[1, 0, 0, 0, 0, 0, 0, 0]);
    say(&second, Request::GET_VRING_BASE, 4, &[1, 0, 0, 0, 9, 0, 0, 0], vec![]);
    hears(&program, Request::GET_VRING_BASE, 4, &[1, 0, 0, 0, 9, 0, 0, 0]);
    drop(second);
    let third = rig.server();
    hears(&third, Request::GET_FEATURES, 0, &[]);
    say(&third, Request::GET_FEATURES, 4, &[1; 8], vec![]);
    for request in
        [Request::SET_VRING_CALL, Request::SET_MEM_TABLE, Request::SET_VRING_NUM, Request::SET_VRING_ENABLE]
    {
        assert_eq!(Message::receive(&third).unwrap().unwrap().kind(), Some(request));
    }
    hears(&third, Request::GET_QUEUE_NUM, 0, &[]);
    say(&third, Request::GET_QUEUE_NUM, 4, &[2; 8], vec![]);
    drop(program);
    assert!(Message::receive(&third).unwrap().is_none(), "a doorbell was kept");
    rig.work.join().unwrap().unwrap();
}

#[test]
fn a_server_that_says_what_nobody_asked_is_left_and_another_can_come() {
    let (rig, program) = Rig::new();
    let bad = rig.server();
    say(&bad, Request::GET_FEATURES, 4, &[0; 8], vec![]);
    assert!(Message::receive(&bad).unwrap().is_none());
    let good = rig.server();
    say(&program, Request::GET_FEATURES, 0, &[], vec![]);
    hears(&good, Request::GET_FEATURES, 0, &[]);
    say(&good, Request::GET_FEATURES, 4, &[3; 8], vec![]);
    hears(&program, Request::GET_FEATURES, 4, &[3; 8]);
}

#[test]
fn a_program_that_breaks_the_protocol_is_hung_up_on() {
    let too_long = [1_u32, 1, 5000].map(u32::to_le_bytes).concat();
    let unknown = [99_u32, 1, 0].map(u32::to_le_bytes).concat();
    let twice = [1_u32, 1, 0, 1, 1, 0].map(u32::to_le_bytes).concat();
    for (bytes, why) in [(too_long, "too long"), (unknown, "request 99"), (twice, "before the answer")] {
        let (rig, mut program) = Rig::new();
        io::Write::write_all(&mut program, &bytes).unwrap();
        // The third is found when it ends.
        drop(program);
        let error = rig.work.join().unwrap().unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn one_that_was_stopped_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = relay(&dir);
    let program = control::connect(&dir.path().join("program.sock")).unwrap();
    let (stop, stopped) = UnixStream::pair().unwrap();
    let work = std::thread::spawn(move || relay.run(Some(stopped.as_fd())).map(|()| relay));
    drop(stop);
    let mut relay = work.join().unwrap().unwrap();
    say(&program, Request::SET_OWNER, 0, &[], vec![]);
    drop(program);
    relay.run(None).unwrap();
    assert_eq!(relay.said.len(), 1);
}
