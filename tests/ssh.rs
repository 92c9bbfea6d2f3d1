//! The SSH room against a real OpenSSH server on loopback.

mod ssh_support;

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rvm::model::{Cancel, Secret, Stream};
use rvm::ssh::{self, BootStage, Input, Session, SshError, WaitError, keys};
use ssh_support::{Server, exec, free_address};

fn refused(result: Result<Session, SshError>) -> SshError {
    match result {
        Ok(_) => panic!("it must not connect"),
        Err(error) => error,
    }
}

fn not_ready(result: Result<Session, WaitError>) -> WaitError {
    match result {
        Ok(_) => panic!("it must not become ready"),
        Err(error) => error,
    }
}

#[test]
fn commands_streams_and_exit_codes() {
    let server = Server::sshd("");
    let session = server.connect();
    let ran = exec(&session, "echo out; echo err >&2; exit 7", Input::None);
    assert_eq!((ran.code, ran.signal), (7, None));
    assert_eq!((ran.stdout.as_slice(), ran.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    // One session serves many commands.
    for code in [0, 1, 255] {
        assert_eq!(exec(&session, &format!("exit {code}"), Input::None).code, code);
    }
    let ran = exec(&session, "kill -TERM $$", Input::None);
    assert_eq!((ran.code, ran.signal.as_deref()), (143, Some("TERM")));
    assert_eq!(exec(&session, "no-such-command-here", Input::None).code, 127);
}

#[test]
fn input_reaches_the_command_and_ends() {
    let server = Server::sshd("");
    let session = server.connect();
    assert_eq!(exec(&session, "cat", Input::None).stdout, b"");
    assert_eq!(exec(&session, "cat", Input::Bytes(b"a\0\xffb")).stdout, b"a\0\xffb");
    let mut reader = std::io::repeat(b'x').take(3_000_000);
    assert_eq!(exec(&session, "wc -c", Input::Reader(&mut reader)).stdout.trim_ascii(), b"3000000");
    // The command sees no end of file, and still its end is seen.
    assert_eq!(exec(&session, "head -c 3", Input::HeldOpen(b"abc")).stdout, b"abc");
}

#[test]
fn input_that_nobody_reads_blocks_nothing() {
    let server = Server::sshd("");
    let session = server.connect();
    let mut reader = std::io::repeat(b'x').take(50_000_000);
    assert_eq!(exec(&session, "exit 3", Input::Reader(&mut reader)).code, 3);
    let mut reader = std::io::repeat(b'x').take(50_000_000);
    let ran = exec(&session, "exec <&-; echo done; exit 4", Input::Reader(&mut reader));
    assert_eq!((ran.code, ran.stdout.as_slice()), (4, &b"done\n"[..]));
    assert_eq!(exec(&session, "echo again", Input::None).stdout, b"again\n");
}

#[test]
fn large_input_and_output_at_the_same_time() {
    // The server renews its keys every 4 MB: data and key exchange must not disturb each other.
    for config in ["", "RekeyLimit 4M"] {
        let server = Server::sshd(config);
        let session = server.connect();
        let data: Vec<u8> =
            (0..20_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let ran = exec(&session, "tee /dev/stderr", Input::Bytes(&data));
        assert_eq!(ran.code, 0);
        assert!(ran.stdout == data && ran.stderr == data, "the data came back changed ({config})");
    }
}

#[test]
fn much_output_is_not_kept_in_memory() {
    let server = Server::sshd("");
    let session = server.connect();
    let mut count = [0_u64; 2];
    let mut out = |stream, data: &[u8]| count[usize::from(stream == Stream::Stderr)] += data.len() as u64;
    let command = "head -c 200000000 /dev/zero & head -c 50000000 /dev/zero >&2; wait";
    let status = session.exec(command, Input::None, &mut out, &Cancel::new(), None).unwrap();
    assert_eq!((status.code, count), (0, [200_000_000, 50_000_000]));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    // Other tests of this process hold up to 120 MB.
    assert!(peak < 240_000, "peak memory is {peak} kB");
}

#[test]
fn cancel_ends_a_command_at_once() {
    let server = Server::sshd("");
    // None of them ends by itself while anybody waits.
    for command in ["exec sleep 4343", "yes", "cat >/dev/null"] {
        let session = server.connect();
        let cancel = Cancel::new();
        let trigger = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            trigger.cancel();
        });
        let input = if command.starts_with("cat") { Input::HeldOpen(b"x") } else { Input::None };
        let error = session.exec(command, input, &mut |_, _| (), &cancel, None).unwrap_err();
        assert!(matches!(error, SshError::Cancelled) && error.is_interrupt(), "{command}: {error:?}");
    }
}

#[test]
fn a_time_limit_is_kept() {
    let server = Server::sshd("");
    let session = server.connect();
    let limit = Some(Duration::from_secs(1));
    let error =
        session.exec("exec sleep 4343", Input::None, &mut |_, _| (), &Cancel::new(), limit).unwrap_err();
    assert!(matches!(error, SshError::TimedOut { .. }), "{error:?}");
}

#[test]
fn a_background_process_does_not_hold_up_a_step() {
    let server = Server::sshd("");
    let session = server.connect();
    let mut text = Vec::new();
    let status = session
        .exec_until_exit(
            "sleep 4343 & echo $!; exit 9",
            Input::None,
            &mut |_, data| text.extend_from_slice(data),
            &Cancel::new(),
            None,
            Duration::from_millis(500),
        )
        .unwrap();
    assert_eq!(status.code, 9);
    let pid = String::from_utf8(text).unwrap();
    assert_eq!(exec(&session, &format!("kill {pid}"), Input::None).code, 0);
}

#[test]
fn a_server_that_vanishes_is_an_error() {
    let mut server = Server::sshd("");
    let session = server.connect();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let error = std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let mut out = |_, _: &[u8]| begun.send(()).unwrap();
            session.exec("echo; exec sleep 9", Input::None, &mut out, &Cancel::new(), None)
        });
        has_begun.recv().unwrap();
        server.kill();
        worker.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, SshError::Lost { .. }), "{error:?}");
}

