//! `config.vm.synced_folder`.

use super::super::draft::{Out, Table};
use super::super::eval::{Lines, Opt};
use super::super::value::Value;
use super::{Mapper, boolean, find, string};

/// Types that stand for "the very folder", each in its own way.
const SHARED: [&str; 8] = ["virtiofs", "nfs", "smb", "9p", "sshfs", "virtualbox", "parallels", "vmware"];
/// Options of `mount` that mean the same for every file system.
const MOUNT_OPTIONS: [&str; 9] =
    ["noatime", "relatime", "nodiratime", "noexec", "nosuid", "nodev", "sync", "strictatime", "lazytime"];
/// Folders of one list, as `config` has it.
const MOST_FOLDERS: usize = 32;

impl Mapper<'_, '_> {
    pub(super) fn folder(&mut self, scope: usize, args: &[Value], options: &[Opt], at: Lines) {
        if let Err(why) = self.synced_folder(scope, args, options, at) {
            self.lost(at, why);
        }
    }

    fn synced_folder(
        &mut self,
        scope: usize,
        args: &[Value],
        options: &[Opt],
        at: Lines,
    ) -> Result<(), String> {
        let [host, guest, ..] = args else {
            return Err("a shared folder without a place in the guest".into());
        };
        let guest = match string(guest)? {
            Out::Str(guest) if is_place(&guest) => Out::Str(guest.trim_end_matches('/').to_owned()),
            _ => {
                return Err(
                    "folders are at an absolute path of the guest that it does not need itself".into()
                );
            }
        };
        let get = |key: &str| find(options, key).map(|opt| &opt.value);
        let mut entries = vec![("guest", guest)];
        if get("disabled").map_or(Ok(false), boolean)? {
            entries.push(("disabled", Out::Bool(true)));
        } else {
            entries.insert(0, ("host", string(host)?));
            let copied = match get("type") {
                None | Some(Value::Nil) => false,
                Some(value) => match value.as_word() {
                    Some("rsync") => true,
                    Some(word) if SHARED.contains(&word) => false,
                    Some(word) => {
                        return Err(format!(
                            "shared folders of type `{}`",
                            super::super::left::one_line(word)
                        ));
                    }
                    None => string(value).map(|_| false)?,
                },
            };
            if copied {
                entries.push(("type", Out::Str("rsync".into())));
            }
            for opt in options {
                if let Err(why) = self.folder_option(opt, copied, &mut entries) {
                    self.lost(opt.at, format!("`{}` of a shared folder: {why}", opt.key));
                }
            }
            self.owner(options, &mut entries)?;
        }
        self.add_folder(scope, Table { kind: "folder", entries, at });
        Ok(())
    }

    fn folder_option(
        &mut self,
        opt: &Opt,
        copied: bool,
        entries: &mut Vec<(&'static str, Out)>,
    ) -> Result<(), String> {
        let words = |value: &Value| match value {
            Value::List(items) => items.iter().map(string).collect::<Result<Vec<Out>, String>>(),
            other => Ok(vec![string(other)?]),
        };
        match opt.key.as_str() {
            // Read elsewhere.
            "type" | "disabled" | "owner" | "group" => {}
            "create" => {
                if boolean(&opt.value)? {
                    entries.push(("create", Out::Bool(true)));
                }
            }
            "rsync__exclude" if copied => entries.push(("exclude", Out::List(words(&opt.value)?))),
            "rsync__auto" if copied => {
                if !boolean(&opt.value)? {
                    entries.push(("watch", Out::Bool(false)));
                }
            }
            "rsync__args" if copied => {
                let deletes = |word: &Out| matches!(word, Out::Str(word) if word.starts_with("--del"));
                if !words(&opt.value)?.iter().any(deletes) {
                    entries.push(("delete", Out::Bool(false)));
                }
                self.needless(opt.at, "a copy is as with `--archive`, other arguments are not taken");
            }
            "mount_options" if !copied => self.mount_options(opt, words(&opt.value)?, entries),
            key => self.needless(opt.at, format!("`{key}` of a shared folder")),
        }
        Ok(())
    }

    fn mount_options(&mut self, opt: &Opt, words: Vec<Out>, entries: &mut Vec<(&'static str, Out)>) {
        let mut kept = Vec::new();
        for word in words {
            let Out::Str(text) = word else { continue };
            for word in text.split(',').map(str::trim) {
                match word {
                    "ro" => entries.push(("readonly", Out::Bool(true))),
                    "rw" | "" => {}
                    word if MOUNT_OPTIONS.contains(&word) => kept.push(Out::Str(word.to_owned())),
                    word => {
                        let word = super::super::left::one_line(word);
                        self.needless(
                            opt.at,
                            format!("the mount option `{word}`, which is of another file system"),
                        );
                    }
                }
            }
        }
        if !kept.is_empty() {
            entries.push(("options", Out::List(kept)));
        }
    }

    fn owner(&mut self, options: &[Opt], entries: &mut Vec<(&'static str, Out)>) -> Result<(), String> {
        let of = |key: &str| match find(options, key).map(|opt| &opt.value) {
            None | Some(Value::Nil) => Ok(None),
            Some(value) => string(value).map(|out| match out {
                Out::Str(text) => Some(text),
                _ => None,
            }),
        };
        let owner = match (of("owner")?, of("group")?) {
            (None, None) => return Ok(()),
            (Some(user), Some(group)) if user != group => format!("{user}:{group}"),
            (Some(user), _) => user,
            (None, Some(group)) => format!("vagrant:{group}"),
        };
        entries.push(("owner", Out::Str(owner)));
        Ok(())
    }

    /// Vagrant's later call for a place takes the place of the earlier one.
    fn add_folder(&mut self, scope: usize, table: Table) {
        let Some(layer) = self.layers.get_mut(scope) else { return };
        layer.tables.retain(|old| old.kind != "folder" || old.get("guest") != table.get("guest"));
        if layer.tables.iter().filter(|old| old.kind == "folder").count() < MOST_FOLDERS {
            layer.tables.push(table);
        } else {
            let at = table.at;
            self.lost(at, format!("more than {MOST_FOLDERS} folders"));
        }
    }
}

/// Whether `config` takes a folder there.
fn is_place(path: &str) -> bool {
    const NEEDED: [&str; 13] = [
        "", "/bin", "/boot", "/etc", "/home", "/lib", "/lib32", "/lib64", "/root", "/sbin", "/tmp", "/usr",
        "/var",
    ];
    const VIRTUAL: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];
    let path = path.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let plain = |part: &&str| !matches!(*part, "" | "." | "..") && !part.chars().any(char::is_control);
    path.starts_with('/')
        && parts.iter().all(plain)
        && !NEEDED.contains(&path)
        && !VIRTUAL.iter().any(|place| path == *place || path.starts_with(&format!("{place}/")))
        && !(parts.len() == 2 && parts.first() == Some(&"home"))
}

#[cfg(test)]
mod tests {
    use super::is_place;

    #[test]
    fn places_that_the_configuration_takes() {
        assert!(["/vagrant", "/srv/app/", "/home/vagrant/app", "/opt/a b"].into_iter().all(is_place));
        let others = ["", "/", "app", "/etc", "/home/vagrant", "/a/../b", "/dev/shm", "/a//b", "/a\nb"];
        assert!(!others.into_iter().any(is_place));
    }
}
