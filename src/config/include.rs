//! The files that make up a project: the Vagrantfile, what it includes, and the local layer.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use toml::de::DeTable;

use super::merge::{merge, moved};
use super::read::{self, ReadError};
use super::report::brief;
use super::vars::Text;
use super::walk::{Reader, Sp, Table};

/// Files that include one another, the first one not counted.
const DEEPEST: usize = 8;
/// Files of a project.
const MOST_FILES: usize = 64;
/// What an included file is called: no ENV file or key is taken for one, and then shown in a
/// message.
const ENDING: &str = "toml";

/// The files in the order in which they are laid over each other.
#[derive(Default)]
pub(super) struct Layers {
    /// Numbers of files.
    order: Vec<usize>,
    /// All files that were read, by their real paths.
    seen: Vec<PathBuf>,
}

/// Text of a file and by what spans in it are moved.
pub(super) type Moved = (Rc<str>, usize);

impl Layers {
    /// The texts, lowest layer first.
    pub fn texts(&self, reader: &Reader<'_>) -> Vec<Moved> {
        self.order.iter().map(|number| reader.problems.text(*number)).collect()
    }

    /// The tree of all of them. They have been parsed before.
    pub fn tree(texts: &[Moved]) -> DeTable<'_> {
        let mut tree = DeTable::new();
        for (text, base) in texts {
            let (layer, _) = DeTable::parse_recoverable(text);
            let mut layer = moved(layer.into_inner(), *base);
            // Done with; what one layer includes says nothing of the others.
            layer.remove("include");
            merge(&mut tree, layer);
        }
        tree
    }
}

/// The file beside `file` that is laid over it: `Vagrantfile.local.toml`.
pub(super) fn local_of(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    let stem = name.strip_suffix(".toml").unwrap_or(name);
    Some(file.with_file_name(format!("{stem}.local.toml")))
}

impl Reader<'_> {
    /// The layers of the main file, whose tree is `main`: first what it includes, then itself,
    /// then what the local layer includes, then that.
    pub fn layers(&mut self, main: &DeTable<'_>) -> Layers {
        let mut layers = Layers::default();
        let file = self.problems.path(0).to_owned();
        layers.seen.push(file.canonicalize().unwrap_or_else(|_| file.clone()));
        self.visit(0, main, &mut vec![0], &mut layers);
        if let Some(local) = local_of(&file).filter(|local| std::fs::symlink_metadata(local).is_ok()) {
            match read::text(&local) {
                Ok(text) => {
                    layers.seen.push(local.canonicalize().unwrap_or_else(|_| local.clone()));
                    self.add_layer(&local, &text, &mut Vec::new(), &mut layers);
                }
                Err(error) => self.problems.add_elsewhere(
                    &local,
                    None,
                    format!("cannot read this file: {}", fault(&error)),
                    "it is laid over the Vagrantfile beside it; mend it, or move it away",
                ),
            }
        }
        layers
    }

    fn add_layer(&mut self, file: &Path, text: &str, chain: &mut Vec<usize>, layers: &mut Layers) {
        let number = self.problems.add_source(file, text);
        let (text, base) = self.problems.text(number);
        let Some(tree) = self.parse(&text, base) else { return };
        chain.push(number);
        self.visit(number, &tree, chain, layers);
        chain.pop();
    }

    /// Takes what a file includes, then itself. `chain`: the files that include it, and it.
    fn visit(&mut self, number: usize, tree: &DeTable<'_>, chain: &mut Vec<usize>, layers: &mut Layers) {
        let (_, base) = self.problems.text(number);
        let table = Table::unchecked(tree, base..base);
        let (entries, _) = self.one_or_more(&table, "include", "\"common.toml\"");
        for entry in entries {
            if self.problems.is_full() {
                break;
            }
            self.include(&entry, chain, layers);
        }
        layers.order.push(number);
    }

    fn include(&mut self, entry: &Sp<Text>, chain: &mut Vec<usize>, layers: &mut Layers) {
        let shown = brief(&entry.value.shown);
        let Some(real) = self.included_path(entry) else { return };
        if let Some(from) = chain.iter().position(|number| {
            let file = self.problems.path(*number);
            file == real || file.canonicalize().is_ok_and(|file| file == real)
        }) {
            let names: Vec<String> =
                chain.iter().skip(from).map(|number| self.shown_path(self.problems.path(*number))).collect();
            let first = names.first().cloned().unwrap_or_default();
            let message = format!("this file includes itself: {} → {first}", names.join(" → "));
            self.wrong(&entry.span, message, "remove one of these `include`");
            return;
        }
        // Once is enough: its lists would be added twice.
        if layers.seen.contains(&real) {
            return;
        }
        if chain.len() > DEEPEST || layers.seen.len() >= MOST_FILES {
            let message = match chain.len() > DEEPEST {
                true => format!("files include each other more than {DEEPEST} deep"),
                false => format!("this project has more than {MOST_FILES} files"),
            };
            self.wrong(&entry.span, message, "put some of them into one file");
            return;
        }
        layers.seen.push(real.clone());
        match read::text(&real) {
            Ok(text) => self.add_layer(&real, &text, chain, layers),
            Err(error) => {
                let message = format!("cannot include {shown:?}: {}", fault(&error));
                self.wrong(&entry.span, message, "include a text file of TOML that you may read");
            }
        }
    }

    /// The path of an included file, absolute and without links.
    fn included_path(&mut self, entry: &Sp<Text>) -> Option<PathBuf> {
        let shown = brief(&entry.value.shown);
        let is_toml = |path: &Path| path.extension().is_some_and(|ending| ending == ENDING);
        let path = self.resolve_path(entry);
        let real = path.as_ref().map(|path| path.canonicalize());
        let fault = match (&path, &real) {
            (Some(path), _) if !is_toml(path) => "its name does not end in `.toml`".to_owned(),
            (Some(path), Some(Ok(real))) if !is_toml(real) => {
                format!("{} leads to {}, which does not end in `.toml`", path.display(), real.display())
            }
            (Some(_), Some(Ok(real))) => return Some(real.clone()),
            (Some(path), Some(Err(error))) => {
                let why = match error.kind() {
                    std::io::ErrorKind::NotFound => "it does not exist".to_owned(),
                    _ => error.to_string(),
                };
                let help = match entry.value.is_filled() {
                    true => "relative paths start at the folder of the file that includes it".to_owned(),
                    false => format!("it was looked for at {}", path.display()),
                };
                self.wrong(&entry.span, format!("cannot include {shown:?}: {why}"), help);
                return None;
            }
            (None, _) | (_, None) => "`HOME` is not set".to_owned(),
        };
        let help = match path {
            None => "write the whole path",
            Some(_) => "only `.toml` files are included; ENV files are named by `env_file`",
        };
        self.wrong(&entry.span, format!("cannot include {shown:?}: {fault}"), help);
        None
    }

    /// A path as messages show it: from the project folder on where it lies there.
    fn shown_path(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

fn fault(error: &ReadError) -> String {
    match error {
        ReadError::Io(error) => error.to_string(),
        ReadError::NotAFile(what) => format!("it is {what}"),
        ReadError::TooLarge => "it is larger than 1 MiB".into(),
        ReadError::NotText { offset, line } => {
            format!("it is not UTF-8 text (line {line}, byte {offset})")
        }
    }
}
