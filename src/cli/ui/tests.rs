use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::*;
use crate::cli::error::CliError;
use crate::model::Code;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Screen {
    ui: Ui,
    out: Buffer,
    err: Buffer,
}

/// `ci` keeps the bars away, which draw on the real terminal.
fn screen(style: Style, messages: To, terminal: bool) -> Screen {
    let (out, err) = (Buffer::default(), Buffer::default());
    let sink = Sink::new((Box::new(out.clone()), terminal), (Box::new(err.clone()), terminal));
    let ui = Ui::new(Style { ci: true, ..style }, messages, sink);
    ui.add_masker(Masker::new(["hunter2"]));
    Screen { ui, out, err }
}

fn events(ui: &Ui) {
    let machine = || Some("web".to_owned());
    ui.event(Event::Stage { machine: machine(), text: "Booting".into() });
    ui.event(Event::Detail { machine: machine(), text: "kernel 6.12".into() });
    ui.event(Event::Output {
        machine: "web".into(),
        stream: Stream::Stderr,
        line: "\x1b[31mpassword is hunter2\x1b[0m".into(),
    });
    ui.event(Event::Warning { machine: machine(), text: "port 8080 is taken".into() });
    ui.event(Event::Progress { task: "box".into(), detail: String::new(), done: 0, total: 2 });
    ui.event(Event::Stage { machine: None, text: "two\nlines".into() });
}

#[test]
fn the_look_of_vagrant_without_secrets_and_control() {
    let screen = screen(Style::default(), To::Stdout, false);
    events(&screen.ui);
    assert_eq!(
        screen.out.text(),
        "==> web: Booting\n    web: kernel 6.12\n    web: password is ***\n    box ...\n==> two\n==> lines\n"
    );
    assert_eq!(screen.err.text(), "==> web: warning: port 8080 is taken\n");
}

/// What indicatif draws, kept.
#[derive(Debug, Clone, Default)]
struct Bottom(Arc<Mutex<String>>);

impl indicatif::TermLike for Bottom {
    fn width(&self) -> u16 {
        80
    }
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(&format!("{text}\n"))
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap().push_str(text);
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fn crew(ui: &Ui) -> AtWork<'_> {
    let machines = [("web", "waits for database"), ("database", "waits")];
    ui.crew(machines.map(|(name, waits)| (name.to_owned(), waits.to_owned())).to_vec())
}

#[test]
fn several_machines_have_a_line_each_on_a_terminal() {
    let (out, bottom) = (Buffer::default(), Bottom::default());
    let sink = Sink::new((Box::new(out.clone()), true), (Box::new(Buffer::default()), true));
    let target = indicatif::ProgressDrawTarget::term_like(Box::new(bottom.clone()));
    let style = Style { color: Color::Always, ..Style::default() };
    let ui = Ui::with(style, To::Stdout, sink, Meter::Bars(Bars::on(target)));
    ui.add_masker(Masker::new(["hunter2"]));
    let screen = crew(&ui);
    screen.began("database");
    events(&ui);
    ui.stage("database", "Booting with hunter2\x1b[2J");
    screen.ended("database", "up: 1 step ran");
    drop(screen);
    // Stages move a line; what a machine prints stays above, told apart by place and colour.
    let printed = out.text();
    assert!(!printed.contains("Booting"), "{printed:?}");
    assert!(printed.contains("    \x1b[36mweb:\x1b[39m      kernel 6.12\n"), "{printed:?}");
    assert!(printed.contains("    \x1b[36mweb:\x1b[39m      password is ***\n"), "{printed:?}");
    let drawn = bottom.0.lock().unwrap().clone();
    for part in ["web:", "waits for database", "Booting with ***", "up: 1 step ran"] {
        assert!(drawn.contains(part), "`{part}` is not in {drawn:?}");
    }
    assert!(!drawn.contains("hunter2"), "{drawn:?}");
    out.0.lock().unwrap().clear();
    ui.stage("web", "alone again");
    assert_eq!(out.text(), "\x1b[1m==> web: alone again\x1b[0m\n");
}

#[test]
fn several_machines_in_a_pipe_are_lines_as_ever() {
    let screen = screen(Style::default(), To::Stdout, false);
    let at_work = crew(&screen.ui);
    at_work.began("web");
    events(&screen.ui);
    at_work.ended("web", "up");
    drop(at_work);
    assert_eq!(
        screen.out.text(),
        "==> web: Booting\n    web: kernel 6.12\n    web: password is ***\n    box ...\n==> two\n==> lines\n"
    );
}

#[test]
fn a_terminal_gets_colours_of_ours_only() {
    let screen = screen(Style::default(), To::Stdout, true);
    events(&screen.ui);
    assert!(screen.out.text().starts_with("\x1b[1m==> web: Booting\x1b[0m\n"));
    assert!(!screen.out.text().contains("\x1b[31m"));
    assert!(screen.err.text().starts_with("\x1b[33m==> web: warning"));
}

