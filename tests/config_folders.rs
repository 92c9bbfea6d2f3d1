//! `[[folder]]`, `folder = false` and `[[volume]]`: what they are read as, and what is refused.

use std::path::{Path, PathBuf};

use rvm::config;
use rvm::model::{DiskSource, Folder, FolderKind, Machine, Project};

/// A project folder with what the files speak of.
fn place(vagrantfile: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("src/deep")).unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    std::fs::write(dir.path().join("Vagrantfile"), vagrantfile).unwrap();
    dir
}

fn load_in(dir: &Path) -> Project {
    let env = |name: &str| (name == "HOME").then(|| dir.display().to_string());
    config::load(&dir.join("Vagrantfile"), &env).unwrap_or_else(|error| panic!("{}", error.render(false)))
}

fn machines(vagrantfile: &str) -> Vec<Machine> {
    load_in(place(vagrantfile).path()).machines
}

fn told(vagrantfile: &str) -> String {
    let dir = place(vagrantfile);
    let error = config::load(&dir.path().join("Vagrantfile"), &|_| None).expect_err("it must be refused");
    let root = std::fs::canonicalize(dir.path()).unwrap();
    error.render(false).replace(root.to_str().unwrap(), "/project")
}

/// Places of the folders, those that nobody asked for in parentheses.
fn guests(machine: &Machine) -> String {
    let place = |folder: &Folder| match folder.is_implied() {
        true => format!("({})", folder.guest),
        false => folder.guest.clone(),
    };
    machine.folders.iter().map(place).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_project_folder_is_there_unless_somebody_says_no() {
    let of = |text: &str| guests(&machines(&format!("box = \"micro\"\n{text}"))[0]);
    assert_eq!(of(""), "(/vagrant)");
    assert_eq!(of("folder = true"), "(/vagrant)");
    assert_eq!(of("folder = false"), "");
    assert_eq!(of("[[folder]]\nguest = \"/vagrant\"\ndisabled = true"), "");
    assert_eq!(of("[[folder]]\nguest = \"/vagrant/\"\nhost = \"src\"\ntype = \"rsync\""), "/vagrant");
    assert_eq!(of("[[folder]]\nguest = \"/srv\"\nhost = \".\""), "/srv (/vagrant)");
    assert_eq!(of("[[disk]]\nname = \"d\"\nsize = \"1GiB\"\nmount = \"/vagrant\""), "");
}

#[test]
fn inner_layers_replace_switch_off_and_add() {
    let text = r#"
box = "micro"
profile = "lean"
[profiles.lean]
[[profiles.lean.folder]]
guest = "/b"
type = "tmpfs"
[[folder]]
host = "."
guest = "/a"
[[folder]]
host = "."
guest = "/b"
[[machine]]
name = "plain"
[[machine]]
name = "none"
folder = false
[[machine]]
name = "own"
[[machine.folder]]
guest = "/a"
disabled = true
[[machine.folder]]
host = "src"
guest = "/a/deep"
[[machine]]
name = "again"
folder = true
"#;
    let machines = machines(text);
    let all: Vec<_> = machines.iter().map(guests).collect();
    assert_eq!(all, ["/a /b (/vagrant)", "", "/a/deep /b (/vagrant)", "/a /b (/vagrant)"]);
    assert!(matches!(machines[0].folders[1].kind, FolderKind::Memory { size: None }));
}

#[test]
fn every_key_has_its_meaning() {
    let text = r#"
box = "micro"
env_file = ["src/.env", "src/.env.local"]
folder = [
  { host = "src", guest = "/a", readonly = true, owner = "www-data:adm", options = ["noexec"] },
  { host = "~/src/deep", guest = "/b", type = "rsync", exclude = ["*.o"], delete = false, watch = false },
  { host = "new/one", guest = "/c", type = "rsync", create = true },
  { guest = "/tmp", type = "tmpfs", size = "64MiB" },
]
"#;
    let dir = place(text);
    std::fs::write(dir.path().join("src/.env"), "A=1\n").unwrap();
    let root = std::fs::canonicalize(dir.path()).unwrap();
    let machine = load_in(dir.path()).machines.remove(0);
    let [a, b, c, tmp, vagrant] = &machine.folders[..] else { panic!("{:?}", machine.folders) };
    let FolderKind::Shared { host, read_only: true, implied: false } = &a.kind else { panic!("{a:?}") };
    assert_eq!((host.path.clone(), host.hidden.clone()), (root.join("src"), vec![PathBuf::from(".env")]));
    assert_eq!(a.owner.as_ref().unwrap().to_string(), "www-data:adm");
    assert_eq!(a.options, ["noexec"]);
    let FolderKind::Copied { host, exclude, delete: false, watch: false } = &b.kind else { panic!("{b:?}") };
    assert_eq!((host.path.clone(), exclude.as_slice()), (root.join("src/deep"), &["*.o".to_owned()][..]));
    let FolderKind::Copied { host, exclude, delete: true, watch: true } = &c.kind else { panic!("{c:?}") };
    assert_eq!((host.path.clone(), host.create), (root.join("new/one"), true));
    assert_eq!(exclude, &[".git/"]);
    assert!(matches!(tmp.kind, FolderKind::Memory { size: Some(size) } if size == 64 << 20));
    // ENV files are kept from the guest wherever the folder begins.
    let hidden = &vagrant.host().unwrap().hidden;
    assert_eq!(hidden, &[PathBuf::from(".env"), PathBuf::from("src/.env")]);
}

#[test]
fn what_is_no_folder_is_refused() {
    let text = r#"
box = "micro"
[[folder]]
host = "src"
[[folder]]
guest = "/a"
[[folder]]
host = "src"
guest = "srv/d"
[[folder]]
host = "src"
guest = "/home/vagrant"
[[folder]]
host = "src"
guest = "/etc"
[[folder]]
host = "/"
guest = "/e"
[[folder]]
host = "src"
guest = "/f"
type = "nfs"
[[folder]]
host = "src"
guest = "/g"
exclude = ["*.o"]
size = "1GiB"
[[folder]]
host = "src"
guest = "/h"
type = "rsync"
exclude = ["- x", ""]
readonly = true
[[folder]]
guest = "/i"
type = "tmpfs"
owner = "a b"
options = ["size=1,uid=0"]
[[folder]]
source = "src"
guest = "/a/"
"#;
    insta::assert_snapshot!("folders", told(text));
}

/// A machine whose folder vanished can still be stopped and removed: the file as such is right.
#[test]
fn a_folder_that_the_host_lacks_is_told_to_who_uses_it() {
    let text = r#"
box = "micro"
[[folder]]
host = "missing"
guest = "/a"
[[folder]]
host = "file"
guest = "/b"
type = "rsync"
[[folder]]
host = "file/in/it"
guest = "/c"
create = true
[[folder]]
host = "new"
guest = "/d"
create = true
[[machine]]
name = "all"
[[machine]]
name = "fewer"
[[machine.folder]]
host = "src"
guest = "/a"
[[machine.folder]]
guest = "/b"
disabled = true
"#;
    let machines = machines(text);
    assert_eq!(guests(&machines[0]), "/a /b /c /d (/vagrant)");
    let told: Vec<_> = machines[0]
        .absent
        .iter()
        .map(|absent| (absent.guest.as_str(), absent.copied, absent.problem.line, absent.problem.column))
        .collect();
    assert_eq!(
        told,
        [("/a", false, Some(4), Some(8)), ("/b", true, Some(7), Some(8)), ("/c", false, Some(11), Some(8))]
    );
    assert_eq!(machines[1].absent, machines[0].absent[2..]);
    let report = config::Report::of_absent(machines.iter().chain(&machines).flat_map(|m| &m.absent)).unwrap();
    let text = report.render(false);
    assert!(text.ends_with("3 problems"), "{text}");
    for part in [
        "cannot use the folder \"missing\": it does not exist",
        "host = \"missing\"",
        "/missing; `create = true` makes it",
        "\"file\" is not a folder",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn folders_that_clash() {
    let text = r#"
box = "micro"
[[disk]]
name = "data"
size = "1GiB"
mount = "/srv"
[[folder]]
host = "src"
guest = "/srv"
[[folder]]
host = "src"
guest = "/a"
[[folder]]
host = "src"
guest = "/a"
[[machine]]
name = "web"
read_only = true
"#;
    insta::assert_snapshot!("folders_that_clash", told(text));
    let many: String = (0..9).map(|n| format!("[[folder]]\nhost = \"src\"\nguest = \"/f{n}\"\n")).collect();
    insta::assert_snapshot!("too_many_folders", told(&format!("box = \"micro\"\n{many}")));
}

#[test]
fn a_volume_is_a_disk_with_a_name() {
    let text = r#"
box = "micro"
[[volume]]
name = "data"
size = "2GiB"
[[volume]]
name = "cache"
size = "1GiB"
filesystem = "none"
shared = true
[[machine]]
name = "db"
[[machine.disk]]
volume = "data"
mount = "/srv"
[[machine.disk]]
name = "scratch"
volume = "cache"
"#;
    let machine = machines(text).remove(0);
    let [data, scratch] = &machine.disks[..] else { panic!("{:?}", machine.disks) };
    assert_eq!((data.name.as_str(), data.mount.as_deref()), ("data", Some("/srv")));
    let DiskSource::Volume(volume) = &data.source else { panic!("{data:?}") };
    assert_eq!((volume.size, volume.filesystem, volume.shared), (2 << 30, true, false));
    let DiskSource::Volume(volume) = &scratch.source else { panic!("{scratch:?}") };
    assert_eq!((scratch.name.as_str(), volume.name.as_str()), ("scratch", "cache"));
    assert!(!volume.filesystem && volume.shared);
}

#[test]
fn what_is_no_volume_is_refused() {
    let text = r#"
box = "micro"
[[volume]]
name = "Data"
size = "2GiB"
[[volume]]
name = "data"
[[volume]]
name = "raw"
size = "1GiB"
filesystem = "none"
[[volume]]
name = "raw"
size = "1GiB"
[[machine]]
name = "a"
volume = "raw"
[[machine.disk]]
volume = "dta"
[[machine.disk]]
volume = "raw"
size = "1GiB"
[[machine.disk]]
volume = "raw"
image = "file"
[[machine]]
name = "b"
[[machine.disk]]
volume = "raw"
mount = "/srv"
[[machine]]
name = "c"
[[machine.disk]]
volume = "raw"
[[machine]]
name = "d"
[[machine.disk]]
volume = "raw"
"#;
    insta::assert_snapshot!("volumes", told(text));
}
