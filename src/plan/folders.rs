//! How a machine's folders differ from what the file says.

use super::Live;
use super::compare::{Change, How, Subject, mebibytes};
use crate::model::{Folder, FolderKind};

pub(super) fn folders(old: &[Folder], new: &[Folder], live: Option<&Live>, list: &mut Vec<Change>) {
    let find = |folders: &[Folder], guest: &str| folders.iter().find(|f| f.guest == guest).cloned();
    // What the virtual machine itself serves changes with its next start only.
    let stays = |old: &Folder| !old.is_shared();
    let comes = |new: &Folder| !new.is_shared() || live.is_some_and(|live| live.shares.contains(new));
    let how = |is_live: bool| if is_live { How::Live } else { How::Reload };
    for folder in old {
        let subject = Subject::Folder(folder.guest.clone());
        let text = folder_text(folder);
        match find(new, &folder.guest) {
            None => list.push(Change { subject, old: Some(text), new: None, how: how(stays(folder)) }),
            Some(now) if now != *folder => {
                let now_text = match folder_text(&now) {
                    same if same == text => format!("{same}, otherwise"),
                    other => other,
                };
                let how = how(stays(folder) && comes(&now));
                list.push(Change { subject, old: Some(text), new: Some(now_text), how });
            }
            Some(_) => {}
        }
    }
    for folder in new.iter().filter(|folder| find(old, &folder.guest).is_none()) {
        let subject = Subject::Folder(folder.guest.clone());
        let new = Some(folder_text(folder));
        list.push(Change { subject, old: None, new, how: how(comes(folder)) });
    }
}

/// A folder, for people.
pub fn folder_text(folder: &Folder) -> String {
    let mut text = match &folder.kind {
        FolderKind::Shared { host, read_only, .. } => {
            format!("{}{}", host.path.display(), if *read_only { ", read-only" } else { "" })
        }
        FolderKind::Copied { host, delete, .. } => {
            format!("copy of {}{}", host.path.display(), if *delete { "" } else { " that keeps more" })
        }
        FolderKind::Memory { size: Some(size) } => format!("{} of memory", mebibytes(*size)),
        FolderKind::Memory { size: None } => "memory".into(),
    };
    if let Some(owner) = &folder.owner {
        text.push_str(&format!(", of {owner}"));
    }
    if !folder.options.is_empty() {
        text.push_str(&format!(", {}", folder.options.join(",")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostFolder;

    fn shared(host: &str) -> Folder {
        let host = HostFolder { path: host.into(), create: false, hidden: Vec::new() };
        let kind = FolderKind::Shared { host, read_only: false, implied: false };
        Folder { guest: "/srv".into(), kind, owner: None, options: Vec::new() }
    }

    fn copied(exclude: &[&str]) -> Folder {
        let host = HostFolder { path: "/p".into(), create: false, hidden: Vec::new() };
        let exclude = exclude.iter().map(|pattern| pattern.to_string()).collect();
        let kind = FolderKind::Copied { host, exclude, delete: true, watch: true };
        Folder { kind, ..shared("/p") }
    }

    fn told(old: &[Folder], new: &[Folder], live: &Live) -> String {
        let mut list = Vec::new();
        folders(old, new, Some(live), &mut list);
        let texts: Vec<_> =
            list.iter().map(|change| format!("{change} by {}", change.how.as_str())).collect();
        texts.join("; ")
    }

    #[test]
    fn what_the_machine_serves_waits_for_its_next_start() {
        let live = |shares: &[Folder]| Live { shares: shares.to_vec(), ..Live::default() };
        let none = live(&[]);
        assert_eq!(told(&[], &[shared("/p")], &none), "folder /srv /p is new by reload");
        // It was cut off before it was mounted.
        assert_eq!(told(&[], &[shared("/p")], &live(&[shared("/p")])), "folder /srv /p is new by up");
        assert_eq!(
            told(&[shared("/p")], &[shared("/q")], &live(&[shared("/p")])),
            "folder /srv /p → /q by reload"
        );
        assert_eq!(
            told(&[shared("/p")], &[], &live(&[shared("/p")])),
            "folder /srv /p is not in the file any more by reload"
        );
        assert_eq!(told(&[copied(&[])], &[shared("/p")], &none), "folder /srv copy of /p → /p by reload");
    }

    #[test]
    fn copies_are_made_anew_while_it_runs() {
        let live = Live::default();
        assert_eq!(told(&[], &[copied(&[])], &live), "folder /srv copy of /p is new by up");
        assert_eq!(
            told(&[copied(&[])], &[copied(&["*.o"])], &live),
            "folder /srv copy of /p → copy of /p, otherwise by up"
        );
        assert_eq!(told(&[copied(&[])], &[copied(&[])], &live), "");
    }
}
