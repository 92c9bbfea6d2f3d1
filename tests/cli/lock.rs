//! `Vagrantfile.lock`, with a store that was made up.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::Place;

const RECIPE: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

fn digest(recipe: &str, packages: &[(&str, &str)]) -> String {
    let mut hash = Sha256::new_with_prefix(recipe);
    for (name, version) in packages {
        hash.update(format!("\n{name} {version}"));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Place {
    /// A box in the store, of a recipe that no rvm has; its digest.
    fn box_of(&self, name: &str, version: &str) -> String {
        let packages = [("busybox", version), ("sudo", "1.9")];
        let digest = digest(RECIPE, &packages);
        let dir = self.home().join("boxes").join(name).join(&digest[..16]);
        std::fs::create_dir_all(&dir).unwrap();
        for part in ["root.ext4", "vmlinux", "initrd"] {
            std::fs::write(dir.join(part), "1234").unwrap();
        }
        let record = json!({
            "name": name, "digest": digest, "recipe": RECIPE, "suite": "trixie", "mirror": "http://m", "size": 4,
            "default_disk": 8, "created": 1_795_601_700, "kernel_version": "6.12-cloud", "default_user": "vagrant",
            "agent": true, "packages": packages,
        });
        std::fs::write(dir.join("box.json"), record.to_string()).unwrap();
        digest
    }

    /// A lock file that pins it.
    fn lock(&self, name: &str, version: &str) -> String {
        let digest = digest(RECIPE, &[("busybox", version), ("sudo", "1.9")]);
        let text = format!(
            "version = 1\nrvm = \"0.0.9\"\n\n[[box]]\nname = \"{name}\"\ndigest = \"{digest}\"\nrecipe = \"{RECIPE}\"\n\
             suite = \"trixie\"\nsnapshot = \"20261125T101500Z\"\nkernel = \"6.12-cloud\"\n\
             packages = [\"busybox {version}\", \"sudo 1.9\"]\n"
        );
        self.write("Vagrantfile.lock", &text);
        digest
    }

    fn lock_file(&self) -> String {
        std::fs::read_to_string(self.project().join("Vagrantfile.lock")).unwrap()
    }
}

#[test]
fn the_locked_box_is_taken_though_there_are_others() {
    let place = Place::with("box = \"micro\"\nprovider = \"kvm\"\n");
    let (old, new) = (place.box_of("micro", "1.36"), place.box_of("micro", "1.37"));
    for (version, digest) in [("1.36", &old), ("1.37", &new)] {
        assert_eq!(&place.lock("micro", version), digest);
        let ran = place.run(&["plan"]);
        let line = format!("  + box        micro ({})\n", &digest[..12]);
        assert!(ran.stdout.contains(&line), "{}{}", ran.stdout, ran.stderr);
        let ran = place.run(&["lock", "--check"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
}

#[test]
fn rvm_lock_shows_what_is_locked_and_takes_out_what_nobody_needs() {
    let place = Place::with("box = \"micro\"\n");
    place.box_of("micro", "1.36");
    place.lock("micro", "1.36");
    let ran = place.run(&["lock"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let row: Vec<&str> = ran.stdout.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(row[0], "micro");
    assert_eq!(row[2..], ["20261125T101500Z", "6.12-cloud", "2", "in", "the", "store"]);
    let value: serde_json::Value = serde_json::from_str(&place.run(&["lock", "--json"]).stdout).unwrap();
    assert_eq!(value["file"], "[DIR]/project/Vagrantfile.lock");
    assert_eq!((&value["boxes"][0]["in_store"], &value["fast"]), (&json!(true), &json!(null)));
    // What is right is not written again: no churn for another version of rvm.
    assert!(place.lock_file().contains("rvm = \"0.0.9\""));
    let other = place.lock_file().replace("name = \"micro\"", "name = \"debian/12\"");
    let table = other.split_once("\n[[box]]").unwrap().1.to_owned();
    place.write("Vagrantfile.lock", format!("{}\n[[box]]{table}", place.lock_file()));
    let stale = place.run(&["lock", "--check"]);
    assert_eq!(stale.code, 0);
    assert!(stale.stderr.contains("No machine needs debian/12 any more"), "{}", stale.stderr);
    assert_eq!(place.run(&["lock"]).code, 0);
    let text = place.lock_file();
    assert!(!text.contains("debian/12") && text.contains("name = \"micro\""), "{text}");
    assert_eq!(place.run(&["lock"]).code, 0);
    assert_eq!(place.lock_file(), text);
}

#[test]
fn a_box_that_this_rvm_cannot_build_is_said_to_be_one() {
    let place = Place::with("box = \"micro\"\n");
    let digest = place.lock("micro", "1.36");
    let said = format!("this rvm builds it in another way ({} is not in the store)", &digest[..12]);
    for words in [&["plan", "--exit-code"][..], &["lock", "--check"]] {
        let ran = place.run(words);
        assert_eq!(ran.code, 1, "{words:?}");
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(&said), "{}{}", ran.stdout, ran.stderr);
    }
    let ran = place.run(&["up"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains(&said) && ran.stderr.contains("`rvm lock --update micro`"), "{}", ran.stderr);
    assert!(!place.home().join("boxes/micro").exists(), "nothing was built");
}

#[test]
fn locked_refuses_what_is_not_locked_before_anything_is_made() {
    let place = Place::with(
        "[[machine]]\nname = \"a\"\nbox = \"micro\"\n[[machine]]\nname = \"b\"\nbox = \"debian/13\"\n",
    );
    let ran = place.run(&["up", "--locked"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("there is no [DIR]/project/Vagrantfile.lock"), "{}", ran.stderr);
    place.lock("micro", "1.36");
    let before = place.files();
    let mut command = place.command(&["up", "b"]);
    let ran = place.finish(command.env("RVM_LOCKED", "1").output().unwrap());
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("Vagrantfile.lock does not lock debian/13"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: `rvm lock` locks"), "{}", ran.stderr);
    let ran = place.run(&["lock", "--check"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("box debian/13 is not locked"), "{}", ran.stderr);
    assert_eq!(place.files(), before);
}

#[test]
fn a_damaged_lock_file_is_told_with_its_line_and_stops_no_other_command() {
    let place = Place::with("box = \"micro\"\n");
    place.lock("micro", "1.36");
    let good = place.lock_file();
    let merged = good.replace("suite", "<<<<<<< HEAD\nsuite");
    let edited = good.replace("sudo 1.9\"", "sudo 2.0\"");
    for (text, line, said) in [
        (merged.as_str(), 8, "damaged"),
        (edited.as_str(), 6, "does not fit its recipe and packages"),
        ("version = 7\n", 1, "this lock file has version 7"),
        ("version = 1\nrvm = \"\u{1b}[31m\"", 2, "damaged"),
    ] {
        place.write("Vagrantfile.lock", text);
        for verb in ["up", "plan", "reload", "lock"] {
            let ran = place.run(&[verb]);
            assert_eq!(ran.code, 2, "{verb}: {}{}", ran.stdout, ran.stderr);
            let at = format!("[DIR]/project/Vagrantfile.lock:{line}:");
            assert!(ran.stderr.contains(&at) && ran.stderr.contains(said), "{verb}: {}", ran.stderr);
            assert!(!ran.stderr.contains('\u{1b}'));
        }
        assert_eq!(place.run(&["status"]).code, 0);
        assert_eq!(place.run(&["validate"]).code, 0);
    }
    std::fs::remove_file(place.project().join("Vagrantfile.lock")).unwrap();
    std::fs::create_dir(place.project().join("Vagrantfile.lock")).unwrap();
    assert!(place.run(&["up"]).stderr.contains("is a folder, not a file"));
}

#[test]
fn its_name_follows_that_of_the_vagrantfile() {
    let place = Place::new();
    place.write("Other.toml", "box = \"micro\"\n");
    place.write("Other.toml.lock", "version = 2\n");
    let mut command = place.command(&["plan"]);
    let ran = place.finish(command.env("RVM_VAGRANTFILE", "Other.toml").output().unwrap());
    assert!(ran.stderr.contains("project/Other.toml.lock:1:"), "{}", ran.stderr);
}

#[test]
fn only_boxes_of_the_project_are_locked_anew() {
    let place = Place::with("box = \"micro\"\n");
    let ran = place.run(&["lock", "--update", "debian/13"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("hint: this project needs: micro"), "{}", ran.stderr);
    for words in [&["lock", "micro"][..], &["lock", "--update", "--check"]] {
        assert_eq!(place.run(words).code, 2, "{words:?}");
    }
}

#[test]
fn what_scripts_fetch_is_said_not_to_be_locked() {
    let step = |name: &str, kind: &str| format!("[[provision]]\nname = \"{name}\"\n{kind}\n");
    let place = Place::with(format!("box = \"micro\"\n{}", step("tools", "packages = [\"git\"]")));
    place.box_of("micro", "1.36");
    place.lock("micro", "1.36");
    assert!(!place.run(&["lock", "--check"]).stderr.contains("Not locked"));
    let scripts: String = (1..=6).map(|n| step(&format!("script {n}"), "shell = \"true\"")).collect();
    place
        .write("Vagrantfile", format!("box = \"micro\"\n{}{scripts}", step("tools", "packages = [\"git\"]")));
    for words in [&["lock"][..], &["lock", "--check"]] {
        let ran = place.run(words);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let said = "Not locked: what scripts and playbooks fetch (script 1, script 2, script 3, script 4, script 5, …).";
        assert!(ran.stderr.contains(said), "{words:?}: {}", ran.stderr);
    }
}
