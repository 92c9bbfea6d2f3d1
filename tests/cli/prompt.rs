//! Questions, on a terminal and without one. A machine folder without a record stands for a
//! machine: it can only be removed.

use super::Place;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn place_with_machine() -> Place {
    let place = Place::new();
    std::fs::create_dir_all(place.home().join("machines").join(ID)).unwrap();
    place
}

fn is_there(place: &Place) -> bool {
    place.home().join("machines").join(ID).exists()
}

/// Runs `rvm destroy` on a terminal of its own and types `answer` at the question; gives the
/// exit code and all that was on the screen.
fn answered(place: &Place, answer: &[u8]) -> (i32, String) {
    let asked = |screen: &[u8]| screen.ends_with(b"[y/N] ");
    let (code, screen) = place.on_a_terminal(&format!("destroy {ID}"), asked, answer);
    (code.unwrap(), screen)
}

#[test]
fn without_a_terminal_nothing_is_destroyed() {
    let place = place_with_machine();
    let ran = place.run(&["destroy", ID]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("hint: `rvm destroy -f` does not ask"), "{}", ran.stderr);
    assert!(is_there(&place));
    let ran = place.run(&["destroy", "-f", "0123456"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(!is_there(&place));
}

#[test]
fn no_keeps_the_machine() {
    for answer in [&b"n\n"[..], b"\n", b"perhaps\n", b"\x04"] {
        let place = place_with_machine();
        let (code, screen) = answered(&place, answer);
        assert_eq!(code, 1, "{screen}");
        assert!(is_there(&place));
    }
}

#[test]
fn yes_removes_it() {
    let place = place_with_machine();
    let (code, screen) = answered(&place, b"y\n");
    assert_eq!(code, 0, "{screen}");
    assert!(!is_there(&place));
}

#[test]
fn ctrl_c_at_the_question_changes_nothing() {
    let place = place_with_machine();
    let (code, screen) = answered(&place, b"\x03");
    assert_eq!(code, 130, "{screen}");
    assert!(screen.contains("nothing was changed"), "{screen}");
    assert!(is_there(&place));
}
