//! Commands that talk to a guest, as far as they come without one.

use super::Place;

#[test]
fn a_copy_wants_one_side_that_is_a_machine() {
    let place = Place::with("box = \"micro\"\n");
    for (words, part) in [
        (&["cp", "a", "b"][..], "neither path is of a machine"),
        (&["cp", "default:a", "default:b"], "both paths are of machines"),
        (&["cp", "default:a", "default:b", "-"], "only one file can go to standard output"),
        (&["cp", "nobody:a", "b"], "no machine `nobody`"),
        (&["cp", "a"], "2 values required"),
    ] {
        let ran = place.run(words);
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{words:?}: {}", ran.stderr);
    }
    assert!(place.run(&["cp", "nobody:a", "b"]).stderr.contains("`./nobody:…` is a file of this host"));
    let ran = place.run(&["cp", "default:a", "default:b", "no/folder"]);
    assert_eq!((ran.code, ran.stderr.starts_with("error[E0110]: there is no folder no/folder")), (1, true));
}

#[test]
fn a_machine_that_is_not_created_runs_and_takes_nothing() {
    let place = Place::with("box = \"micro\"\n");
    for words in [
        &["exec", "--", "true"][..],
        &["exec", "-t", "default", "--", "true"],
        &["cp", "default:a", "."],
        &["upload", "Vagrantfile"],
        &["upload", "-t", "Vagrantfile", "default"],
    ] {
        let ran = place.run(words);
        assert_eq!(ran.code, 1, "{words:?}");
        assert!(ran.stderr.starts_with("error[E0305]: machine `default` is not created"), "{}", ran.stderr);
    }
    assert_eq!(place.run(&["exec", "default"]).code, 2, "a command is wanted");
}
