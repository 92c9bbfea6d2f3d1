//! Looks for the configuration file from a folder upward.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::ruby::looks_like_ruby;

/// The name Vagrant users know.
const NAME: &str = "Vagrantfile";
/// The same file for editors that go by the ending.
const TOML_NAME: &str = "Vagrantfile.toml";

/// The configuration file for a command started in the absolute folder `start`: the
/// nearest `Vagrantfile` or `Vagrantfile.toml` upward from there. With `file_name` only
/// that name (or absolute path) counts.
///
/// Where a folder has both, a Ruby `Vagrantfile` is passed over in favour of the TOML
/// one, so that a project can keep both tools alive; two TOML files are an error.
pub fn find(start: &Path, file_name: Option<&str>) -> Result<PathBuf, ConfigError> {
    for folder in start.ancestors() {
        if let Some(name) = file_name {
            let file = folder.join(name);
            if exists(&file)? {
                return Ok(file);
            }
            continue;
        }
        let (plain, toml) = (folder.join(NAME), folder.join(TOML_NAME));
        match (exists(&plain)?, exists(&toml)?) {
            (false, false) => {}
            (true, false) => return Ok(plain),
            (false, true) => return Ok(toml),
            (true, true) if is_ruby(&plain) => return Ok(toml),
            (true, true) => return Err(ConfigError::Ambiguous { folder: folder.to_owned() }),
        }
    }
    let name = file_name.map_or_else(|| format!("{NAME} or {TOML_NAME}"), str::to_owned);
    Err(ConfigError::NotFound { name, start: start.to_owned() })
}

/// A dangling link counts: reading it then says what is wrong.
fn exists(file: &Path) -> Result<bool, ConfigError> {
    match std::fs::symlink_metadata(file) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(source) => Err(ConfigError::Unreadable { file: file.to_owned(), source }),
    }
}

fn is_ruby(file: &Path) -> bool {
    const ENOUGH: u64 = 64 * 1024;
    if !file.is_file() {
        return false;
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|f| f.take(ENOUGH).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    read.is_ok() && looks_like_ruby(&text) && toml::de::DeTable::parse(&text).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_folder_upward_wins() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(dir.path().join("Vagrantfile"), "box = 'micro'").unwrap();
        assert_eq!(find(&deep, None).unwrap(), dir.path().join("Vagrantfile"));
        std::fs::write(dir.path().join("a/b/Vagrantfile.toml"), "box = 'micro'").unwrap();
        assert_eq!(find(&deep, None).unwrap(), dir.path().join("a/b/Vagrantfile.toml"));
        assert_eq!(find(dir.path(), None).unwrap(), dir.path().join("Vagrantfile"));
    }

    #[test]
    fn nothing_found_names_the_start_and_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(dir.path(), Some("No-such-Vagrantfile")).unwrap_err();
        let text = error.render(false);
        assert!(text.contains("No-such-Vagrantfile") && text.contains("rvm init"), "{text}");
        assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    }

    #[test]
    fn two_toml_files_are_an_error_but_a_ruby_one_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Vagrantfile"), "box = 'micro'").unwrap();
        std::fs::write(dir.path().join("Vagrantfile.toml"), "box = 'micro'").unwrap();
        let error = find(dir.path(), None).unwrap_err();
        assert!(matches!(error, ConfigError::Ambiguous { .. }), "{error}");
        std::fs::write(dir.path().join("Vagrantfile"), "Vagrant.configure('2') do |c|\nend\n").unwrap();
        assert_eq!(find(dir.path(), None).unwrap(), dir.path().join("Vagrantfile.toml"));
    }

    #[test]
    fn a_given_name_is_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Vagrantfile"), "").unwrap();
        std::fs::write(dir.path().join("other.toml"), "").unwrap();
        assert_eq!(find(dir.path(), Some("other.toml")).unwrap(), dir.path().join("other.toml"));
        let absolute = dir.path().join("other.toml");
        assert_eq!(find(Path::new("/"), absolute.to_str()).unwrap(), absolute);
    }
}
