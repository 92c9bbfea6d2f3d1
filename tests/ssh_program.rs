//! Programs run by `Session::run`, against real SSH servers on loopback.

mod ssh_support;

use std::io::{Read, Write};
use std::os::fd::AsFd;

use rvm::model::{Cancel, Stream};
use rvm::ssh::{Input, Program, Session, SshError};
use ssh_support::{Ran, Server};

fn try_run(session: &Session, argv: &[&str], dir: Option<&str>, input: Input<'_>) -> Result<Ran, SshError> {
    let argv: Vec<String> = argv.iter().map(|word| word.to_string()).collect();
    let mut ran = Ran { code: 0, signal: None, stdout: Vec::new(), stderr: Vec::new() };
    let mut out = |stream, data: &[u8]| match stream {
        Stream::Stdout => ran.stdout.extend_from_slice(data),
        Stream::Stderr => ran.stderr.extend_from_slice(data),
    };
    let program = Program { argv: &argv, dir };
    let code = session.run(program, input, &mut out, &mut |_| (), &Cancel::new())?;
    Ok(Ran { code, ..ran })
}

fn run(session: &Session, argv: &[&str]) -> Ran {
    try_run(session, argv, None, Input::None).unwrap()
}

/// Both servers; dropbear where it can be had.
fn servers() -> Vec<Server> {
    let dropbear = Server::dropbear();
    if dropbear.is_none() {
        eprintln!("not run with dropbear: it needs the right to mount, and the package dropbear-bin");
    }
    [Server::sshd("")].into_iter().chain(dropbear).collect()
}

#[test]
fn arguments_streams_and_exit_codes_are_as_they_were() {
    for server in servers() {
        let session = server.connect();
        let odd = ["printf", "%s|", "a b", "", "it's", "$HOME", "*", "\\", "new\nline", "-n", "ä"];
        let expected = "a b||it's|$HOME|*|\\|new\nline|-n|ä|";
        assert_eq!(String::from_utf8(run(&session, &odd).stdout).unwrap(), expected);
        for code in [0, 1, 126, 127, 223, 255] {
            let script = format!("echo out; printf err >&2; exit {code}");
            let ran = run(&session, &["sh", "-c", &script]);
            assert_eq!((ran.code, ran.stdout.as_slice()), (code, &b"out\n"[..]));
            assert_eq!(ran.stderr, b"err");
        }
        assert_eq!(run(&session, &["sh", "-c", "kill -TERM $$"]).code, 143);
        let ran = run(&session, &["no-such-program-here"]);
        assert_eq!(ran.code, 127);
        assert!(String::from_utf8_lossy(&ran.stderr).contains("no-such-program-here"));
        assert_eq!(try_run(&session, &["pwd"], Some("/usr"), Input::None).unwrap().stdout, b"/usr\n");
        let ran = try_run(&session, &["pwd"], Some("/no/such"), Input::None).unwrap();
        assert!(ran.code != 0 && ran.stdout.is_empty() && !ran.stderr.is_empty());
    }
}

#[test]
fn binary_data_passes_both_ways_and_streams_stay_apart() {
    for server in servers() {
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let ran = try_run(&server.connect(), &["tee", "/dev/stderr"], None, Input::Bytes(&data)).unwrap();
        assert!(ran.code == 0 && ran.stdout == data && ran.stderr == data, "the data came back changed");
    }
}

#[test]
fn live_input_is_passed_on_as_it_comes() {
    let server = Server::sshd("");
    let session = server.connect();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let argv: Vec<String> = ["cat".into()].into();
    let mut seen = 0;
    // The next line is written when the one before has come back: only a stream does that.
    writer.write_all(b"line\n").unwrap();
    let mut writer = Some(writer);
    let mut out = |_, data: &[u8]| {
        seen += data.len();
        if seen == 50 {
            writer = None;
        } else if let Some(writer) = &mut writer {
            writer.write_all(b"line\n").unwrap();
        }
    };
    let program = Program { argv: &argv, dir: None };
    let input = Input::Live(reader.as_fd());
    assert_eq!(session.run(program, input, &mut out, &mut |_| (), &Cancel::new()).unwrap(), 0);
    assert_eq!(seen, 50);
}

