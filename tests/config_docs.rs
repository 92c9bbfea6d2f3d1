//! The examples that people copy are valid files.

use std::path::{Path, PathBuf};

use rvm::config::{self, Host, Inputs};
use rvm::model::Project;

const ENV: &str = "DB_HOST=db\nDB_NAME=shop\nDB_USER=shop\nDB_PASSWORD='p4$$ w0rd'\nGREETING=hello\n";

fn read(name: &str) -> Option<String> {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)).ok()
}

/// Loads `text` in a folder that has the files the examples speak of.
fn load(text: &str, what: &str) -> Project {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("Vagrantfile", text);
    write(".env", ENV);
    write("scripts/setup.sh", "true\n");
    write("site/index.html", "hello\n");
    write("images/samples.raw", "");
    write("site.yml", "- hosts: all\n");
    let host = Some(Host { cpus: 4, memory: 8 << 30 });
    config::load_with(&dir.path().join("Vagrantfile"), &Inputs { env: &|_| None, vars: &[], host })
        .unwrap_or_else(|error| panic!("{what}:\n{text}\n{error}"))
}

/// The fenced blocks of a language, with the line that each begins on.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<(usize, &'t str)> {
    let fence = format!("```{language}\n");
    let starts = text.match_indices(fence.as_str());
    starts
        .map(|(at, _)| {
            let body = &text[at + fence.len()..];
            (text[..at].matches('\n').count() + 1, &body[..body.find("```").expect("a closed block")])
        })
        .collect()
}

#[test]
fn the_example_is_valid_as_it_stands() {
    let project = load(&read("Vagrantfile.example").unwrap(), "Vagrantfile.example");
    let names: Vec<_> = project.machines.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["web", "db"]);
    let steps: Vec<_> = project.machines[1].steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(steps, ["tools", "postgresql", "schema"]);
}

#[test]
fn the_example_is_valid_with_everything_that_is_commented_out() {
    let text = read("Vagrantfile.example").unwrap();
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(text, uncommented);
    let project = load(&uncommented, "Vagrantfile.example, uncommented");
    assert_eq!(project.machines[0].steps.len(), 5);
}

#[test]
fn every_toml_block_of_the_documents_is_valid() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut files: Vec<String> = std::fs::read_dir(docs)
        .unwrap()
        .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_string_lossy()))
        .filter(|name| name.ends_with(".md"))
        .collect();
    files.push("README.md".into());
    let mut seen = 0;
    for file in files {
        let Some(text) = read(&file) else { continue };
        for (line, block) in blocks(&text, "toml") {
            // Fragments stand for the rest of a file.
            let has_box = block.lines().any(|line| line.starts_with("box"));
            let whole = if has_box { block.to_owned() } else { format!("box = \"micro\"\n{block}") };
            load(&whole, &format!("{file}:{line}"));
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen} blocks");
}

#[test]
fn the_env_file_of_the_reference_is_valid() {
    let text = read("docs/config.md").unwrap();
    let [(_, block)] = blocks(&text, "sh")[..] else { panic!("one block") };
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join(".ssh/id_ed25519");
    std::fs::create_dir_all(key.parent().unwrap()).unwrap();
    std::fs::write(&key, "key").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(dir.path().join(".env"), block).unwrap();
    let names = "['DB_NAME', 'DB_PASSWORD', 'MOTD']";
    let vagrantfile = format!("box = 'micro'\n[[provision]]\nshell = 'true'\nenv = {names}\n");
    std::fs::write(dir.path().join("Vagrantfile"), vagrantfile).unwrap();
    let home = dir.path().to_str().unwrap().to_owned();
    let env = |name: &str| (name == "HOME").then(|| home.clone());
    let project = config::load(&dir.path().join("Vagrantfile"), &env).unwrap_or_else(|e| panic!("{e}"));
    let values: Vec<_> = project.machines[0].steps[0].env.iter().map(|(_, v)| v.expose()).collect();
    assert_eq!(values, ["shop", "p4$$ w0rd", "first line\nsecond line"]);
    assert_eq!(project.login.user, "deploy");
}