#[test]
fn a_wrong_host_key_is_noticed_before_the_login() {
    let server = Server::sshd("");
    drop(server.connect());
    let logins = server.log().matches("Accepted").count();
    let mut target = server.target();
    target.host_key = keys::generate(&server.dir().join("other"), "").unwrap().public_line;
    let error = refused(Session::connect(&target, Duration::from_secs(20), &Cancel::new()));
    assert!(matches!(error, SshError::HostKeyMismatch { .. }), "{error:?}");
    assert_eq!(error.to_string().matches("SHA256:").count(), 2, "{error}");
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = not_ready(ssh::wait_ready(&target, deadline, &mut || true, &mut |_| (), &Cancel::new()));
    assert!(matches!(error, WaitError::Ssh(SshError::HostKeyMismatch { .. })), "{error:?}");
    assert_eq!(server.log().matches("Accepted").count(), logins);
}

#[test]
fn a_wrong_key_or_password_ends_the_wait_soon() {
    let server = Server::sshd("");
    drop(server.connect());
    let mut target = server.target();
    let other = server.dir().join("other");
    keys::generate(&other, "").unwrap();
    target.keys = vec![other];
    target.password = Some(Secret::new("wrong-password"));
    let deadline = Instant::now() + Duration::from_secs(4343);
    let mut stages = Vec::new();
    let error = not_ready(ssh::wait_ready(
        &target,
        deadline,
        &mut || true,
        &mut |stage| stages.push(stage),
        &Cancel::new(),
    ));
    let text = error.to_string();
    assert!(matches!(error, WaitError::Ssh(SshError::AuthFailed { .. })), "{text}");
    assert!(text.contains(&target.user) && text.contains("publickey,password"), "{text}");
    assert!(text.contains("other, password;") && !text.contains("wrong-password"), "{text}");
    assert!(error.hint().unwrap().contains("RVM_SSH_PASSWORD"));
    assert_eq!(stages, [BootStage::Connected, BootStage::Banner, BootStage::HostKey]);
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::sshd("");
    std::fs::set_permissions(server.key(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let error =
        not_ready(ssh::wait_ready(&server.target(), deadline, &mut || true, &mut |_| (), &Cancel::new()));
    assert!(matches!(error, WaitError::Ssh(SshError::OpenPermissions { mode: 0o644, .. })), "{error:?}");
}

#[test]
fn the_stage_reached_is_told_when_the_time_is_up() {
    let mut target = Server::sshd("").target();
    let wait = |target: &ssh::Target| {
        let deadline = Instant::now() + Duration::from_secs(3);
        let error = not_ready(ssh::wait_ready(target, deadline, &mut || true, &mut |_| (), &Cancel::new()));
        match error {
            WaitError::TimedOut { stage, .. } => stage,
            other => panic!("{other:?}"),
        }
    };
    target.addr = free_address();
    assert_eq!(wait(&target), BootStage::NoConnection);

    // Accepts (the kernel does, for a listener) and never speaks.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    target.addr = silent.local_addr().unwrap();
    assert_eq!(wait(&target), BootStage::Connected);

    // Speaks and closes.
    let rude = TcpListener::bind("127.0.0.1:0").unwrap();
    target.addr = rude.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in rude.incoming() {
            let _ = stream.unwrap().write_all(b"SSH-2.0-rude\r\n");
        }
    });
    assert_eq!(wait(&target), BootStage::Banner);
}