#[test]
fn a_program_that_ends_does_not_wait_for_its_input() {
    let server = Server::sshd("");
    let (reader, _open) = std::io::pipe().unwrap();
    let ran = try_run(&server.connect(), &["sh", "-c", "exit 4"], None, Input::Live(reader.as_fd())).unwrap();
    assert_eq!(ran.code, 4);
}

#[test]
fn signals_reach_the_program_and_what_it_started() {
    for server in servers() {
        let session = server.connect();
        let trap = "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done";
        // It waits for its child, whose words would else come after its end.
        let family = "trap : TERM; sh -c 'trap \"echo child >&2; exit\" TERM; echo ready; while :; do sleep 0.05; done'; exit 5";
        for (script, name, code, stderr) in [
            (trap, "INT", 9, ""),
            ("echo ready; exec sleep 60", "TERM", 143, ""),
            (family, "TERM", 5, "child\n"),
        ] {
            let argv = ["sh", "-c", script].map(str::to_owned);
            let program = Program { argv: &argv, dir: None };
            let group = std::cell::Cell::new(None);
            let ready = std::cell::Cell::new(false);
            // Which of the two streams comes first is not said.
            let send = || {
                if let (true, Some(group)) = (ready.get(), group.get()) {
                    server.connect().signal(group, name, &Cancel::new()).unwrap();
                }
            };
            let mut errors = String::new();
            let mut out = |stream, data: &[u8]| match stream {
                Stream::Stderr => errors.push_str(&String::from_utf8_lossy(data)),
                Stream::Stdout => {
                    ready.set(true);
                    send();
                }
            };
            let mut started = |number| {
                group.set(Some(number));
                send();
            };
            let ended = session.run(program, Input::None, &mut out, &mut started, &Cancel::new()).unwrap();
            assert!(ended == code && errors.ends_with(stderr), "{ended}, {errors:?} of {script}");
            assert!(!stderr.is_empty() || errors.is_empty(), "{errors:?} of {script}");
        }
    }
}

#[test]
fn what_is_left_in_the_background_holds_nobody_up() {
    let server = Server::sshd("");
    let session = server.connect();
    let ran = run(&session, &["sh", "-c", "sleep 30 & echo done"]);
    assert_eq!((ran.code, ran.stdout.as_slice()), (0, &b"done\n"[..]));
}

#[test]
fn a_guest_that_goes_away_is_no_success() {
    let mut server = Server::sshd("");
    let session = server.connect();
    let argv: Vec<String> = ["sh", "-c", "echo ready; sleep 30"].map(str::to_owned).into();
    let program = Program { argv: &argv, dir: None };
    let mut out = |_, _: &[u8]| server.kill();
    let error = session.run(program, Input::None, &mut out, &mut |_| (), &Cancel::new()).unwrap_err();
    assert!(matches!(error, SshError::Lost { .. }), "{error:?}");
    // Also when the connection is closed in good order.
    let server = Server::sshd("");
    let argv: Vec<String> =
        ["sh", "-c", "kill -KILL $PPID $(ps -o ppid= -p $PPID)"].map(str::to_owned).into();
    let program = Program { argv: &argv, dir: None };
    let session = server.connect();
    let result = session.run(program, Input::None, &mut |_, _| (), &mut |_| (), &Cancel::new());
    assert!(!matches!(result, Ok(0)), "{result:?}");
}

#[test]
fn input_that_cannot_be_read_is_an_error() {
    let server = Server::sshd("");
    let folder = std::fs::File::open("/").unwrap();
    assert!((&folder).read(&mut [0]).is_err());
    let result = try_run(&server.connect(), &["cat"], None, Input::Live(folder.as_fd()));
    assert!(matches!(result, Err(SshError::Input { .. })));
}
