//! What the documentation shows is what the program takes.

use super::Place;

const README: &str = include_str!("../../README.md");

/// The fenced blocks of that language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let open = format!("```{language}\n");
    text.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_example_of_the_readme_is_valid() {
    let (files, envs) = (blocks(README, "toml"), blocks(README, "sh"));
    let ([file], [env]) = (files.as_slice(), envs.as_slice()) else { panic!("one example of each") };
    let place = Place::with(file);
    place.write(".env", env);
    let ran = place.run(&["validate"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn every_command_that_the_readme_shows_is_understood() {
    let place = Place::new();
    let lines = blocks(README, "console").into_iter().flat_map(str::lines);
    let mut count = 0;
    for line in lines.filter_map(|line| line.strip_prefix("$ rvm ")) {
        let verb = line.split_whitespace().find(|word| !word.starts_with('-')).unwrap();
        assert_eq!(place.run(&[verb, "--help"]).code, 0, "rvm {line}");
        count += 1;
    }
    assert!(count > 10);
}

#[test]
fn the_readme_stays_short() {
    assert!(README.lines().count() <= 200);
}
