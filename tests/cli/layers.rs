//! Variables from the command line, and projects of several files.

use super::Place;

const FILE: &str =
    "box = \"micro\"\n[vars]\nWHO = \"web\"\n[[machine]]\nname = \"${WHO}-{i}\"\ncount = \"${COUNT:-2}\"\n";

fn machines(place: &Place, words: &[&str]) -> String {
    let ran = place.run(&[words, &["validate"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout.trim_end().split("Machines: ").nth(1).unwrap().to_owned()
}

#[test]
fn a_variable_is_given_for_once() {
    let place = Place::with(FILE);
    assert_eq!(machines(&place, &[]), "web-1, web-2");
    assert_eq!(machines(&place, &["--var", "COUNT=1"]), "web-1");
    assert_eq!(machines(&place, &["--var", "COUNT=3", "--var=WHO=db"]), "db-1, db-2, db-3");
    let after = place.run(&["status", "--var", "WHO=a", "--var", "COUNT=1"]);
    assert_eq!(after.code, 0, "{}", after.stderr);
    assert!(after.stdout.contains("a-1 ") && !after.stdout.contains("web"), "{}", after.stdout);
}

#[test]
fn a_wrong_variable_is_told() {
    let place = Place::with(FILE);
    for (words, code, text) in [
        (&["validate", "--var", "CUONT=1"][..], 2, "did you mean `COUNT`?"),
        (&["up", "--var", "COUNT=many"], 2, "`count` cannot be"),
        (&["validate", "--var", "COUNT"], 2, "NAME=VALUE"),
        (&["validate", "--var", "=1"], 2, "NAME=VALUE"),
        (&["version", "--var", "COUNT=1"], 2, "has no use for --var"),
    ] {
        let ran = place.run(words);
        assert_eq!(ran.code, code, "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(text), "{words:?}: {}", ran.stderr);
    }
    let json = place.run(&["validate", "--json", "--var", "CUONT=1"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(value["error"]["problems"][0]["help"].as_str().unwrap().contains("COUNT"), "{value}");
}

#[test]
fn the_local_layer_and_includes_count_for_every_command() {
    let place = Place::with(format!("include = \"common.toml\"\n{FILE}"));
    place.write("common.toml", "[vars]\nWHO = \"nobody\"\nCOUNT = 4\n");
    place.write("Vagrantfile.local.toml", "[vars]\nCOUNT = 1\n");
    assert_eq!(machines(&place, &[]), "web-1");
    place.write("Vagrantfile.local.toml", "[vars]\nCOUNT = 1\n[[machine]]\nname = \"x\"\nmemroy = 1\n");
    let ran = place.run(&["validate"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("Vagrantfile.local.toml:5:1") && ran.stderr.contains("memroy = 1"),
        "{}",
        ran.stderr
    );
}
