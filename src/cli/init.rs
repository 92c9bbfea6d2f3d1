//! `rvm init`: a Vagrantfile to start from.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::Args;

use super::app::App;
use super::error::CliError;
use super::{DONE, Outcome};
use crate::config;
use crate::model::Code;

const FILE_NAME: &str = "Vagrantfile";

/// Words of `rvm init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Box to start from: debian/13, debian/12 or micro
    #[arg(value_name = "BOX", default_value = "debian/13", value_parser = box_name)]
    box_name: String,
    /// Replace a Vagrantfile that is there
    #[arg(short, long)]
    force: bool,
    /// Leave the explanations out
    #[arg(short, long)]
    minimal: bool,
    /// Where to write it; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = FILE_NAME)]
    output: String,
}

fn box_name(text: &str) -> Result<String, String> {
    if config::is_box_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a box name looks like `debian/13` or `micro`".into())
    }
}

/// Writes the file.
pub fn run(app: &App, args: &InitArgs) -> Outcome {
    let mut text = config::template(&args.box_name);
    if args.minimal {
        text = without_comments(&text);
    }
    if args.output == "-" {
        app.ui.result(text.trim_end());
        return Ok(DONE);
    }
    let dir = app.cwd()?;
    let path = dir.join(&args.output);
    write(&path, text.as_bytes(), args.force, "`rvm init --force` replaces it")?;
    app.ui.note(&format!("Wrote {}. `rvm up` brings its machine up.", path.display()));
    if let Some(missing) = not_ignored(&dir) {
        app.ui.note(&format!(
            "hint: keep secrets, machine ids and your own settings out of git: add {missing} to .gitignore"
        ));
    }
    Ok(DONE)
}

/// Writes a file of the user's whole or not at all. One that is there stays unless `replace` is set;
/// `hint` then says what replaces it.
pub(super) fn write(path: &Path, data: &[u8], replace: bool, hint: &str) -> Result<(), CliError> {
    store(path, data, replace).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let text = format!("{} is there already: it was left as it is", path.display());
            CliError::failed(Code::FileExists, text).hint(hint)
        }
        _ => CliError::failed(Code::WriteFile, format!("cannot write {}", path.display())).because(&error),
    })
}

/// Writes a temporary file beside `path` and gives it that name, so that a full disk or a crash
/// leaves either the old file or the new one.
fn store(path: &Path, data: &[u8], replace: bool) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let result = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.write_all(data)?;
        file.sync_all()?;
        // A link, unlike a rename, refuses a name that is taken.
        if replace { fs::rename(&temporary, path) } else { fs::hard_link(&temporary, path) }
    })();
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => result.and(Err(error)),
        _ => result,
    }
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if !(line.trim().is_empty() && (out.is_empty() || out.ends_with("\n\n"))) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// Which of our private names the folder's `.gitignore` does not mention.
fn not_ignored(dir: &Path) -> Option<String> {
    let ignored = fs::read_to_string(dir.join(".gitignore")).unwrap_or_default();
    let has = |name: &str| ignored.lines().any(|line| line.trim().trim_matches('/') == name);
    let private = [".rvm", ".env", "Vagrantfile.local.toml"];
    let mut missing: Vec<String> =
        private.into_iter().filter(|name| !has(name)).map(|name| format!("`{name}`")).collect();
    let last = missing.pop()?;
    Some(if missing.is_empty() { last } else { format!("{} and {last}", missing.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("V");
        store(&path, b"one", false).unwrap();
        assert_eq!(store(&path, b"two", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        store(&path, b"three", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn minimal_keeps_settings_only() {
        let text = "# why\n\n[a]\n# more\nx = 1 # same line\n\n\n# end\ny = 2\n\n";
        assert_eq!(without_comments(text), "[a]\nx = 1 # same line\n\ny = 2\n");
    }

    #[test]
    fn the_gitignore_hint() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(not_ignored(dir.path()).as_deref(), Some("`.rvm`, `.env` and `Vagrantfile.local.toml`"));
        fs::write(dir.path().join(".gitignore"), "target\n.rvm/\n").unwrap();
        assert_eq!(not_ignored(dir.path()).as_deref(), Some("`.env` and `Vagrantfile.local.toml`"));
        fs::write(dir.path().join(".gitignore"), "/.rvm/\n.env\nVagrantfile.local.toml\n").unwrap();
        assert_eq!(not_ignored(dir.path()), None);
    }
}
