use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use super::*;

const SOON: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Fake {
    buttons: AtomicU32,
    stops: AtomicU32,
    balloon: AtomicU64,
    up: AtomicBool,
}

impl Target for Fake {
    fn status(&self) -> Status {
        Status { state: State::Running, pid: 42, uptime_ms: 1234, cpus: 2, memory: 1 << 30 }
    }
    fn power_button(&self) -> io::Result<()> {
        self.buttons.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn stop(&self) -> io::Result<()> {
        self.stops.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::other("the machine has ended"))
    }
    fn usage(&self) -> io::Result<Usage> {
        let guest = Stats { free: Some(3), ..Stats::default() };
        let (balloon_target, balloon) = (Some(self.balloon.load(Ordering::SeqCst)), Some(4096));
        Ok(Usage {
            memory: 1 << 30,
            resident: Some(12288),
            balloon_target,
            balloon,
            guest: Some(guest),
            traffic: None,
        })
    }
    fn set_balloon(&self, bytes: u64) -> io::Result<()> {
        self.balloon.store(bytes, Ordering::SeqCst);
        Ok(())
    }
    fn wait_up(&self, time: Duration) -> io::Result<bool> {
        // Long enough that nobody spins, short enough that nobody waits.
        std::thread::sleep(time.min(Duration::from_millis(10)));
        Ok(self.up.load(Ordering::SeqCst))
    }
}

struct Rig {
    _dir: TempDir,
    path: PathBuf,
    fake: Arc<Fake>,
    server: Server,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let fake = Arc::new(Fake::default());
    let server = serve(bind(&path).unwrap(), fake.clone()).unwrap();
    Rig { _dir: dir, path, fake, server }
}

impl Rig {
    fn client(&self) -> Client {
        Client::connect(&self.path, SOON).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = connect(&self.path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }
}

fn exchange(stream: &UnixStream, request: &[u8]) -> String {
    let mut writer = stream;
    writer.write_all(request).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn each_request_gets_its_answer() {
    let rig = rig();
    let mut client = rig.client();
    assert_eq!(client.status().unwrap(), rig.fake.status());
    client.power_button().unwrap();
    client.power_off().unwrap();
    // Who has no surer way presses the button.
    assert_eq!(rig.fake.buttons.load(Ordering::SeqCst), 2);
    let err = client.stop().unwrap_err();
    assert_eq!(err.to_string(), "the machine has ended");
    assert_eq!(rig.fake.stops.load(Ordering::SeqCst), 1);
    client.set_balloon(8192).unwrap();
    assert_eq!(client.usage().unwrap(), rig.fake.usage().unwrap());
    client.status().unwrap();
}

#[test]
fn the_lines_are_as_documented() {
    let rig = rig();
    assert_eq!(
        exchange(&rig.raw(), b"{\"op\":\"status\"}\n"),
        "{\"ok\":true,\"version\":1,\"state\":\"running\",\"pid\":42,\"uptime_ms\":1234,\"cpus\":2,\"memory\":1073741824}\n"
    );
    assert_eq!(exchange(&rig.raw(), b"{\"op\":\"balloon\",\"bytes\":8192}\n"), "{\"ok\":true}\n");
    assert_eq!(
        exchange(&rig.raw(), b"{\"op\":\"usage\"}\n"),
        "{\"ok\":true,\"usage\":{\"memory\":1073741824,\"resident\":12288,\"balloon_target\":8192,\"balloon\":4096,\"guest\":{\"free\":3}}}\n"
    );
    assert_eq!(exchange(&rig.raw(), b"{\"op\":\"power_button\",\"version\":1}\n"), "{\"ok\":true}\n");
    assert_eq!(exchange(&rig.raw(), b"{\"op\":\"power_off\"}\n"), "{\"ok\":true}\n");
}

#[test]
fn a_process_that_knows_no_surer_way_is_asked_to_press_its_button() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = bind(&path).unwrap();
    let old = std::thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        let mut lines = BufReader::new(&stream).lines();
        let unknown = "{\"ok\":false,\"error\":\"not a request: unknown variant\"}\n";
        for (op, answer) in [("power_off", unknown), ("power_button", "{\"ok\":true}\n")] {
            let line = lines.next().unwrap().unwrap();
            assert!(line.contains(&format!("\"{op}\"")), "{line}");
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    });
    Client::connect(&path, SOON).unwrap().power_off().unwrap();
    old.join().unwrap();
}

#[test]
fn wait_up_answers_when_the_guest_is_up() {
    let rig = rig();
    let mut asked = 0;
    // Not up, and the client loses patience.
    let answer = rig.client().wait_up(SOON, &mut || {
        asked += 1;
        asked < 2
    });
    assert!(!answer.unwrap());
    assert!(!rig.client().wait_up(Duration::from_millis(1), &mut || true).unwrap());
    let mut client = rig.client();
    let fake = rig.fake.clone();
    let answer = client.wait_up(SOON, &mut || {
        fake.up.store(true, Ordering::SeqCst);
        true
    });
    assert!(answer.unwrap());
    client.status().unwrap();
}

