//! Being root for files only: a user namespace, where the user is not root already.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::getuid;

use super::ImageError;
use super::tool::{Tool, require};
use crate::model::Cancel;
use crate::state::store;

/// How the files of a box can belong to many users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// The user is root.
    Root,
    /// The user has subordinate ids (subuid(5)), which a user namespace maps.
    SubIds,
}

/// Which rights there are; an error that says how to get them when there are none.
pub(super) fn check(doing: &str) -> Result<Rights, ImageError> {
    let uid = getuid();
    if uid.is_root() {
        return Ok(Rights::Root);
    }
    require("newuidmap", "uidmap", doing)?;
    require("newgidmap", "uidmap", doing)?;
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let user = user_name(uid.as_raw(), &read("/etc/passwd"));
    // Where a directory service gives the ids, no file has them.
    let from_service = read("/etc/nsswitch.conf").lines().any(|line| line.trim_start().starts_with("subid:"));
    for file in ["/etc/subuid", "/etc/subgid"] {
        if !from_service && !has_ids(&read(file), &user, uid.as_raw()) {
            return Err(ImageError::NoSubIds { user, file });
        }
    }
    Ok(Rights::SubIds)
}

/// Name of a user in passwd(5), else the number.
fn user_name(uid: u32, passwd: &str) -> String {
    let wanted = uid.to_string();
    let is_user = |line: &&str| line.split(':').nth(2) == Some(&wanted);
    let line = passwd.lines().find(is_user).unwrap_or(&wanted);
    line.split(':').next().unwrap_or(&wanted).to_owned()
}

/// Whether subuid(5) gives the user any range, by name or by number.
fn has_ids(table: &str, user: &str, uid: u32) -> bool {
    table.lines().any(|line| {
        let mut fields = line.split(':');
        let owner = fields.next().unwrap_or_default();
        let count = fields.nth(1).and_then(|count| count.trim().parse::<u32>().ok());
        (owner == user || owner.parse() == Ok(uid)) && count.is_some_and(|count| count >= 65_536)
    })
}

/// A command that runs with root's rights over the user's files; the program and its arguments
/// are still to be added.
pub(super) fn as_root(rights: Rights, doing: &str) -> Result<Tool, ImageError> {
    match rights {
        Rights::Root => Ok(Tool::new(doing, &require("env", "coreutils", doing)?)),
        Rights::SubIds => {
            let mut tool = Tool::new(doing, &require("unshare", "util-linux", doing)?);
            tool.command().args(["--map-root-user", "--map-auto", "--"]);
            Ok(tool)
        }
    }
}

/// Removes a folder even where a build left files of other (subordinate) users in it.
pub(super) fn remove(path: &Path) -> Result<(), ImageError> {
    match store::remove(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !getuid().is_root() => {
            let mut tool = as_root(Rights::SubIds, "remove what a build left")?;
            tool.command().args(["rm", "-rf", "--"]).arg(path);
            // Nothing large: it is not worth an interruption.
            tool.run(&Cancel::new(), |_| ())
        }
        other => other.map_err(ImageError::io("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_by_name_and_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1001:1001::/home/ann:/bin/sh\n";
        assert_eq!(user_name(1001, passwd), "ann");
        assert_eq!(user_name(7, passwd), "7");
        let table = "bob:100000:65536\n1001:200000:65536\neve:300000:10\nbad line\n";
        assert!(has_ids(table, "bob", 5));
        assert!(has_ids(table, "ann", 1001));
        assert!(!has_ids(table, "eve", 6));
        assert!(!has_ids(table, "carl", 7));
        assert!(!has_ids("", "ann", 1001));
    }

    #[test]
    fn missing_ids_come_with_a_command() {
        let error = ImageError::NoSubIds { user: "ann".into(), file: "/etc/subuid" };
        assert!(error.hint().unwrap().contains("usermod --add-subuids 100000-165535"));
    }
}
