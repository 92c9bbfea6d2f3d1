//! The documents of `--json` have the shapes of docs/json.md. Those of machines that run are compared end to
//! end (`tests/common/cases/life.rs`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::docs::commands;
use super::json_support::{check, shapes};
use super::{Place, Ran};

fn document(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", ran.stdout, ran.stderr))
}

/// Runs the words, which must work, and compares what they print.
fn shaped(place: &Place, name: &str, words: &[&str]) -> BTreeSet<String> {
    let ran = place.run(&[words, &["--json"]].concat());
    assert!(ran.code == 0 || name == "doctor", "{words:?}: {}", ran.stderr);
    check(name, &document(&ran))
}

const PROJECT: &str = r#"
box = "micro"

[[provision]]
name = "look"
shell = "true"

[[machine]]
name = "web"
depends_on = ["db"]
network = [{ private = "backend" }]

[[machine.port]]
guest = 80
host = 48080
auto_correct = true

[[machine]]
name = "db"

[[after_all]]
name = "together"
shell = "true"
on = "host"
"#;

#[test]
fn what_needs_no_machine_has_its_shape() {
    let place = Place::with(PROJECT);
    shaped(&place, "machines", &["status"]);
    shaped(&place, "machines", &["global-status"]);
    let seen = shaped(&place, "plan", &["plan"]);
    for path in ["after_all[].why", "machines[].start.ports[].declared.guest", "machines[].steps[].why"] {
        assert!(seen.contains(path), "{path} was not there: {seen:?}");
    }
    assert!(shaped(&place, "graph", &["graph"]).contains("machines[].networks[].dhcp"));
    shaped(&place, "top", &["top", "-i", "0.2"]);
    shaped(&place, "validate", &["validate"]);
    shaped(&place, "network-list", &["network", "list"]);
    shaped(&place, "volume-list", &["volume", "list"]);
    shaped(&place, "box-list", &["box", "list"]);
    assert!(shaped(&place, "doctor", &["doctor"]).contains("checks[].fix"));
    assert!(shaped(&place, "explain", &["explain"]).contains("errors[].next"));
    assert!(shaped(&place, "list-commands", &["list-commands"]).contains("commands[].about"));
    assert!(shaped(&place, "version", &["version"]).contains("rvm"));
}

#[test]
fn failures_have_their_shape() {
    let place = Place::with("box = \"micro\"\ncpus = 0\n");
    let wrong = place.run(&["status", "--json"]);
    assert!(check("error", &document(&wrong)).contains("error.problems[].line"));
    place.write("Vagrantfile", "box = \"micro\"\n");
    for words in [&["port"][..], &["ssh-config"], &["logs"], &["explain", "E9"], &["port", "--guest", "x"]] {
        let ran = place.run(&[words, &["--json"]].concat());
        assert_ne!(ran.code, 0, "{words:?}");
        assert!(check("error", &document(&ran)).contains("error.code"), "{words:?}");
    }
    // No store can be where a file is.
    std::fs::write(place.home(), "").unwrap();
    assert_eq!(place.run(&["up", "--timings=times"]).code, 1);
    let text = std::fs::read(place.project().join("times/default.json")).unwrap();
    assert!(check("timings", &serde_json::from_slice(&text).unwrap()).contains("phases[].duration_ms"));
}

#[test]
fn every_command_with_json_is_described() {
    let place = Place::new();
    let shapes = shapes();
    let mut count = 0;
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(verb) = open.pop() {
        let words: Vec<&str> = verb.iter().map(String::as_str).collect();
        let below = commands(&place, &words).into_iter().filter(|name| name != "help");
        open.extend(below.map(|name| [verb.clone(), vec![name]].concat()));
        let help = place.run(&[words.as_slice(), &["--help"]].concat()).stdout;
        // The inventory has the form of Ansible.
        if help.contains("--json ") && !verb.is_empty() && verb != ["inventory"] {
            let name = match verb.join("-").as_str() {
                "status" | "global-status" => "machines".to_owned(),
                name => name.to_owned(),
            };
            assert!(
                shapes.contains_key(name.as_str()),
                "docs/json.md does not describe `rvm {}`",
                verb.join(" ")
            );
            count += 1;
        }
    }
    assert!(count > 12, "{count}");
}

