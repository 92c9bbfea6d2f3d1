//! `rvm top` where nothing runs: the table, the lines, the screen and its keys.

use std::io::Read;
use std::process::Stdio;

use super::Place;

const TWO: &str = "box = \"micro\"\n[[machine]]\nname = \"web\"\n[[machine]]\nname = \"db\"\n";

#[test]
fn one_table_and_no_more() {
    let place = Place::with(TWO);
    let ran = place.run(&["top", "--once", "-i", "0.2"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(ran.stdout, @r"
    MACHINE  STATE        CPU %  MEMORY  HOST  READ/s  WRITE/s  IN/s  OUT/s  UP
    web      not created      -       -     -       -        -     -      -   -
    db       not created      -       -     -       -        -     -      -   -
    ");
    assert_eq!(place.run(&["top", "--once", "-i", "0.2", "db"]).stdout.lines().count(), 2);
    assert_eq!(place.run(&["top", "--all", "--once", "-i", "0.2"]).stdout.lines().count(), 1);
    for words in [&["-i", "0"][..], &["-i", "nan"], &["-i", "1e9"], &["--all", "web"]] {
        assert_eq!(place.run(&[&["top"], words].concat()).code, 2, "{words:?}");
    }
}

#[test]
fn a_pipe_gets_lines_until_its_reader_leaves() {
    let place = Place::with(TWO);
    let mut child = place.command(&["top", "-i", "0.2"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    let mut stdout = child.stdout.take().unwrap();
    let mut byte = [0];
    while text.lines().count() < 5 {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1);
        text.push(byte[0].into());
    }
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(text.starts_with("web: not created, cpu - %, memory -"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_terminal_gets_a_screen_that_q_ends() {
    let place = Place::with(TWO);
    for key in [&b"q"[..], b"\x03"] {
        let drawn = |screen: &[u8]| String::from_utf8_lossy(screen).contains("q ends");
        let (code, text) = place.on_a_terminal("top -i 0.2", drawn, key);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.starts_with("\x1b[?1049h\x1b[?25l\x1b[H\x1b[7mMACHINE"), "{text:?}");
        assert!(text.contains("\x1b[?25h\x1b[?1049l"), "the terminal is as it was: {text:?}");
    }
}