#[test]
fn quiet_leaves_warnings_results_and_errors() {
    let screen = screen(Style { quiet: true, ..Style::default() }, To::Stdout, false);
    events(&screen.ui);
    screen.ui.note("not seen");
    screen.ui.result("seen");
    assert_eq!(screen.out.text(), "seen\n");
    assert_eq!(screen.err.text(), "==> web: warning: port 8080 is taken\n");
}

#[test]
fn messages_can_leave_standard_output_to_the_result() {
    let screen = screen(Style::default(), To::Stderr, false);
    events(&screen.ui);
    assert_eq!(screen.out.text(), "");
}

#[test]
fn errors_are_masked_in_both_forms() {
    let error =
        CliError::failed(Code::LoginRefused, "cannot log in with hunter2").hint("is hunter2 \"right\"?");
    let plain = screen(Style::default(), To::Stdout, false);
    plain.ui.error(&error, false);
    assert_eq!(plain.err.text(), "error[E0505]: cannot log in with ***\nhint: is *** \"right\"?\n");
    let json = screen(Style::default(), To::Stdout, false);
    json.ui.error(&error, true);
    let value: serde_json::Value = serde_json::from_str(&json.out.text()).unwrap();
    assert_eq!(value["error"]["hint"], "is *** \"right\"?");
    assert_eq!(json.err.text(), "");
}

#[test]
fn an_error_cannot_carry_control_to_the_terminal() {
    let screen = screen(Style::default(), To::Stdout, true);
    screen.ui.error(&CliError::failed(Code::StepFailed, "guest said \x1b]0;owned\x07hello"), false);
    assert_eq!(screen.err.text(), "\x1b[1;31merror[E0401]\x1b[0m: guest said hello\n");
}

#[test]
fn the_console_is_cleaned_for_a_terminal_only() {
    let text = "\x1b[2Jlogin: hunter2\n";
    let terminal = screen(Style::default(), To::Stderr, true);
    terminal.ui.foreign(text);
    assert_eq!(terminal.out.text(), "login: ***\n");
    let pipe = screen(Style::default(), To::Stderr, false);
    pipe.ui.foreign(text);
    assert_eq!(pipe.out.text(), "\x1b[2Jlogin: ***\n");
}

#[test]
fn bytes_of_a_command_pass_unchanged() {
    let screen = screen(Style::default(), To::Stderr, true);
    screen.ui.bytes(Stream::Stdout, b"\x1b[1m\0\xc3\xa4");
    screen.ui.bytes(Stream::Stderr, b"e");
    assert_eq!(screen.out.text(), "\x1b[1m\0ä");
    assert_eq!(screen.err.text(), "e");
}

/// The lines of `--machine-readable` without their times.
fn lines(screen: &Screen) -> Vec<String> {
    assert_eq!(screen.err.text(), "");
    screen.out.text().lines().map(|line| line.split_once(',').unwrap().1.to_owned()).collect()
}

#[test]
fn scripts_get_lines_without_secrets_and_control() {
    let style = Style { machine_readable: true, color: Color::Always, ..Style::default() };
    let whole = screen(style, To::Stderr, true);
    events(&whole.ui);
    whole.ui.note("to \x1b[2Jyou");
    whole.ui.foreign("a\r\nb hunter2");
    whole.ui.machine("web", "state", &["running"]);
    whole.ui.failure("web", &CliError::failed(Code::StepFailed, "no hunter2"));
    whole.ui.error(&CliError::failed(Code::LoginRefused, "hunter2, refused").hint("wait"), false);
    assert_eq!(
        lines(&whole),
        [
            "web,ui,output,Booting",
            "web,ui,detail,kernel 6.12",
            "web,ui,detail,password is ***",
            "web,ui,warn,port 8080 is taken",
            ",ui,detail,box ...",
            ",ui,output,two\\nlines",
            ",ui,info,to you",
            ",ui,output,a\\r\\nb ***",
            "web,state,running",
            "web,ui,error,error[E0401]: no ***",
            ",ui,error,error[E0505]: ***%!(VAGRANT_COMMA) refused\\nhint: wait",
            ",error-exit,E0505,***%!(VAGRANT_COMMA) refused",
        ]
    );
    let quiet = screen(Style { quiet: true, ..style }, To::Stdout, false);
    events(&quiet.ui);
    quiet.ui.note("not seen");
    quiet.ui.result("seen");
    assert_eq!(lines(&quiet), ["web,ui,warn,port 8080 is taken", ",ui,info,seen"]);
}

#[test]
fn a_stream_that_fails_is_left_alone() {
    struct Fails(io::ErrorKind);
    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for (kind, told) in [(io::ErrorKind::BrokenPipe, false), (io::ErrorKind::StorageFull, true)] {
        let sink = Sink::new((Box::new(Fails(kind)), false), (Box::new(io::sink()), false));
        let ui = Ui::new(Style::default(), To::Stdout, sink);
        assert!(!ui.stdout_closed());
        ui.result("x");
        assert!(ui.stdout_closed());
        assert_eq!(ui.stdout_error().is_some(), told);
    }
}
