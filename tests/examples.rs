//! Every project of `examples/` is a valid one as it stands.

use std::path::PathBuf;

use rvm::config;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples")
}

#[test]
fn every_example_is_valid_and_says_what_it_is() {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(root()).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir())
    {
        let folder = entry.path();
        let text = std::fs::read_to_string(folder.join("Vagrantfile")).unwrap();
        assert!(text.starts_with("# "), "{} begins without a word on what it is", folder.display());
        let env = std::fs::read_to_string(folder.join(".env.example")).unwrap_or_default();
        let value = |name: &str| {
            let line = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            let given = line.map(|value| value.trim_matches('\'').to_owned());
            // Shares of a host that is not asked here.
            given.or_else(|| match name {
                "CPUS" | "DEV_CPUS" => Some("2".into()),
                "MEMORY" => Some("512MiB".into()),
                _ => None,
            })
        };
        let project = config::load(&folder.join("Vagrantfile"), &value)
            .unwrap_or_else(|error| panic!("{}", error.render(false)));
        assert!(!project.machines.is_empty());
        seen.push(entry.file_name().into_string().unwrap());
    }
    let list = std::fs::read_to_string(root().join("README.md")).unwrap();
    for name in &seen {
        assert!(list.contains(&format!("]({name}/Vagrantfile)")), "examples/README.md does not name {name}");
    }
    assert!(seen.len() > 5, "{seen:?}");
}

#[test]
fn the_systems_are_all_valid() {
    let folder = root().join("systems");
    for entry in std::fs::read_dir(folder.join("systems")).unwrap().map(Result::unwrap) {
        let name = entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
        let value = |variable: &str| (variable == "SYSTEM").then(|| name.clone());
        let project = config::load(&folder.join("Vagrantfile"), &value)
            .unwrap_or_else(|error| panic!("{name}: {}", error.render(false)));
        assert_eq!(project.machines[0].name, name);
    }
}
