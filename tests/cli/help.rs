//! Help, version, usage errors.

use super::Place;

const VERBS: [&[&str]; 24] = [
    &[],
    &["init"],
    &["import"],
    &["validate"],
    &["up"],
    &["plan"],
    &["lock"],
    &["halt"],
    &["reload"],
    &["ssh"],
    &["console"],
    &["ssh-config"],
    &["provision"],
    &["status"],
    &["global-status"],
    &["destroy"],
    &["port"],
    &["box"],
    &["box", "add"],
    &["box", "list"],
    &["box", "remove"],
    &["logs"],
    &["doctor"],
    &["version"],
];

#[test]
fn help_of_the_whole_tree() {
    let place = Place::new();
    let mut text = String::new();
    for verb in VERBS {
        let words: Vec<&str> = verb.iter().copied().chain(["--help"]).collect();
        let ran = place.run(&words);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{words:?}");
        text.push_str(&format!("$ rvm {}\n{}\n", words.join(" "), ran.stdout));
    }
    insta::assert_snapshot!(text);
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
fn a_usage_error_under_json_is_a_document() {
    let ran = Place::new().run(&["port", "--json", "--guest", "x"]);
    assert_eq!(ran.code, 2);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["version"], 1);
    assert!(value["error"]["message"].as_str().unwrap().contains("invalid value 'x'"), "{value}");
    assert_eq!(ran.stderr, "");
}
