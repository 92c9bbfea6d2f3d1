//! Shell completion, man pages and the list of commands.

use std::process::Command;

use super::Place;

const PROJECT: &str =
    "box = \"micro\"\n[[machine]]\nname = \"web\"\ngroups = [\"front\"]\n[[machine]]\nname = \"db\"\n";

/// What bash would offer behind those words, sorted.
fn offered(place: &Place, words: &[&str]) -> Vec<String> {
    let script = place.dir.path().join("rvm.bash");
    std::fs::write(&script, place.run(&["completion", "bash"]).stdout).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_rvm")).parent().unwrap();
    let code = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
        $(complete -p rvm | sed 's/.*-F \\([^ ]*\\).*/\\1/') rvm \"${COMP_WORDS[COMP_CWORD]}\" \
        \"${COMP_WORDS[COMP_CWORD-1]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["--norc", "-uc", code, "bash"])
        .arg(&script)
        .arg("rvm")
        .args(words)
        .current_dir(place.project())
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", program.display()))
        .env("HOME", place.dir.path())
        .env("RVM_HOME", place.home())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut list: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    list.sort();
    list
}

#[test]
fn bash_completes_commands_and_options() {
    let place = Place::with(PROJECT);
    assert_eq!(offered(&place, &["hal"]), ["halt"]);
    assert_eq!(offered(&place, &["up", "--provider", "q"]), ["qemu"]);
    assert!(offered(&place, &["up", "--prov"]).contains(&"--provision-with".to_owned()));
    assert_eq!(offered(&place, &["completion", ""]), ["bash", "fish", "zsh"]);
}

#[test]
fn bash_completes_names() {
    let place = Place::with(PROJECT);
    assert_eq!(offered(&place, &["up", ""]), ["db", "front", "web"]);
    assert_eq!(offered(&place, &["up", "db", "w"]), ["web"]);
    assert_eq!(offered(&place, &["ssh", "d"]), ["db"]);
    assert_eq!(offered(&place, &["halt", "--force", "f"]), ["front"]);
    assert_eq!(offered(&place, &["port", "add", "w"]), ["web"]);
    assert_eq!(offered(&place, &["--color", "never", "-v", "ssh", "w"]), ["web"]);
    assert_eq!(offered(&place, &["box", "add", "deb"]), ["debian/12", "debian/13"]);
    // The value of an option is no name, and behind `--` words are not ours.
    assert_eq!(offered(&place, &["provision", "--provision-with", "w"]), [""; 0]);
    assert_eq!(offered(&place, &["exec", "web", "--", "d"]), [""; 0]);
}

#[test]
fn a_project_that_cannot_be_read_is_quiet() {
    for place in [Place::new(), Place::with("box = ")] {
        let ran = place.run(&["__complete", "machines"]);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
        assert_eq!(offered(&place, &["up", ""]), [""; 0]);
    }
}

#[test]
fn zsh_and_fish_ask_for_names_too() {
    let place = Place::new();
    let zsh = place.run(&["completion", "zsh"]).stdout;
    assert!(zsh.starts_with("#compdef rvm\n"), "{zsh}");
    assert!(zsh.matches(":_rvm_machines'").count() > 10 && zsh.contains(":_rvm_boxes'"), "{zsh}");
    let fish = place.run(&["completion", "fish"]).stdout;
    let up = "complete -c rvm -n \"__fish_seen_subcommand_from up\" -f -a \"(rvm __complete machines 2>/dev/null)\"";
    assert!(fish.contains(up), "{fish}");
    assert_eq!(place.run(&["completion", "tcsh"]).code, 2);
}

#[test]
fn man_pages_of_all_commands() {
    let place = Place::new();
    let page = place.run(&["man"]).stdout;
    assert!(page.contains(".TH rvm 1") && page.contains("global\\-status"), "{page}");
    let ran = place.run(&["man", "pages/man1"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "The man pages are in [DIR]/project/pages/man1.\n"));
    let dir = place.project().join("pages/man1");
    for (file, words) in [("rvm.1", "rvm\\-up(1)"), ("rvm-up.1", "\\-\\-provider"), ("rvm-box-add.1", "BOX")]
    {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        assert!(text.contains(words), "{file}: {text}");
    }
    place.write("file", "");
    let ran = place.run(&["man", "file"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("cannot write the man pages into [DIR]/project/file"), "{}", ran.stderr);
}

#[test]
fn list_commands_has_each_with_a_line() {
    let ran = Place::new().run(&["list-commands"]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines.is_sorted() && lines.len() > 25, "{lines:?}");
    assert!(lines.contains(&"halt          Stop machines"), "{lines:?}");
}