/// Target, type and data of each line.
fn lines(ran: &Ran) -> Vec<(String, String, Vec<String>)> {
    let line = |line: &str| {
        let mut fields = line.split(',').map(str::to_owned);
        let time: u64 = fields.next().unwrap().parse().unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(time > 1_700_000_000, "{line}");
        (fields.next().unwrap(), fields.next().unwrap(), fields.collect())
    };
    ran.stdout.lines().map(line).collect()
}

/// The data of all lines of that type about that machine.
fn data(ran: &Ran, target: &str, kind: &str) -> Vec<String> {
    let lines = lines(ran).into_iter().filter(|(t, k, _)| t == target && k == kind);
    lines.map(|(_, _, data)| data.join(",")).collect()
}

#[test]
fn lines_for_scripts_as_vagrant_has_them() {
    let place = Place::with(PROJECT);
    let ran = place.run(&["status", "--machine-readable"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(data(&ran, "web", "metadata"), ["provider,auto"]);
    assert_eq!(data(&ran, "web", "state"), ["not_created"]);
    assert_eq!(data(&ran, "db", "state-human-short"), ["not created"]);
    assert!(data(&ran, "db", "state-human-long")[0].starts_with("The machine does not exist"));
    assert!(data(&ran, "", "ui")[0].starts_with("info,Current machine states:\\n\\nweb "));

    assert_eq!(
        data(&place.run(&["--machine-readable", "global-status"]), "", "metadata"),
        ["machine-count,0"]
    );
    let version = place.run(&["version", "--machine-readable"]);
    assert_eq!(data(&version, "", "version-installed"), [env!("CARGO_PKG_VERSION")]);
    let commands = data(&place.run(&["list-commands", "--machine-readable"]), "", "cli-command");
    assert!(commands.contains(&"up".to_owned()) && commands.len() > 25, "{commands:?}");

    let halt = place.run(&["halt", "--machine-readable"]);
    assert_eq!(data(&halt, "db", "ui"), ["output,Machine not created."]);
}

#[test]
fn failures_are_lines_too() {
    let place = Place::with(PROJECT);
    let ran = place.run(&["port", "web", "--machine-readable"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, ""));
    let exit = data(&ran, "", "error-exit");
    assert_eq!(exit, ["E0306,cannot show the ports of web: it is not created"]);
    assert!(data(&ran, "", "ui")[0].starts_with("error,error[E03"), "{}", ran.stdout);

    // Work on a machine is between two lines, and its failure is its own.
    std::fs::write(place.home(), "").unwrap();
    let ran = place.run(&["up", "--machine-readable"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, ""));
    assert_eq!(data(&ran, "db", "action"), ["up,start", "up,end"]);
    assert!(
        data(&ran, "db", "ui").iter().any(|line| line.starts_with("error,error[E1003]: db")),
        "{}",
        ran.stdout
    );
    assert!(
        data(&ran, "web", "ui")
            .contains(&"warn,skipped: it depends on db%!(VAGRANT_COMMA) which failed".into())
    );
    assert_eq!(data(&ran, "", "error-exit").len(), 1, "{}", ran.stdout);

    let usage = place.run(&["port", "--machine-readable", "--guest", "x"]);
    assert_eq!((usage.code, usage.stderr.as_str()), (2, ""));
    assert!(data(&usage, "", "error-exit")[0].starts_with("E0101,invalid value 'x'"), "{}", usage.stdout);
    let both = place.run(&["status", "--json", "--machine-readable"]);
    assert_eq!(both.code, 2);
    assert!(check("error", &document(&both)).contains("error.code"));
}

#[test]
fn scripts_are_asked_nothing_and_get_no_colours() {
    let place = Place::new();
    std::fs::create_dir_all(place.home().join("machines/0123456789abcdef0123456789abcdef")).unwrap();
    let ran = place.run(&["destroy", "0123456", "--machine-readable", "--color", "always"]);
    assert_eq!(ran.code, 1);
    assert!(data(&ran, "", "error-exit")[0].contains("--machine-readable"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\x1b'), "{}", ran.stdout);
}
