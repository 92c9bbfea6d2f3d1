//! `rvm init`.

use super::Place;

#[test]
fn what_init_writes_is_valid() {
    let cases: [(&[&str], &str); 4] = [
        (&["init"], "debian/13"),
        (&["init", "micro"], "micro"),
        (&["init", "debian/12", "--minimal"], "debian/12"),
        (&["init", "debian/13", "-m", "-f"], "debian/13"),
    ];
    for (words, name) in cases {
        let place = Place::new();
        let ran = place.run(words);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stdout.contains("Wrote [DIR]/project/Vagrantfile."), "{}", ran.stdout);
        let text = std::fs::read_to_string(place.project().join("Vagrantfile")).unwrap();
        assert!(text.contains(&format!("box = \"{name}\"")), "{text}");
        assert_eq!(
            words.contains(&"init") && text.contains('#'),
            !words.iter().any(|w| w.starts_with("-m") || *w == "--minimal")
        );
        assert_eq!(place.run(&["validate"]).code, 0);
    }
}

#[test]
fn a_vagrantfile_is_not_overwritten() {
    let place = Place::with("box = \"micro\" # mine\n");
    let before = place.files();
    let ran = place.run(&["init"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is there already") && ran.stderr.contains("hint: `rvm init --force`"));
    assert_eq!(place.files(), before);
    assert_eq!(place.run(&["init", "--force"]).code, 0);
    assert_ne!(place.files(), before);
}

#[test]
fn init_can_print() {
    let place = Place::new();
    let ran = place.run(&["init", "micro", "--output", "-"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("box = \"micro\""));
    assert!(place.files().is_empty());
}

#[test]
fn the_gitignore_hint_is_given_once_it_is_needed() {
    let place = Place::new();
    assert!(
        place.run(&["init"]).stdout.contains("add `.rvm`, `.env` and `Vagrantfile.local.toml` to .gitignore")
    );
    place.write(".gitignore", ".rvm/\n.env\nVagrantfile.local.toml\n");
    assert!(!place.run(&["init", "--force"]).stdout.contains("gitignore"));
}

#[test]
fn a_folder_that_cannot_be_written() {
    let place = Place::new();
    let ran = place.run(&["init", "--output", "no/such/folder/Vagrantfile"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.starts_with("error[E0110]: cannot write [DIR]/project/no/such/folder/Vagrantfile: "),
        "{}",
        ran.stderr
    );
}