#[test]
fn junk_from_a_server_is_an_error() {
    let mut target = Server::sshd("").target();
    let junk = TcpListener::bind("127.0.0.1:0").unwrap();
    target.addr = junk.local_addr().unwrap();
    std::thread::spawn(move || {
        for (round, stream) in junk.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let _ = match round {
                0 => stream.write_all(&[0xff; 100_000]),
                1 => stream.write_all(b"SSH-2.0-x\r\n").and_then(|()| stream.write_all(&[0xff; 100_000])),
                2 => stream.write_all(b"SSH-2.0-\xff\xfe\r\n\0\0\0\x0c\x0a\x14"),
                _ => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            };
        }
    });
    for _ in 0..4 {
        let error = refused(Session::connect(&target, Duration::from_secs(3), &Cancel::new()));
        assert!(!matches!(error, SshError::Cancelled | SshError::Connect { .. }), "{error:?}");
    }
}

#[test]
fn a_wait_ends_with_cancel_and_with_the_virtual_machine() {
    let mut target = Server::sshd("").target();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    target.addr = silent.local_addr().unwrap();
    let deadline = Instant::now() + Duration::from_secs(4343);
    let connected = Cell::new(false);
    let mut note = |stage| connected.set(stage == BootStage::Connected);
    let error =
        not_ready(ssh::wait_ready(&target, deadline, &mut || !connected.get(), &mut note, &Cancel::new()));
    assert!(matches!(error, WaitError::VmEnded { stage: BootStage::Connected }), "{error:?}");

    let cancel = Cancel::new();
    let mut note = |_| cancel.cancel();
    let error = not_ready(ssh::wait_ready(&target, deadline, &mut || true, &mut note, &cancel));
    assert!(error.is_interrupt(), "{error:?}");
}

#[test]
fn a_server_that_comes_up_late_is_found() {
    // What a user-mode network does: it accepts, and closes or stays silent, until the guest listens.
    let server = Server::sshd("");
    drop(server.connect());
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut target = server.target();
    target.addr = front.local_addr().unwrap();
    let back = server.addr;
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for (round, stream) in front.incoming().enumerate() {
            let stream = stream.unwrap();
            match round {
                0 | 1 => drop(stream),
                2 => kept.push(stream),
                _ => proxy(stream, std::net::TcpStream::connect(back).unwrap()),
            }
        }
    });
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut stages = Vec::new();
    let mut note = |stage| stages.push(stage);
    ssh::wait_ready(&target, deadline, &mut || true, &mut note, &Cancel::new()).map(drop).unwrap();
    assert_eq!(stages, [BootStage::Connected, BootStage::Banner, BootStage::HostKey, BootStage::Ready]);
}

fn proxy(front: std::net::TcpStream, back: std::net::TcpStream) {
    let pairs = [(front.try_clone().unwrap(), back.try_clone().unwrap()), (back, front)];
    for (mut from, mut to) in pairs {
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
}

#[test]
fn dropbear_is_served_too() {
    let Some(server) = Server::dropbear() else {
        eprintln!("not run: it needs the right to mount, and the package dropbear-bin");
        return;
    };
    let session = server.connect();
    let ran = exec(&session, "echo out; echo err >&2; exit 7", Input::None);
    assert_eq!((ran.code, ran.stdout.as_slice(), ran.stderr.as_slice()), (7, &b"out\n"[..], &b"err\n"[..]));
    let data: Vec<u8> = (0..20_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ran = exec(&session, "tee /dev/stderr", Input::Bytes(&data));
    assert!(ran.code == 0 && ran.stdout == data && ran.stderr == data);
    assert_eq!(exec(&session, "head -c 3; exit 2", Input::HeldOpen(b"abc")).code, 2);
    assert_eq!(exec(&session, "kill -KILL $$", Input::None).signal.as_deref(), Some("KILL"));
    let mut target = server.target();
    target.host_key = keys::generate(&server.dir().join("other"), "").unwrap().public_line;
    let error = refused(Session::connect(&target, Duration::from_secs(20), &Cancel::new()));
    assert!(matches!(error, SshError::HostKeyMismatch { .. }), "{error:?}");
    let mut target = server.target();
    target.keys = vec![server.dir().join("other")];
    let error = refused(Session::connect(&target, Duration::from_secs(20), &Cancel::new()));
    assert!(matches!(error, SshError::AuthFailed { .. }), "{error:?}");
}

#[test]
fn the_systems_ssh_accepts_what_we_write_for_it() {
    let server = Server::sshd("");
    drop(server.connect());
    let host = server.addr.ip();
    let known_hosts = server.dir().join("known hosts");
    std::fs::write(&known_hosts, ssh::known_hosts_line(host, server.addr.port(), &server.host_key)).unwrap();
    let entry = ssh::ConfigEntry {
        host: "web".into(),
        hostname: host,
        port: server.addr.port(),
        user: server.target().user,
        known_hosts,
        identities: vec![server.key()],
        password: false,
        options: Vec::new(),
    };
    let config = server.dir().join("ssh config");
    std::fs::write(&config, ssh::render_config(&entry)).unwrap();
    let output = std::process::Command::new("ssh")
        .arg("-F")
        .arg(&config)
        .args(["-o", "BatchMode=yes", "web", "echo hello; exit 5"])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"hello\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(5));
}