#[test]
fn wait_up_ends_with_the_machine_and_where_nobody_knows() {
    let waiting = rig();
    let mut client = waiting.client();
    client.status().unwrap();
    let waiter = std::thread::spawn(move || client.wait_up(SOON, &mut || true));
    waiting.server.finish("power-off");
    // Refused, or cut off before the request was read.
    waiter.join().unwrap().unwrap_err();

    struct Mute;
    impl Target for Mute {
        fn status(&self) -> Status {
            Status { state: State::Running, pid: 1, uptime_ms: 0, cpus: 1, memory: 0 }
        }
        fn power_button(&self) -> io::Result<()> {
            Ok(())
        }
        fn stop(&self) -> io::Result<()> {
            Ok(())
        }
        fn usage(&self) -> io::Result<Usage> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn set_balloon(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let _server = serve(bind(&path).unwrap(), Arc::new(Mute)).unwrap();
    let error = Client::connect(&path, SOON).unwrap().wait_up(SOON, &mut || true).unwrap_err();
    assert_eq!(error.to_string(), "this machine does not hear from its guest");
}

#[test]
fn wait_answers_when_the_machine_has_ended() {
    let rig = rig();
    let mut client = rig.client();
    client.status().unwrap();
    let waiter = std::thread::spawn(move || client.wait(SOON));
    rig.server.finish("power-off");
    // The request may come too late to be read, but never without an end.
    match waiter.join().unwrap() {
        Ok(reason) => assert_eq!(reason, "power-off"),
        Err(e) => {
            assert!(matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe), "{e}")
        }
    }
}

#[test]
fn who_waits_learns_the_reason() {
    let rig = rig();
    let stream = rig.raw();
    (&stream).write_all(b"{\"op\":\"status\"}\n{\"op\":\"wait\"}\n").unwrap();
    let mut lines = BufReader::new(&stream).lines();
    lines.next().unwrap().unwrap();
    rig.server.finish("guest keeps resetting");
    assert_eq!(lines.next().unwrap().unwrap(), "{\"ok\":true,\"reason\":\"guest keeps resetting\"}");
    assert!(lines.next().is_none());
}

#[test]
fn wait_times_out_on_a_machine_that_goes_on() {
    let rig = rig();
    let err = rig.client().wait(Duration::from_millis(20)).unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    rig.client().status().unwrap();
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let rig = rig();
    let stream = rig.raw();
    for garbage in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"[1,2]\n",
        b"{\"op\":\"explode\"}\n",
        b"{\"op\":\"balloon\"}\n",
        b"{\"op\":\"balloon\",\"bytes\":-1}\n",
        b"{\"op\":\"status\",\"version\":2}\n",
        b"{\"op\":\"status\",\"version\":-1}\n",
        b"nul\0byte\n",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
    ] {
        let answer = exchange(&stream, garbage);
        assert!(answer.starts_with("{\"ok\":false,\"error\":"), "{answer}");
    }
    assert!(exchange(&stream, b"{\"op\":\"status\"}\n").starts_with("{\"ok\":true"));
}

#[test]
fn deep_nesting_is_an_error_and_not_the_end_of_the_stack() {
    let rig = rig();
    let mut line = vec![b'['; MAX_LINE - 2];
    line.push(b'\n');
    assert!(exchange(&rig.raw(), &line).starts_with("{\"ok\":false"));
}

#[test]
fn an_overlong_line_ends_the_connection() {
    let rig = rig();
    let stream = rig.raw();
    let line = vec![b'x'; MAX_LINE];
    let answer = exchange(&stream, &line);
    assert_eq!(answer, "{\"ok\":false,\"error\":\"line is too long\"}\n");
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
    rig.client().status().unwrap();
}

#[test]
fn half_open_and_vanishing_clients_harm_nobody() {
    let rig = rig();
    let silent = rig.raw();
    let half = rig.raw();
    (&half).write_all(b"{\"op\":").unwrap();
    drop(rig.raw());
    let deaf = rig.raw();
    (&deaf).write_all(b"{\"op\":\"status\"}\n").unwrap();
    deaf.shutdown(Shutdown::Both).unwrap();
    rig.client().status().unwrap();
    drop((silent, half));
    rig.client().status().unwrap();
}

#[test]
fn connections_are_bounded_and_come_back() {
    let rig = rig();
    let held: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let stream = rig.raw();
            exchange(&stream, b"{\"op\":\"status\"}\n");
            stream
        })
        .collect();
    let mut answer = String::new();
    rig.raw().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "{\"ok\":false,\"error\":\"too many connections\"}\n");
    drop(held);
    let deadline = Instant::now() + SOON;
    while rig.client().status().is_err() {
        assert!(Instant::now() < deadline, "connections never came back");
    }
}

#[test]
fn ending_disconnects_who_is_idle() {
    let rig = rig();
    let stream = rig.raw();
    exchange(&stream, b"{\"op\":\"status\"}\n");
    drop(rig.server);
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_server_that_is_none_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = bind(&path).unwrap();
    let liar = std::thread::spawn(move || {
        for answer in [&b"hello\n"[..], b"{\"ok\":false}\n", b"{\"ok\":true}\n", b""] {
            let (stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            (&stream).write_all(answer).unwrap();
        }
    });
    for kind in [
        io::ErrorKind::InvalidData,
        io::ErrorKind::InvalidData,
        io::ErrorKind::InvalidData,
        io::ErrorKind::UnexpectedEof,
    ] {
        assert_eq!(Client::connect(&path, SOON).unwrap().status().unwrap_err().kind(), kind);
    }
    liar.join().unwrap();
}

#[test]
fn paths_longer_than_an_address_work() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("control.sock");
    let _server = serve(bind(&path).unwrap(), Arc::new(Fake::default())).unwrap();
    Client::connect(&path, SOON).unwrap().status().unwrap();
}

#[test]
fn a_dead_socket_is_replaced_a_live_one_and_a_file_are_not() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(bind(&path).unwrap());
    assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let live = bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(live);
    let file = dir.path().join("f");
    std::fs::write(&file, "precious").unwrap();
    assert_eq!(bind(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert_eq!(connect(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
}
