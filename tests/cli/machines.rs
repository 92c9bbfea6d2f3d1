//! Machines that do not exist yet: every command says so in its own way.

use serde_json::{Value, json};

use super::{Place, Ran};

const ONE: &str = "box = \"micro\"\n";
const TWO: &str = "box = \"micro\"\n[[machine]]\nname = \"web\"\n[[machine]]\nname = \"db\"\n";

fn document(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", ran.stdout, ran.stderr))
}

#[test]
fn status_of_one_machine() {
    let ran = Place::with(ONE).run(&["status"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(ran.stdout, @r"
    Current machine states:

    default                   not created (auto)

    The machine does not exist yet. `rvm up default` creates it.
    ");
}

#[test]
fn status_of_several_machines() {
    let place = Place::with(TWO);
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, 0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(
        lines.get(2..4),
        Some(
            &["web                       not created (auto)", "db                        not created (auto)"]
                [..]
        )
    );
    assert!(place.run(&["status", "db"]).stdout.contains("`rvm up db`"));
    assert_eq!(place.run(&["status", "--exit-code"]).code, 1);
}

#[test]
fn status_as_json() {
    let ran = Place::with(TWO).run(&["status", "--json", "web"]);
    let expected = json!({
        "version": 1,
        "machines": [{
            "id": null, "name": "web", "provider": null, "state": "not_created",
            "directory": "[DIR]/project", "box": "micro", "pid": null, "uptime_seconds": null, "memory": null,
            "cause": null, "ssh": null, "ports": [], "networks": [],
        }],
    });
    assert_eq!(document(&ran), expected);
}

#[test]
fn no_machines_at_all() {
    let place = Place::new();
    for words in [&["global-status"][..], &["global-status", "--prune"]] {
        let ran = place.run(words);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        assert!(ran.stdout.starts_with("There are no machines."), "{}", ran.stdout);
    }
    let ran = place.run(&["global-status", "--json"]);
    assert_eq!(document(&ran), json!({ "version": 1, "machines": [] }));
    assert!(place.files().is_empty(), "looking leaves no files");
}

#[test]
fn no_boxes_at_all() {
    let place = Place::new();
    assert!(place.run(&["box", "list"]).stdout.starts_with("There are no boxes yet."));
    assert_eq!(document(&place.run(&["box", "list", "--json"])), json!({ "version": 1, "boxes": [] }));
    let ran = place.run(&["box", "remove", "no-such-box"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("no-such-box"), "{}", ran.stderr);
}

#[test]
fn what_is_not_created_needs_no_stopping() {
    let place = Place::with(TWO);
    for verb in ["halt", "destroy"] {
        let ran = place.run(&[verb]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{verb}");
        let stages: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("==>")).collect();
        assert_eq!(stages, ["==> db: Machine not created.", "==> web: Machine not created."], "{verb}");
    }
    let ran = place.run(&["reload", "web"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "==> web: Machine not created: `rvm up` creates it.\n"));
}

#[test]
fn what_is_not_created_cannot_be_used() {
    let place = Place::with(ONE);
    let cases: [&[&str]; 7] = [
        &["console"],
        &["ssh"],
        &["ssh", "-c", "true"],
        &["ssh-config"],
        &["port"],
        &["logs"],
        &["provision"],
    ];
    for words in cases {
        let ran = place.run(words);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("not created") && ran.stderr.contains("hint: `rvm up"), "{}", ran.stderr);
    }
    let value = document(&place.run(&["port", "--json"]));
    assert_eq!(value["error"]["message"], "cannot show the ports of default: it is not created");
    assert_eq!(value["error"]["hint"], "`rvm up default` starts it");
}

#[test]
fn commands_for_one_machine_want_its_name() {
    let place = Place::with(TWO);
    let cases: [&[&str]; 5] = [&["console"], &["ssh"], &["port"], &["logs"], &["ssh-config", "--host", "x"]];
    for words in cases {
        let ran = place.run(words);
        assert_eq!(ran.code, 2, "{words:?}");
        assert!(ran.stderr.contains("hint: name one of: web, db"), "{}", ran.stderr);
    }
}

#[test]
fn names_that_nobody_has() {
    let place = Place::with(TWO);
    for words in [
        &["up", "wbe"][..],
        &["status", "db", "wbe"],
        &["ssh", "wbe"],
        &["console", "wbe"],
        &["destroy", "-f", "wbe"],
    ] {
        let ran = place.run(words);
        assert_eq!(ran.code, 2, "{words:?}");
        assert!(
            ran.stderr.contains("no machine `wbe`") && ran.stderr.contains("has: web, db"),
            "{}",
            ran.stderr
        );
    }
    // Without a project a word that may be an id is taken for one.
    let ran = Place::new().run(&["halt", "cafe"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("no machine has an id that begins with `cafe`"), "{}", ran.stderr);
    assert!(Place::new().run(&["halt", "web"]).stderr.contains("no Vagrantfile"));
}

const MANY: &str = r#"
box = "micro"

[[machine]]
name = "web1"
groups = ["front"]

[[machine]]
name = "web2"
groups = ["front"]
autostart = false

[[machine]]
name = "db"
primary = true
"#;

#[test]
fn groups_and_expressions_name_machines() {
    let place = Place::with(MANY);
    let names = |words: &[&str]| {
        let value = document(&place.run(&[&["status", "--json"], words].concat()));
        let list = value["machines"].as_array().unwrap_or_else(|| panic!("{value}")).clone();
        list.iter().map(|machine| machine["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&["front"]), "web1 web2");
    assert_eq!(names(&["/web[0-9]/", "web1"]), "web1 web2");
    assert_eq!(names(&["db", "/./"]), "db web1 web2");
    for (word, part) in [
        ("/web(/", "no regular expression: unclosed group"),
        ("/x/", "no machine in [DIR]/project/Vagrantfile has a name that `/x/` fits"),
        ("back", "no machine `back`"),
    ] {
        let ran = place.run(&["halt", word]);
        assert_eq!(ran.code, 2, "{word}");
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    assert!(place.run(&["halt", "back"]).stderr.contains("groups: front"));
    let ran = Place::new().run(&["halt", "/web/"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("no Vagrantfile"), "{}", ran.stderr);
}

#[test]
fn the_primary_machine_is_meant_where_none_is_named() {
    let place = Place::with(MANY);
    for words in [&["console"][..], &["port"], &["logs"]] {
        let ran = place.run(words);
        assert_eq!(ran.code, 1, "{words:?}");
        assert!(ran.stderr.contains("db"), "{}", ran.stderr);
    }
    let ran = place.run(&["logs", "front"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("`front` names several\nhint: name one of: web1, web2"), "{}", ran.stderr);
}

#[test]
fn machines_that_do_not_start_by_themselves() {
    let place = Place::with("box = \"micro\"\nautostart = false\n[[machine]]\nname = \"web\"\n");
    let ran = place.run(&["up"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.contains("`rvm up NAME`"), "{}", ran.stdout);
}

#[test]
fn how_many_at_the_same_time() {
    let place = Place::with(TWO);
    for words in [
        &["--parallel", "3"][..],
        &["--parallel"],
        &["--no-parallel"],
        &["--parallel=2", "--lock-timeout", "5"],
    ] {
        let ran = place.run(&[&["halt"], words].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{words:?}");
    }
    // Vagrant's flag takes no number.
    assert_eq!(place.run(&["halt", "--parallel", "web"]).stdout, "==> web: Machine not created.\n");
    for words in [&["--parallel", "0"][..], &["--parallel", "--no-parallel"], &["--lock-timeout", "soon"]] {
        assert_eq!(place.run(&[&["up"], words].concat()).code, 2, "{words:?}");
    }
}

/// A failure strands nobody: all are tried, each failure is told, and so is the whole.
#[test]
fn failures_are_told_for_each_machine_and_together() {
    let chain = "box = \"micro\"\n[[machine]]\nname = \"web\"\ndepends_on = [\"db\"]\n[[machine]]\nname = \"db\"\n\
                 [[machine]]\nname = \"lone\"\n";
    let place = Place::with(chain);
    // No store can be where a file is.
    std::fs::write(place.home(), "").unwrap();
    for parallel in [&["--parallel"][..], &["--no-parallel"]] {
        let ran = place.run(&[&["up"], parallel].concat());
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        for part in [
            "error[E1003]: db: ",
            "error[E1003]: lone: ",
            "==> web: warning: skipped: it depends on db",
            "2 of 3 machines failed, 1 skipped",
        ] {
            assert!(ran.stderr.contains(part), "`{part}` is not in:\n{}", ran.stderr);
        }
        let summary: Vec<&str> = ran.stdout.lines().rev().take(3).collect();
        assert!(summary[0].starts_with("lone") && summary[0].contains("failed: "), "{}", ran.stdout);
        assert!(summary[2].starts_with("web") && summary[2].contains("skipped: db failed"), "{}", ran.stdout);
    }
}

#[test]
fn steps_that_nobody_has() {
    let place = Place::with("box = \"micro\"\n[[provision]]\nname = \"motd\"\nshell = \"true\"\n");
    for verb in ["up", "reload", "provision"] {
        let ran = place.run(&[verb, "--provision-with", "shell,motdd"]);
        assert_eq!(ran.code, 2, "{verb}: {}", ran.stderr);
        assert!(ran.stderr.contains("`motdd`") && ran.stderr.contains("hint: steps: motd"), "{}", ran.stderr);
    }
}

#[test]
fn the_doctor_says_whether_machines_can_run() {
    let place = Place::new();
    let ran = place.run(&["doctor", "--json"]);
    let value = document(&ran);
    assert_eq!(value["version"], 1);
    assert_eq!(ran.code == 0, value["ok"].as_bool().unwrap());
    let providers = &value["providers"];
    assert_eq!(value["ok"], providers["kvm"].as_bool().unwrap() || providers["qemu"].as_bool().unwrap());
    for check in value["checks"].as_array().unwrap() {
        assert!(["ok", "missing", "note"].contains(&check["result"].as_str().unwrap()), "{check}");
        assert!(check["result"] != "missing" || check["fix"].is_string(), "no way to mend: {check}");
    }
    let plain = place.run(&["doctor"]);
    assert_eq!(plain.code, ran.code);
    assert!(plain.stdout.contains("/dev/kvm") && plain.stdout.contains("This host"), "{}", plain.stdout);
}

/// What is said of the walls was found on a process that is shut in: it inherits nothing, and nothing of what the
/// tests of the sandbox find to hold is missing.
#[test]
fn the_doctor_says_what_holds_a_process() {
    let place = Place::new();
    let ran = place.run(&["doctor", "--json"]);
    let value = document(&ran);
    let walls = &value["sandbox"];
    let landlock = walls["landlock"].as_i64();
    let expected = serde_json::json!({
        "landlock": landlock,
        "seccomp": true,
        "no_new_privileges": true,
        "no_capabilities": true,
        "limits": { "core": 0, "files": walls["limits"]["files"], "file_size": 64 << 20, "locked": 0 },
        "inherited": 0,
        "environment": ["PATH"],
    });
    assert_eq!(*walls, expected, "{}", ran.stderr);
    assert!(
        landlock.is_some() && (64..=1024).contains(&walls["limits"]["files"].as_u64().unwrap()),
        "{walls}"
    );
    assert_eq!(value["running"], serde_json::json!([]));
    let plain = place.run(&["doctor"]).stdout;
    for word in
        ["seccomp", "no capabilities", "no_new_privs", "no core dump", "no descriptor", "environment: PATH"]
    {
        assert!(plain.contains(word), "{word} is not in {plain}");
    }
}

#[test]
fn the_timings_of_a_failure_are_kept() {
    let place = Place::with("box = \"micro\"\n");
    // No store can be where a file is.
    std::fs::write(place.home(), "").unwrap();
    let ran = place.run(&["up", "--timings=times/today"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stdout.contains("total"), "{}", ran.stdout);
    let text = std::fs::read(place.project().join("times/today/default.json")).unwrap();
    let chart: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((chart["completed"].as_bool(), &chart["provider"]), (Some(false), &serde_json::Value::Null));
    let picture = std::fs::read_to_string(place.project().join("times/today/default.svg")).unwrap();
    assert!(picture.contains("not completed"));
    let without_folder = place.run(&["up", "--timings"]);
    assert!(without_folder.stderr.contains("the timings are not written"), "{}", without_folder.stderr);
    place.write("taken", "");
    assert_eq!(place.run(&["up", "--timings=taken"]).code, 1);
}

#[test]
fn a_machine_that_was_taken_out_of_the_file_is_told_of_and_can_be_removed_by_name() {
    let place = Place::with(TWO);
    let web = place.made("web");
    let pointer = place.project().join(".rvm/machines/web");
    std::fs::create_dir_all(&pointer).unwrap();
    std::fs::write(pointer.join("id"), web).unwrap();
    assert!(!place.run(&["status"]).stderr.contains("any more"));
    place.write("Vagrantfile", TWO.replace("web", "front"));
    let said =
        format!("Not in the Vagrantfile any more: web (poweroff, {}). `rvm destroy web` removes", &web[..7]);
    for words in [&["status"][..], &["halt"]] {
        let ran = place.run(words);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(
            format!("{}{}", ran.stdout, ran.stderr).contains(&said),
            "{words:?}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
    assert!(!place.run(&["status", "db"]).stderr.contains("any more"), "it was not asked for");
    assert!(place.run(&["status", "web"]).stdout.contains("poweroff"));
    let up = place.run(&["up", "web"]);
    assert_eq!(up.code, 2);
    assert!(up.stderr.contains("no longer declares a machine `web`"), "{}", up.stderr);
    assert!(up.stderr.contains("`rvm destroy web`"), "{}", up.stderr);
    assert_eq!(place.run(&["destroy", "-f", "web"]).code, 0);
    assert!(!place.home().join("machines").join(web).exists());
    let gone = place.run(&["status"]);
    assert!(!gone.stderr.contains("any more"), "{}", gone.stderr);
    assert_eq!(place.run(&["status", "web"]).code, 2);
}
