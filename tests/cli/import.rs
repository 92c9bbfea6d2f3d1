//! `rvm import`.

use super::Place;

const WHOLE: &str = "Vagrant.configure('2') do |config|\n  config.vm.box = 'micro'\nend\n";
const PART: &str =
    "Vagrant.configure('2') do |config|\n  config.vm.box = 'micro'\n  config.vm.box_url = 'x'\nend\n";

#[test]
fn a_whole_file_is_imported_and_then_read() {
    let place = Place::with(WHOLE);
    let ran = place.run(&["validate"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("`rvm import`"), "{}", ran.stderr);
    let ran = place.run(&["import"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("Wrote [DIR]/project/Vagrantfile.toml."), "{}", ran.stderr);
    assert_eq!(
        place.run(&["validate"]).stdout,
        "[DIR]/project/Vagrantfile.toml is valid. Machines: default\n"
    );
}

#[test]
fn what_is_lost_is_told_and_written_down() {
    let place = Place::with(PART);
    let ran = place.run(&["import", "Vagrantfile", "-o", "other.toml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    insta::assert_snapshot!(ran.stderr, @r"
    ==> warning: 1 line of Vagrantfile not carried over:
    ==>     3: config.vm.box_url = 'x'
    ==>        rvm builds its boxes itself and downloads none
    Wrote [DIR]/project/other.toml.
    ");
    let text = std::fs::read_to_string(place.project().join("other.toml")).unwrap();
    insta::assert_snapshot!(text, @r#"
    # Made by `rvm import` from the Ruby file Vagrantfile.
    # One line of it is not in here: see the end.

    box = "micro"

    # Not carried over:
    #
    #     3: config.vm.box_url = 'x'
    #        rvm builds its boxes itself and downloads none
    "#);
    let quiet = place.run(&["import", "-q", "-o", "-"]);
    assert_eq!((quiet.code, quiet.stdout), (1, text));
    assert!(quiet.stderr.contains("config.vm.box_url"), "{}", quiet.stderr);
}

#[test]
fn nothing_is_overwritten_unasked() {
    let place = Place::with(WHOLE);
    place.write("Vagrantfile.toml", "box = \"debian/12\"\n");
    let before = place.files();
    let ran = place.run(&["import"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is there already") && ran.stderr.contains("--force"), "{}", ran.stderr);
    assert_eq!(place.files(), before);
    assert_eq!(place.run(&["import", "-f"]).code, 0);
    assert_ne!(place.files(), before);
}

#[test]
fn a_file_that_needs_a_change_is_written_and_the_change_is_told() {
    let ruby = WHOLE.replace("end\n", "  config.vm.provision 'shell', path: 'none.sh'\nend\n");
    let place = Place::with(ruby);
    let ran = place.run(&["import"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("needs a change") && ran.stderr.contains("none.sh"), "{}", ran.stderr);
    assert!(place.project().join("Vagrantfile.toml").exists());
}

#[test]
fn what_cannot_be_imported() {
    for (text, part) in [
        (&b"box = \"micro\"\n"[..], "there is nothing to import"),
        (b"hello\n", "nothing in it calls `Vagrant.configure`"),
        (b"caf\xe9\n", "not UTF-8"),
    ] {
        let place = Place::with(text);
        let ran = place.run(&["import"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
        assert!(!place.project().join("Vagrantfile.toml").exists());
    }
    let place = Place::new();
    let ran = place.run(&["import"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("cannot read [DIR]/project/Vagrantfile"), "{}", ran.stderr);
    let ran = place.run(&["import", "."]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("not a file"), "{}", ran.stderr);
}
