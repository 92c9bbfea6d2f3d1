//! The JSON schema says what the reader says: what one takes the other takes, and examples and
//! documents pass both.

mod schema_support;

use std::path::{Path, PathBuf};

use rvm::config::{self, Host, Inputs};
use schema_support::Validator;
use serde_json::{Map, Value, json};

fn validator() -> Validator {
    Validator::new(config::schema())
}

/// What the schema has against a text of TOML.
fn faults(validator: &Validator, text: &str) -> Vec<String> {
    let tree: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    validator.faults(&tree)
}

fn passes(validator: &Validator, text: &str, name: &str) {
    let faults = faults(validator, text);
    assert!(faults.is_empty(), "{name}: {faults:#?}");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The problems that the reader has with a text, as one.
fn read(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Vagrantfile"), text).unwrap();
    let host = Some(Host { cpus: 4, memory: 8 << 30 });
    let inputs = Inputs { env: &|_| None, vars: &[], host };
    config::load_with(&dir.path().join("Vagrantfile"), &inputs)
        .map_or_else(|e| e.to_string(), |_| String::new())
}

#[test]
fn it_is_a_schema_of_draft_7() {
    let schema = config::schema();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    assert_eq!(schema["definitions"]["port"]["properties"]["protocol"]["default"], "tcp");
    let described = schema["properties"]["boot_timeout"]["description"].as_str().unwrap();
    assert_eq!(described, "How long `rvm up` waits for SSH.");
}

/// Every key has a description, and says nothing in Markdown that a reader of plain text cannot read.
#[test]
fn every_key_is_described() {
    let schema = config::schema();
    let mut seen = 0;
    for (place, table) in tables(&schema) {
        for (key, property) in table["properties"].as_object().unwrap() {
            let text = property["description"].as_str().unwrap_or_else(|| panic!("{place}.{key}"));
            assert!(
                !text.is_empty() && !text.contains("](#") && !text.contains("**"),
                "{place}.{key}: {text}"
            );
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn examples_pass_the_schema_and_the_reader() {
    let validator = validator();
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let folder = entry.unwrap().path();
        for name in ["Vagrantfile", "Vagrantfile.toml"] {
            let file = folder.join(name);
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            passes(&validator, &text, &file.display().to_string());
            let copy = tempfile::tempdir().unwrap();
            copy_folder(&folder, copy.path());
            // What is not committed is made from its example, as the user is told to.
            if let Ok(example) = std::fs::read_to_string(folder.join(".env.example")) {
                std::fs::write(copy.path().join(".env"), example).unwrap();
            }
            let host = Some(Host { cpus: 4, memory: 8 << 30 });
            let env = |name: &str| (name == "HOME").then(|| copy.path().display().to_string());
            let inputs = Inputs { env: &env, vars: &[], host };
            config::load_with(&copy.path().join(name), &inputs).unwrap_or_else(|error| panic!("{error}"));
            seen += 1;
        }
    }
    assert!(seen >= 1, "{seen} examples");
    let example = std::fs::read_to_string(root().join("Vagrantfile.example")).unwrap();
    passes(&validator, &example, "Vagrantfile.example");
    let whole: String = example
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    passes(&validator, &whole, "Vagrantfile.example, uncommented");
    passes(&validator, &config::template("micro"), "what `rvm init` writes");
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if entry.file_name() != ".rvm" {
                std::fs::create_dir(&target).unwrap();
                copy_folder(&entry.path(), &target);
            }
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_toml_block_of_the_documents_passes() {
    let validator = validator();
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|ending| ending != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            passes(&validator, block, &format!("{}:\n{block}", file.display()));
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn wrong_files_are_refused() {
    let validator = validator();
    for text in [
        "bocks = 'micro'",
        "cpus = 0",
        "cpus = 'some'",
        "cpus = 1.5",
        "memory = '5XB'",
        "nested = 'yes'",
        "provider = 'kvmm'",
        "boot_timeout = 'soon'",
        "boot_timeout = 100000",
        "env_file = 5",
        "name = 'web'",
        "vars = { '1A' = 1 }",
        "vars = { A = [] }",
        "[[machine]]",
        "[[machine]]\nname = 'a'\ncount = 257",
        "[[machine]]\nname = 'a'\n[[machine.port]]\nguest = 80",
        "[[port]]\nguest = 80\nhost = 70000",
        "[[port]]\nguest = 80\nhost = '8o'",
        "[[provision]]\nrun = 'no'",
        "[[provision]]\nfile = { source = 'x' }",
        "[profiles.a]\nname = 'x'",
        "[[disk]]\nname = 'd'\nsize = 5",
    ] {
        assert!(!faults(&validator, text).is_empty(), "{text}");
        assert!(!read(&format!("box = 'micro'\n{text}")).is_empty(), "{text}");
    }
    passes(
        &validator,
        "cpus = '${CPUS}'\nmemory = '${M:-1GiB}'\nnested = '${N}'\nprovider = '${P}'",
        "variables",
    );
}

/// The tables that the schema describes, by their names in it.
fn tables(schema: &Value) -> Vec<(String, &Value)> {
    let definitions = schema["definitions"].as_object().unwrap().iter();
    std::iter::once(("top".to_owned(), schema))
        .chain(definitions.map(|(name, v)| (name.clone(), v)))
        .collect()
}

/// A file that sets one key of one table, and what that table cannot do without.
fn file_with(schema: &Value, place: &str, key: &str, value: Value) -> String {
    let table = if place == "top" { schema } else { &schema["definitions"][place] };
    let mut entries = Map::new();
    for required in table["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let sample = match required {
            "name" => json!("x"),
            "guest" | "host" => json!(8000),
            _ => json!("Vagrantfile"),
        };
        entries.insert(required.into(), sample);
    }
    // What the reader wants beside a key before it looks at that.
    match (place, key) {
        ("disk", "format") => _ = entries.insert("image".into(), json!("Vagrantfile")),
        ("disk", "filesystem") => _ = entries.insert("size".into(), json!("1GiB")),
        _ => {}
    }
    if place == "disk" {
        entries.insert("name".into(), json!("x"));
    }
    entries.insert(key.into(), value);
    let entries = Value::Object(entries);
    let root = match place {
        "top" => entries,
        "profile" => json!({ "profiles": { "x": entries } }),
        "ssh" => json!({ place: entries }),
        "file" | "docker" => json!({ "provision": [{ place: entries }] }),
        "container" => json!({ "provision": [{ "docker": { "container": [entries] } }] }),
        place => json!({ place: [entries] }),
    };
    let root: toml::Table = serde_json::from_value(root).unwrap();
    let head = if place == "top" && key == "box" { "" } else { "box = 'micro'\n" };
    format!("{head}{}", toml::to_string(&root).unwrap())
}

/// Ranges and words of the schema are those of the reader.
#[test]
fn ranges_and_words_are_those_of_the_reader() {
    let schema = config::schema();
    let (mut ranges, mut words) = (0, 0);
    for (place, table) in tables(&schema) {
        for (key, property) in table["properties"].as_object().unwrap() {
            let refuses = |value: Value| {
                let text = file_with(&schema, &place, key, value);
                read(&text).contains(&format!("`{key}` cannot be"))
            };
            for form in property["anyOf"].as_array().into_iter().flatten() {
                if let (Some(least), Some(most)) = (form["minimum"].as_i64(), form["maximum"].as_i64()) {
                    assert!(!refuses(json!(least)) && !refuses(json!(most)), "{place}.{key}");
                    assert!(refuses(json!(least - 1)) && refuses(json!(most + 1)), "{place}.{key}");
                    ranges += 1;
                }
                for word in form["enum"].as_array().into_iter().flatten() {
                    assert!(!refuses(word.clone()), "{place}.{key} = {word}");
                    words += 1;
                }
                assert!(form["enum"].is_null() || refuses(json!("nonsense")), "{place}.{key}");
            }
        }
    }
    assert!(ranges > 10 && words > 15, "{ranges} {words}");
}
