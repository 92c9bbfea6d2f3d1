//! Colours, pipes, full disks.

use std::fs::File;
use std::process::Stdio;

use super::Place;

#[test]
fn colours_only_where_they_are_wanted() {
    let place = Place::new();
    let wants = |words: &[&str], no_color: bool| {
        let mut command = place.command(words);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        place.finish(command.output().unwrap()).stderr.contains('\x1b')
    };
    assert!(!wants(&["validate"], false), "not in a pipe");
    assert!(wants(&["validate", "--color", "always"], false));
    assert!(wants(&["--color=always", "validate"], true), "a flag beats the environment");
    assert!(!wants(&["validate", "--color", "always", "--no-color"], false));
    assert!(!wants(&["validate", "--color", "never"], false));
    assert!(!wants(&["validate"], true));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let place = Place::with("box = \"micro\"\n");
    for words in [&["--help"][..], &["validate"], &["validate", "--json"], &["doctor"], &["nonsense"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child =
            place.command(words).stdout(writer.try_clone().unwrap()).stderr(Stdio::piped()).spawn().unwrap();
        drop(writer);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked") && !stderr.contains("Broken pipe"), "{words:?}: {stderr}");
        assert!(output.status.code().is_some_and(|code| code <= 2), "{words:?}: {:?}", output.status);
    }
}

#[test]
fn a_full_disk_behind_a_redirection_is_one() {
    let place = Place::with("box = \"micro\"\n");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = place.command(&["validate"]).stdout(full).output().unwrap();
    let ran = place.finish(output);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("error[E0107]: cannot write to standard output: "), "{}", ran.stderr);
}

#[test]
fn quiet_keeps_results_and_errors() {
    let place = Place::new();
    assert_eq!(place.run(&["init", "micro", "-q"]).stdout, "");
    assert!(place.run(&["validate", "-q"]).stdout.contains("is valid"));
    assert!(!place.run(&["init", "-q"]).stderr.is_empty());
}
