//! What the documentation shows is what the program takes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Place;

const README: &str = include_str!("../../README.md");
const VAGRANT: &str = include_str!("../../docs/vagrant.md");
const CONFIG: &str = include_str!("../../docs/config.md");

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
fn the_readme_lists_every_command() {
    let listed = Place::new().run(&["list-commands"]).stdout;
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    let missing: Vec<&str> = names.filter(|name| !README.contains(&format!("`rvm {name}"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_readme_stays_short() {
    assert!(README.lines().count() <= 200);
}

/// The second column of the tables of a section of docs/vagrant.md: the parts in backquotes.
fn ours(section: &str) -> Vec<&'static str> {
    let (_, rest) = VAGRANT.split_once(&format!("\n## {section}\n")).expect("a section of that name");
    let text = rest.split("\n## ").next().unwrap();
    let cells = text.lines().filter(|line| line.starts_with('|')).filter_map(|line| {
        // An escaped bar is none between cells.
        line.split(" | ").nth(1)
    });
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// The commands below `words`, as their help lists them.
pub fn commands(place: &Place, words: &[&str]) -> Vec<String> {
    let words: Vec<&str> = words.iter().copied().chain(["--help"]).collect();
    let help = place.run(&words).stdout;
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    let names =
        lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[test]
fn the_vagrant_table_names_commands_and_options_that_exist() {
    let place = Place::new();
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    for span in ours("Commands and options").into_iter().filter_map(|span| span.strip_prefix("rvm")) {
        let words: Vec<&str> = span.split_whitespace().collect();
        let verbs: Vec<&str> = words.iter().copied().take_while(|word| !word.starts_with('-')).collect();
        let help = helps.entry(verbs.join(" ")).or_insert_with(|| {
            let ran = place.run(&verbs.iter().copied().chain(["--help"]).collect::<Vec<_>>());
            assert_eq!(ran.code, 0, "`rvm{span}`: {}", ran.stderr);
            ran.stdout
        });
        let known: BTreeSet<&str> = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
        for option in &words[verbs.len()..] {
            assert!(known.contains(option), "`rvm{span}`: there is no {option}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} options");
}

#[test]
fn the_vagrant_table_has_every_command() {
    let place = Place::new();
    let named: BTreeSet<Vec<&str>> = ours("Commands and options")
        .into_iter()
        .filter_map(|span| span.strip_prefix("rvm "))
        .map(|span| span.split_whitespace().take_while(|word| !word.starts_with('-')).collect())
        .collect();
    for command in commands(&place, &[]).into_iter().filter(|name| name != "help") {
        let below = commands(&place, &[&command]);
        let all: Vec<Vec<&str>> = match below.is_empty() {
            true => vec![vec![&command]],
            false => {
                below.iter().filter(|name| *name != "help").map(|name| vec![command.as_str(), name]).collect()
            }
        };
        for words in all {
            assert!(named.contains(&words), "docs/vagrant.md has no row for `rvm {}`", words.join(" "));
        }
    }
}

#[test]
fn the_vagrant_table_names_keys_that_exist() {
    let keys = ours("Configuration");
    assert!(keys.len() > 30);
    for key in keys {
        assert!(CONFIG.contains(&format!("| `{key}` |")), "docs/config.md has no row for `{key}`");
    }
}

/// The tests that docs/testing.md names are there.
#[test]
fn the_proofs_of_bad_input_exist() {
    let page = include_str!("../../docs/testing.md");
    let section = page.split("\n## Bad input\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut seen = 0;
    for row in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let proofs = row.split(" | ").nth(1).unwrap_or_else(|| panic!("{row}"));
        let words: Vec<&str> = proofs.split('`').skip(1).step_by(2).collect();
        assert!(!words.is_empty() && words.len().is_multiple_of(2), "{row}");
        for pair in words.chunks(2) {
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            let text =
                std::fs::read_to_string(root.join(pair[1])).unwrap_or_else(|e| panic!("{}: {e}", pair[1]));
            assert!(text.contains(&format!("fn {}(", pair[0])), "{} has no test {}", pair[1], pair[0]);
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

/// All Rust files below a folder of the repository, by path.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The tests and files that docs/security.md and docs/virtio.md name as proofs are there. A test is known by its
/// name: at least three words, or the file that it is in before it.
#[test]
fn the_proofs_of_security_exist() {
    const NO_TESTS: [&str; 1] = ["no_new_privs"];
    let all: Vec<_> = ["tests", "src"].into_iter().flat_map(sources).collect();
    let pages = [
        ("docs/security.md", include_str!("../../docs/security.md"), 20),
        ("docs/virtio.md", include_str!("../../docs/virtio.md"), 200),
    ];
    for (page, text, least) in pages {
        let is_name = |span: &str| {
            let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
            let (file, name) = span.rsplit_once("::").unwrap_or(("", span));
            let words = name.split('_').filter(|word| !word.is_empty()).count();
            span.chars().all(letters)
                && (words > 2 || words == 2 && !file.is_empty())
                && !NO_TESTS.contains(&span)
        };
        let spans: BTreeSet<&str> =
            text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect();
        let names: Vec<&str> = spans.iter().copied().filter(|span| is_name(span)).collect();
        assert!(names.len() >= least, "{page} names {} tests", names.len());
        for span in names {
            let (file, name) = span.rsplit_once("::").unwrap_or(("", span));
            // Cases that run over both transports are in a file of their own.
            let is_there = |(path, text): &(PathBuf, String)| {
                let stem = path.file_stem().unwrap().to_str().unwrap();
                let here = file.is_empty() || stem == file || stem == "states";
                here && (text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<")))
            };
            assert!(all.iter().any(is_there), "{page} names `{span}`, which is nowhere");
        }
        let files = spans.iter().filter(|span| span.starts_with("tests/") || span.starts_with("src/"));
        for file in files {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{page} names `{file}`");
        }
    }
}
