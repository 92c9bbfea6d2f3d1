//! Folders that a guest mounts: those of the host, through virtiofs, and those in its memory.

use std::time::Duration;

use super::remote::{Fault, Remote, owner_words, printable};
use crate::model::{Folder, FolderKind, hex};

/// The words: how many there are to go, and their places; then five for each that is to be there: type,
/// device, place, options, user, group. Prints a line for each of the latter: `ok UID GID`, or the trouble. All are
/// in /etc/fstab, so that they are there again when the guest reboots by itself.
const MOUNT: &str = r#"
begin='# rvm folders: rvm writes what is between these lines'
end='# rvm folders end'
fstab=/etc/fstab
escaped() { printf '%s' "$1" | sed 's/\\/\\134/g; s/ /\\040/g; s/\t/\\011/g'; }
# What is mounted at $1, as device and type.
at() {
  real=$(readlink -f -- "$1" 2>/dev/null) || real=$1
  place=$(escaped "$real")
  found=
  while read -r device where type _; do
    [ "$where" != "$place" ] || found="$device $type"
  done </proc/self/mounts
  echo "$found"
}
gone=$1; shift
while [ "$gone" -gt 0 ]; do
  case $(at "$1") in
    'rvm-'*' virtiofs' | 'rvm-'*' tmpfs') umount -- "$1" 2>/dev/null || umount -l -- "$1" ;;
  esac
  gone=$((gone - 1)); shift
done
lines=$(mktemp) && new=$(mktemp) || exit 220
trap 'rm -f "$lines" "$new"' EXIT
mount_one() {
  numbers "${5:-${SUDO_USER:-$(id -un)}}" "$6" || { echo "the guest has no user or group $5:$6"; return 1; }
  options=$4
  if [ "$1" = tmpfs ] && [ -n "$5" ]; then options="$options,uid=$uid,gid=$gid"; fi
  printf '%s %s %s %s,nofail 0 0\n' "$2" "$(escaped "$3")" "$1" "$options" >>"$lines"
  mkdir -p -- "$3" || return 1
  case $(at "$3") in
    "$2 tmpfs") mount -o "remount,$options" -- "$3" || return 1 ;;
    "$2 $1") ;;
    *) mount -t "$1" -o "$options" -- "$2" "$3" || return 1 ;;
  esac
}
while [ $# -ge 6 ]; do
  if trouble=$(mount_one "$@" 2>&1); then
    numbers "${5:-${SUDO_USER:-$(id -un)}}" "$6"
    echo "ok $uid $gid"
  else
    echo "no" $trouble
  fi
  shift 6
done
{
  [ ! -e "$fstab" ] || sed "/^$begin\$/,/^$end\$/d" "$fstab"
  if [ -s "$lines" ]; then echo "$begin"; cat "$lines"; echo "$end"; fi
} >"$new" || exit 220
if ! cmp -s "$new" "$fstab"; then
  chmod 644 "$new"
  cp "$new" "$fstab.rvm-new" && chmod 644 "$fstab.rvm-new" && mv "$fstab.rvm-new" "$fstab" || exit 220
  [ ! -d /run/systemd/system ] || systemctl daemon-reload 2>/dev/null
fi
exit 223
"#;

/// A guest that loads modules on a busy host takes its time.
const TIMEOUT: Duration = Duration::from_secs(180);
/// Longest answer that is looked at.
const ANSWER: usize = 64 << 10;

/// Whether the guest mounts such a folder.
pub(super) fn is_mounted(folder: &Folder) -> bool {
    !folder.is_copied()
}

/// By which the guest finds a shared folder. Made of its place, so that a line of the guest's that is left
/// over never leads to another folder.
pub(super) fn tag(guest: &str) -> String {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(guest.as_bytes());
    format!("rvm-{}", hex(digest.get(..8).unwrap_or_default()))
}

/// The numbers of a folder's owner, or why it is not there.
pub(super) type Answer = Result<(u32, u32), String>;

/// Mounts folders, outer ones first, and removes those at the places `gone`. An answer for each folder.
pub(super) fn mount(remote: &Remote<'_>, gone: &[&str], folders: &[&Folder]) -> Result<Vec<Answer>, Fault> {
    let count = gone.len().to_string();
    let mut words: Vec<String> = vec![count];
    // Inner ones go first.
    words.extend(gone.iter().rev().map(|place| (*place).to_owned()));
    for folder in folders {
        words.extend(words_of(folder));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let answer = remote.ask(MOUNT, &words, ANSWER, TIMEOUT)?;
    let mut lines = answer.lines();
    Ok(folders.iter().map(|_| parse(lines.next().unwrap_or_default())).collect())
}

fn words_of(folder: &Folder) -> Vec<String> {
    let (kind, device, mut options) = match &folder.kind {
        FolderKind::Memory { size } => {
            let mode = if folder.owner.is_some() { "mode=755" } else { "mode=1777" };
            let mut options = vec![mode.to_owned()];
            options.extend(size.map(|size| format!("size={size}")));
            ("tmpfs", "rvm-tmpfs".to_owned(), options)
        }
        FolderKind::Shared { read_only, .. } => {
            let access = if *read_only { "ro" } else { "rw" };
            ("virtiofs", tag(&folder.guest), vec![access.to_owned()])
        }
        FolderKind::Copied { .. } => return Vec::new(),
    };
    options.extend(folder.options.iter().cloned());
    let [user, group] = owner_words(folder.owner.as_ref());
    let words = [kind, &device, &folder.guest, &options.join(","), user, group];
    words.map(str::to_owned).into()
}

fn parse(line: &str) -> Answer {
    let numbers = |text: &str| {
        let (uid, gid) = text.split_once(' ')?;
        Some((uid.trim().parse().ok()?, gid.trim().parse().ok()?))
    };
    match line.split_once(' ') {
        Some(("ok", text)) => numbers(text).ok_or_else(|| "the guest's answer is not understood".into()),
        Some(("no", text)) => Err(printable(text).chars().take(300).collect()),
        _ => Err("the guest did not say what became of it".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Owner;

    #[test]
    fn words_for_the_guest() {
        let owner = Some(Owner { user: "www-data".into(), group: None });
        let kind = FolderKind::Memory { size: Some(1 << 20) };
        let folder = Folder { guest: "/a b".into(), kind, owner, options: vec!["noexec".into()] };
        let words = words_of(&folder);
        assert_eq!(words, ["tmpfs", "rvm-tmpfs", "/a b", "mode=755,size=1048576,noexec", "www-data", ""]);
        assert!((1..=36).contains(&tag("/srv").len()));
        assert_ne!(tag("/srv"), tag("/srv/a"));
    }

    #[test]
    fn answers() {
        assert_eq!(parse("ok 1000 33"), Ok((1000, 33)));
        assert_eq!(parse("no mount: unknown\x1b[m filesystem"), Err("mount: unknown[m filesystem".into()));
        for odd in ["", "ok", "ok 1", "ok a b", "yes", "no"] {
            assert!(parse(odd).is_err(), "{odd}");
        }
    }
}
