//! Putting files and folders into a guest: the one script that steps and `rvm copy` share.

use super::quote;

const SCRIPT: &str = include_str!("put.sh");

/// What becomes of standard input in the guest.
#[derive(Debug, Clone, Copy)]
pub struct Put<'a> {
    /// Where it goes in the guest; `~/` and relative paths start at the login user's home.
    pub path: &'a str,
    /// What it is.
    pub kind: PutKind,
    /// The name that it gets where the path is a folder that is there.
    pub name: &'a str,
    /// Make the folders above it, and take `path` as the folder itself rather than put it in there.
    pub parents: bool,
    /// Numbers of the user and the group that it is to belong to; needs `sudo` or a login as root.
    pub owner: Option<(u32, u32)>,
    /// As root of the guest.
    pub sudo: bool,
}

/// What standard input is.
#[derive(Debug, Clone, Copy)]
pub enum PutKind {
    /// A file.
    File {
        /// Bytes, where that is known.
        size: Option<u64>,
        /// Permission bits.
        mode: u32,
    },
    /// A tar archive of what is in a folder.
    Folder {
        /// Permission bits of the folder, where it has to be made.
        mode: Option<u32>,
    },
}

impl Put<'_> {
    /// Exit code when it is in its place. Never 0, which a connection that went away looks like.
    pub const DONE: i32 = 223;
    /// Exit code when the user may not write there; standard error says where.
    pub const DENIED: i32 = 220;

    /// The command for the login user's shell.
    pub fn command(&self) -> String {
        let octal = |mode: Option<u32>| mode.map_or("-".into(), |mode| format!("{mode:o}"));
        let (kind, size, mode) = match self.kind {
            PutKind::File { size, mode } => ("file", size, Some(mode)),
            PutKind::Folder { mode } => ("folder", None, mode),
        };
        let words = [
            self.path.to_owned(),
            kind.to_owned(),
            self.name.to_owned(),
            size.map_or("-".into(), |size| size.to_string()),
            octal(mode),
            if self.parents { "parents" } else { "-" }.to_owned(),
            self.owner.map_or("-".into(), |(user, group)| format!("{user}:{group}")),
        ];
        in_guest(SCRIPT, &words, self.sudo)
    }
}

/// A script for `sh` with arguments; the home of the login user comes before them.
pub fn in_guest(script: &str, words: &[String], sudo: bool) -> String {
    let sudo = if sudo { "sudo -n " } else { "" };
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("{sudo}sh -c {} rvm \"$HOME\" {}", quote(script), words.join(" "))
}
