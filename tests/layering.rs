//! The rooms of the crate and the one direction of data: fails when a module imports
//! against it. `docs/architecture.md` draws the same table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may import. A room that is not here may not exist.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("vmm", &[]),
    ("state", &["model"]),
    ("net", &["model", "vmm", "state"]),
    ("ssh", &["model"]),
    ("image", &["model", "state"]),
    ("import", &[]),
    ("config", &["model"]),
    ("plan", &["model"]),
    ("provision", &["model", "ssh", "state"]),
    ("provider", &["model", "state", "net", "vmm"]),
    ("machine", &["model", "vmm", "state", "net", "ssh", "image", "plan", "provision", "provider"]),
    (
        "cli",
        &[
            "model",
            "vmm",
            "state",
            "net",
            "ssh",
            "image",
            "import",
            "config",
            "plan",
            "provision",
            "provider",
            "machine",
        ],
    ),
];

/// Rooms that print and read the environment.
const OUTER: &[&str] = &["cli"];
/// What only [`OUTER`] may use. The process of a machine reports to the one that started it.
const OUTER_ONLY: &[(&str, &[&str])] = &[
    ("println!", &[]),
    ("print!", &[]),
    ("env::var(", &[]),
    ("env::vars(", &[]),
    ("env::current_dir(", &[]),
    ("eprintln!", &["src/provider/process.rs", "src/provider/share.rs", "src/net/switch/process.rs"]),
];

/// Lines of a source file; more means that it does more than one thing.
const MOST_LINES: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `dir`, relative to the project, sorted.
fn rust_files(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(dir)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The room of a file under `src`; `None` for `lib.rs` and `main.rs`.
fn room_of(path: &Path) -> Option<String> {
    let mut parts = path.components().skip(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
    let first = parts.next()?;
    match parts.next() {
        Some(_) => Some(first),
        None => first.strip_suffix(".rs").filter(|name| !matches!(*name, "lib" | "main")).map(str::to_owned),
    }
}

/// How many `super::` lead from a module of that file to the root of the crate.
fn depth_of(path: &Path) -> usize {
    let parts = path.components().count() - 1;
    if path.file_name().is_some_and(|name| name == "mod.rs") { parts - 1 } else { parts }
}

/// A line without its comment. Strings that hold `//` lose their end, which hides no import.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The rooms (or items of the root) that a path starting at the root names: `a::b` names `a`,
/// `{a, b::{c, d}}` names `a` and `b`.
fn heads(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![identifier(rest).to_owned()];
    };
    let mut found = Vec::new();
    let (mut depth, mut fresh) = (0, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && depth == 0 && (c.is_ascii_alphabetic() || c == '_') => {
                found.push(identifier(&group[at..]).to_owned());
                fresh = false;
            }
            _ => {}
        }
    }
    found
}

/// Whatever a source text takes from the root of the crate.
fn imports(source: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inline = 0;
    let mut rootward = String::new();
    for line in source.lines().map(code) {
        if line.starts_with("mod ") && line.trim_end().ends_with('{') {
            inline = 1;
        } else if line.starts_with('}') {
            inline = 0;
        }
        // A chain of `super` that reaches the root is a `crate` in other words.
        let chain = "super::".repeat(depth + inline);
        rootward.push_str(&line.replace(&chain, "crate::"));
        rootward.push('\n');
    }
    for (at, word) in rootward.match_indices("crate::") {
        let before = rootward[..at].chars().next_back();
        if before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        found.extend(heads(&rootward[at + word.len()..]));
    }
    found
}

fn allowed(room: &str) -> Option<&'static [&'static str]> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, may)| *may)
}

#[test]
fn no_room_imports_against_the_direction_of_data() {
    let mut wrong = Vec::new();
    for path in rust_files("src") {
        let Some(room) = room_of(&path) else { continue };
        let Some(may) = allowed(&room) else {
            wrong.push(format!("{}: `{room}` is no room of the table", path.display()));
            continue;
        };
        for import in imports(&read(&path), depth_of(&path)) {
            if import != room && !may.contains(&import.as_str()) {
                wrong.push(format!("{}: `{room}` may not use `crate::{import}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the direction of data:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_way_back() {
    for (at, (room, may)) in ROOMS.iter().enumerate() {
        let earlier: Vec<&str> = ROOMS[..at].iter().map(|(name, _)| *name).collect();
        for import in *may {
            assert!(earlier.contains(import), "`{room}` uses `{import}`, which is not below it");
        }
    }
}

#[test]
fn every_room_is_there_and_drawn() {
    let drawing = read(Path::new("docs/architecture.md"));
    let library = read(Path::new("src/lib.rs"));
    for (room, may) in ROOMS {
        assert!(library.contains(&format!("mod {room};")), "no room `{room}` in src/lib.rs");
        let uses = if may.is_empty() { "nothing".to_owned() } else { may.join(", ") };
        let row = format!("| `{room}` | {uses} |");
        assert!(drawing.contains(&row), "docs/architecture.md lacks the row: {row}");
    }
}

#[test]
fn only_the_outermost_room_prints_and_reads_the_environment() {
    let mut wrong = Vec::new();
    for path in rust_files("src") {
        let outer = room_of(&path).is_none_or(|room| OUTER.contains(&room.as_str()));
        if outer || path.ends_with("tests.rs") {
            continue;
        }
        let source = read(&path);
        let product = source.split("#[cfg(test)]\nmod ").next().unwrap_or("");
        for (number, line) in product.lines().map(code).enumerate() {
            for (call, but) in OUTER_ONLY {
                let excepted = but.iter().any(|other| path == Path::new(other));
                let found = line
                    .match_indices(call)
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
                if found && !excepted {
                    wrong.push(format!("{}:{}: {call}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "only `cli` prints and reads the environment:\n{}", wrong.join("\n"));
}

#[test]
fn no_file_grows_beyond_reading() {
    let long: Vec<String> = ["src", "tests"]
        .iter()
        .flat_map(|dir| rust_files(dir))
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > MOST_LINES)
        .map(|(lines, path)| format!("{} has {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "more than {MOST_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn the_parser_sees_every_kind_of_import() {
    let source = "use crate::vmm::Spec;\nuse crate::{\n    cli::{self, up},\n    net,\n};\nfn f() { crate::ssh::x() }\n\
                  // use crate::config::X;\nuse super::super::image::Y;\n$crate::model::Z\n";
    let found = imports(source, 2);
    let words: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(words, ["cli", "image", "net", "ssh", "vmm"]);
    assert_eq!(depth_of(Path::new("src/cli/mod.rs")), 1);
    assert_eq!(depth_of(Path::new("src/cli/ui/text.rs")), 3);
    assert_eq!(room_of(Path::new("src/cli/ui/text.rs")).as_deref(), Some("cli"));
    assert_eq!(room_of(Path::new("src/lib.rs")), None);
}
