//! Help, version, usage errors.

use super::Place;

/// The verbs below those words, as their help lists them.
fn verbs(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// One snapshot a verb, so that two who change the help of two verbs do not meet.
#[test]
fn help_of_the_whole_tree() {
    let place = Place::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut count = 0;
    while let Some(verb) = open.pop() {
        let words: Vec<&str> = verb.iter().map(String::as_str).chain(["--help"]).collect();
        let ran = place.run(&words);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{words:?}");
        let name = if verb.is_empty() { "rvm".into() } else { verb.join("-") };
        insta::with_settings!({ snapshot_suffix => name }, { insta::assert_snapshot!("help", ran.stdout) });
        open.extend(verbs(&ran.stdout).into_iter().map(|name| [verb.clone(), vec![name]].concat()));
        count += 1;
    }
    assert!(count > 20, "only {count} verbs were found");
}

#[test]
fn version_is_said_in_both_ways() {
    let place = Place::new();
    let expected = format!("rvm {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(place.run(&["--version"]).stdout, expected);
    assert_eq!(place.run(&["version"]).stdout, expected);
}

#[test]
fn wrong_words_are_usage_errors() {
    let place = Place::new();
    let cases: [&[&str]; 8] = [
        &[],
        &["upp"],
        &["up", "--frobnicate"],
        &["up", "--provider", "virtualbox"],
        &["up", "--provision", "--no-provision"],
        &["port", "--guest", "70000"],
        &["port", "--guest", "0"],
        &["init", "Not A Box"],
    ];
    for words in cases {
        let ran = place.run(words);
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{words:?}");
        assert!(ran.stderr.contains("Usage:") || ran.stderr.contains("--help"), "{words:?}: {}", ran.stderr);
    }
    assert!(place.run(&["upp"]).stderr.contains("'up'"), "a near word is offered");
}

#[test]
fn commands_of_other_tools_lead_to_ours() {
    let place = Place::new();
    for (words, hint) in [
        (&["suspend", "web"][..], "`rvm halt` stops a machine"),
        (&["snapshot", "save", "x"], "there are no snapshots"),
        (&["stop"], "`rvm halt`"),
        (&["ls"], "`rvm status`"),
        (&["plugin", "install", "x"], "no plug-ins"),
        (&["box", "outdated"], "`rvm lock --update`"),
    ] {
        let ran = place.run(words);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{words:?}");
        let word = if words[0] == "box" { words[1] } else { words[0] };
        let first = format!("error[E0101]: there is no command `{word}`\nhint: ");
        assert!(ran.stderr.starts_with(&first) && ran.stderr.contains(hint), "{}", ran.stderr);
    }
    assert!(place.run(&["volume", "rm"]).stderr.contains("unrecognized subcommand 'rm'"));
    let json: serde_json::Value = serde_json::from_str(&place.run(&["suspend", "--json"]).stdout).unwrap();
    assert_eq!(json["error"]["code"], "E0101");
    let lines = place.run(&["suspend", "--machine-readable"]).stdout;
    assert!(lines.contains(",error-exit,") && lines.contains("no command"), "{lines}");
}

#[test]
fn scripts_for_vagrant_may_say_what_goes_without_saying() {
    let place = Place::with("box = \"micro\"\nautostart = false\n");
    for words in [
        &["validate", "-p"][..],
        &["validate", "--ignore-provider"],
        &["up", "--no-install-provider", "--no-destroy-on-error"],
    ] {
        assert_eq!(place.run(words).code, 0, "{words:?}");
    }
    assert!(place.run(&["status", "--debug"]).stderr.contains("DEBUG rvm"));
}

#[test]
fn a_usage_error_under_json_is_a_document() {
    let ran = Place::new().run(&["port", "--json", "--guest", "x"]);
    assert_eq!(ran.code, 2);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["version"], 1);
    assert!(value["error"]["message"].as_str().unwrap().contains("invalid value 'x'"), "{value}");
    assert_eq!(value["error"]["code"], "E0101");
    assert_eq!(ran.stderr, "");
    let plain = Place::new().run(&["port", "--guest", "x"]);
    assert!(plain.stderr.starts_with("error[E0101]: invalid value 'x'"), "{}", plain.stderr);
}

#[test]
fn an_error_code_is_explained() {
    let place = Place::new();
    let ran = place.run(&["validate"]);
    let code = ran.stderr.strip_prefix("error[").unwrap().split(']').next().unwrap().to_owned();
    let explained = place.run(&["explain", &code]);
    assert!(explained.stdout.starts_with("E0201: no Vagrantfile\n\nCause: "), "{}", explained.stdout);
    let json = place.run(&["explain", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(value["errors"].as_array().unwrap().iter().any(|entry| entry["code"] == code.as_str()));
    assert_eq!(place.run(&["explain", "E9999"]).code, 2);
}
