//! Every wrong Vagrantfile gets a clear error with exit code 2, before anything is touched.

use super::Place;

/// Checks that `validate` and `up` refuse the project alike and change no file; gives the text.
fn refused(place: &Place) -> String {
    let before = place.files();
    let ran = place.run(&["validate"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    for words in [&["up"][..], &["up", "default"], &["status"], &["halt"], &["destroy", "-f"]] {
        let other = place.run(words);
        assert_eq!((other.code, &other.stderr), (2, &ran.stderr), "{words:?}");
    }
    assert_eq!(place.files(), before, "a file was changed");
    let json = place.run(&["validate", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, json.stderr.as_str()), (2, ""));
    assert!(!value["error"]["message"].as_str().unwrap().is_empty(), "{value}");
    ran.stderr
}

/// The same, and the text holds all of `words`.
fn refused_with(place: &Place, words: &[&str]) {
    let text = refused(place);
    for word in words {
        assert!(text.contains(word), "`{word}` is not in:\n{text}");
    }
}

#[test]
fn no_vagrantfile() {
    let text = refused(&Place::new());
    insta::assert_snapshot!(text, @r"
    error[E0201]: no Vagrantfile or Vagrantfile.toml found in [DIR]/project or any folder above it
    hint: run `rvm init` to write one here, or change to the folder of your project
    ");
}

#[test]
fn an_empty_vagrantfile() {
    refused_with(&Place::with(""), &["Vagrantfile", "box"]);
}

#[test]
fn a_vagrantfile_that_is_a_folder() {
    let place = Place::new();
    std::fs::create_dir(place.project().join("Vagrantfile")).unwrap();
    refused_with(&place, &["Vagrantfile is a folder"]);
}

#[test]
fn a_ruby_vagrantfile() {
    let ruby = "# -*- mode: ruby -*-\nVagrant.configure(\"2\") do |config|\n  config.vm.box = \"debian/bookworm64\"\nend\n";
    refused_with(&Place::with(ruby), &["Ruby"]);
}

#[test]
fn a_vagrantfile_that_is_not_utf8() {
    refused_with(&Place::with(b"box = \"micro\"\nhostname = \"caf\xe9\"\n"), &["UTF-8", "2"]);
}

#[test]
fn a_syntax_error_is_pointed_at() {
    let place = Place::with("box = \"micro\"\ncpus = = 2\n");
    refused_with(
        &place,
        &["error[E0205]: not TOML", "[DIR]/project/Vagrantfile:2:8", "2 | cpus = = 2\n", "^"],
    );
}

#[test]
fn an_unknown_key_gets_a_suggestion() {
    let place = Place::with("box = \"micro\"\nmemmory = \"1GiB\"\n");
    refused_with(&place, &["unknown key `memmory`", "Vagrantfile:2:1", "did you mean `memory`?"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let place = Place::with("box = \"micro\"\nmemory = \"lots\"\ncpus = 0\ncolour = \"red\"\n");
    refused_with(&place, &["lots", "cpus", "colour", ":2:", ":3:", ":4:"]);
    let json = place.run(&["validate", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let problems = value["error"]["problems"].as_array().unwrap();
    let lines: Vec<u64> = problems.iter().map(|p| p["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 3, 4]);
}

#[test]
fn ports_out_of_range() {
    for port in ["0", "70000", "-1", "\"http\""] {
        let place = Place::with(format!("box = \"micro\"\n[[port]]\nguest = 80\nhost = {port}\n"));
        refused_with(&place, &["host", ":4:"]);
    }
}

#[test]
fn two_machines_of_one_name() {
    let machine = "[[machine]]\nname = \"web\"\n";
    refused_with(&Place::with(format!("box = \"micro\"\n{machine}{machine}")), &["web", ":5:"]);
}

#[test]
fn an_env_file_that_is_named_but_missing() {
    refused_with(&Place::with("box = \"micro\"\nenv_file = \"secrets.env\"\n"), &["secrets.env", ":2:"]);
}

#[test]
fn an_undefined_variable() {
    refused_with(&Place::with("box = \"micro\"\nhostname = \"${NO_SUCH_NAME}\"\n"), &["NO_SUCH_NAME", ":2:"]);
}

#[test]
fn a_step_that_names_a_missing_value() {
    let step = "box = \"micro\"\n[[provision]]\nshell = \"true\"\nenv = [\"DB_PASSWORD\"]\n";
    refused_with(&Place::with(step), &["DB_PASSWORD", ":4:"]);
}

#[test]
fn no_value_of_the_env_file_is_ever_shown() {
    let place = Place::with("box = \"micro\"\nmemory = \"${DB_PASSWORD}\"\n");
    place.write(".env", "DB_PASSWORD=hunter2-and-more\n");
    let text = refused(&place);
    assert!(!text.contains("hunter2"), "{text}");
    let json = place.run(&["validate", "--json"]);
    assert!(!json.stdout.contains("hunter2"), "{}", json.stdout);
}

#[test]
fn surroundings_that_lead_nowhere() {
    let place = Place::with("box = \"micro\"\n");
    let output = place.command(&["validate"]).env("RVM_CWD", "no/such/folder").output().unwrap();
    let ran = place.finish(output);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("RVM_CWD names `no/such/folder`"), "{}", ran.stderr);

    let output = place.command(&["status"]).env("RVM_HOME", "relative").output().unwrap();
    let ran = place.finish(output);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("RVM_HOME must be an absolute path"), "{}", ran.stderr);

    let output = place.command(&["validate"]).env("RVM_LOG", "===").output().unwrap();
    assert_eq!(place.finish(output).code, 2);
}

#[test]
fn the_file_is_found_from_below_and_by_another_name() {
    let place = Place::with("box = \"micro\"\n");
    std::fs::create_dir_all(place.project().join("a/b")).unwrap();
    let output = place.command(&["validate"]).env("RVM_CWD", "a/b").output().unwrap();
    let ran = place.finish(output);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "[DIR]/project/Vagrantfile is valid. Machines: default\n")
    );

    place.write(
        "Other",
        "[[machine]]\nname = \"one\"\nbox = \"micro\"\n[[machine]]\nname = \"two\"\nbox = \"micro\"\n",
    );
    let output = place.command(&["validate"]).env("RVM_VAGRANTFILE", "Other").output().unwrap();
    let ran = place.finish(output);
    assert_eq!(ran.stdout, "[DIR]/project/Other is valid. Machines: one, two\n");
}
