//! Shared folders, as a guest's kernel uses them.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::MICRO;
use super::events::changes_are_events;
use crate::common::Project;

/// One machine with the project folder and one for reading: what goes on on one side is seen on the other.
pub fn a_shared_folder_is_one_folder(provider: &str) {
    let more = "[[folder]]\nhost = \"../fixed\"\nguest = \"/srv/fixed\"\nreadonly = true\n\
                [[folder]]\nhost = \"../tiny\"\nguest = \"/srv/tiny\"\n";
    let project = Project::new(provider, &format!("{MICRO}{more}"));
    let outside = project.root.parent().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "of the host").unwrap();
    let fixed = project.root.parent().unwrap().join("fixed");
    fs::create_dir(&fixed).unwrap();
    fs::write(fixed.join("file"), "fixed").unwrap();
    project.write("src/file", "from the host");
    up_with_a_tiny_disk(&project);
    assert_eq!(
        project.ssh("cat /vagrant/src/file; stat -c ' %U %G' /vagrant/src/file"),
        "from the host vagrant vagrant"
    );

    owners(&project);
    changes_of_the_host(&project);
    changes_are_events(&project, &fixed);
    much_work(&project);
    both_at_once(&project);
    names(&project);
    full_disk(&project);
    programs_of_the_host(&project);
    no_way_out(&project, &outside);
    read_only(&project, &fixed);

    // A machine that another namespace started is like any other. What is open when the guest goes down hard is no trouble for the next one.
    project.ssh("nohup tail -f /vagrant/src/file >/dev/null 2>&1 &");
    project.rvm(&["reload"]).ok();
    assert_eq!(project.ssh("cat /vagrant/src/file"), "replaced");

    // A folder that goes away is an error in the guest, and the machine goes on. Another one of that name is
    // another folder.
    fs::remove_dir_all(&fixed).unwrap();
    fs::create_dir(&fixed).unwrap();
    fs::write(fixed.join("file"), "another").unwrap();
    project.rvm(&["ssh", "-c", "cat /srv/fixed/file"]).code(1).says("can't open");
    assert_eq!(project.ssh("cat /vagrant/src/file"), "replaced");
    assert_eq!(project.state("default"), "running");
}

/// What anybody in the guest makes is the host user's, with the permissions that it was given.
fn owners(project: &Project) {
    project.ssh(
        "echo me >/vagrant/mine; sudo sh -c 'umask 027; echo root >/vagrant/roots; chown 0:0 /vagrant/roots'",
    );
    assert_eq!(project.ssh("stat -c '%U %a' /vagrant/mine /vagrant/roots"), "vagrant 644\nvagrant 640");
    let me = rustix::process::geteuid().as_raw();
    for (name, mode) in [("mine", 0o644), ("roots", 0o640)] {
        let meta = fs::metadata(project.root.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777), (me, mode), "{name}");
    }
    project.ssh("chmod 4755 /vagrant/mine; rm -f /vagrant/roots");
    assert_eq!(fs::metadata(project.root.join("mine")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(!project.root.join("roots").exists());
}

/// The guest has seen a file; the host writes to it, puts another in its place, removes it.
fn changes_of_the_host(project: &Project) {
    // The guest may believe what it was told for a second.
    let becomes = |what: &str| {
        project.ssh(&format!("for i in $(seq 3000); do [ \"$({what})\" ] && exit; done; {what}; exit 1"));
    };
    project.write("src/file", "written to, longer than before");
    becomes("grep longer /vagrant/src/file");
    project.write("src/new", "replaced");
    fs::rename(project.root.join("src/new"), project.root.join("src/file")).unwrap();
    becomes("grep replaced /vagrant/src/file");
    project.write("src/fresh", "x");
    assert_eq!(project.ssh("cat /vagrant/src/fresh"), "x");
    fs::remove_file(project.root.join("src/fresh")).unwrap();
    becomes("[ -e /vagrant/src/fresh ] || echo gone");
    // And the guest moves what the host knows.
    project
        .ssh("mkdir /vagrant/moved && mv /vagrant/src /vagrant/moved/ && mv /vagrant/moved/src /vagrant/src");
    assert_eq!(fs::read(project.root.join("src/file")).unwrap(), b"replaced");
    project.ssh("rmdir /vagrant/moved");
}

/// An archive, what git does to its objects, a journal that is synced at each line, large files.
fn much_work(project: &Project) {
    let script = r#"set -e
        cd /tmp && mkdir -p tree && cd tree
        for d in $(seq 20); do mkdir d$d; for f in $(seq 20); do echo $d.$f >d$d/f$f; done; ln -s f1 d$d/link; done
        tar cf ../tree.tar . && mkdir /vagrant/tree && cd /vagrant/tree && sudo tar xf /tmp/tree.tar
        diff -r /tmp/tree /vagrant/tree
        for i in $(seq 50); do echo $i >tmp.$i; chmod 444 tmp.$i; ln tmp.$i object.$i; rm -f tmp.$i; done
        for i in $(seq 50); do mv object.$i d1/; done
        [ $(find . -type f | wc -l) = 450 ]
        for i in $(seq 30); do echo line $i | dd of=journal oflag=append conv=notrunc,fsync 2>/dev/null; done
        dd if=/dev/urandom of=/tmp/large bs=1M count=8 2>/dev/null && cp /tmp/large large && sync && cmp /tmp/large large
        exec 3>gone && rm gone && echo still >&3 && exec 3>&-
        echo done"#;
    assert_eq!(project.ssh(script), "done");
    let tree = project.root.join("tree");
    assert_eq!(fs::read_to_string(tree.join("d7/f13")).unwrap(), "7.13\n");
    assert_eq!(fs::read_link(tree.join("d7/link")).unwrap(), Path::new("f1"));
    assert_eq!(fs::read_to_string(tree.join("journal")).unwrap().lines().count(), 30);
    assert_eq!(fs::metadata(tree.join("large")).unwrap().len(), 8 << 20);
    assert_eq!(fs::read_dir(tree.join("d1")).unwrap().count(), 71);
    project.ssh("rm -r /vagrant/tree /tmp/tree*");
    assert!(!tree.exists());
}

/// One of the folders is on a file system of 256 KiB, in a mount namespace that only the machine is in.
fn up_with_a_tiny_disk(project: &Project) {
    let tiny = project.root.parent().unwrap().join("tiny");
    fs::create_dir(&tiny).unwrap();
    let binary = crate::common::binary();
    let script =
        format!("mount -t tmpfs -o size=256k tmpfs '{}' && exec '{}' up", tiny.display(), binary.display());
    project.run("unshare", &["--map-root-user", "--mount", "sh", "-c", &script]).ok();
}

/// A full disk of the host is one in the guest, at the write that has no room; it goes on when there is room again.
fn full_disk(project: &Project) {
    let says = project.ssh(
        "cd /srv/tiny && echo kept >kept && dd if=/dev/zero of=big bs=4k count=100 2>&1; \
         echo more >more || echo full; cat kept; rm big; echo again >again && cat again; \
         dd if=/dev/zero of=big bs=300k count=1 conv=fsync 2>&1; rm -f big more",
    );
    assert_eq!(says.matches("No space left on device").count(), 2, "{says}");
    assert!(says.contains("full\nkept\nagain\n"), "{says}");
    assert_eq!(project.ssh("ls /srv/tiny"), "again\nkept");
}

/// Guest and host append to one file and make files in one folder at the same time: nothing is lost.
fn both_at_once(project: &Project) {
    project.write("both/log", "");
    let both = project.root.join("both");
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| {
            project.ssh("cd /vagrant/both && for i in $(seq 200); do echo guest $i >>log; echo $i >g$i; done")
        });
        let mut log = fs::File::options().append(true).open(both.join("log")).unwrap();
        for number in (1..).take_while(|_| !guest.is_finished()) {
            log.write_all(format!("host {number}\n").as_bytes()).unwrap();
            fs::write(both.join(format!("h{}", number % 100)), "host").unwrap();
        }
    });
    let log = fs::read_to_string(both.join("log")).unwrap();
    // The host's lines are whole and in order. A kernel sends what it appends across the end of a page in two pieces:
    // a line of the host's may come between them.
    let mut of_guest = log.clone();
    for number in 1..=log.matches("host ").count() {
        let line = format!("host {number}\n");
        let at = of_guest.find(&line).unwrap_or_else(|| panic!("no {line}in {log}"));
        of_guest.replace_range(at..at + line.len(), "");
    }
    assert_eq!(of_guest, (1..=200).map(|number| format!("guest {number}\n")).collect::<String>(), "{log}");
    assert!((1..=200).all(|number| both.join(format!("g{number}")).exists()));
    // And the guest has it as the host has it.
    let lines = log.lines().count().to_string();
    project.ssh(&format!(
        "for i in $(seq 3000); do [ $(wc -l </vagrant/both/log) = {lines} ] && exec rm -r /vagrant/both; done; exit 1"
    ));
}

/// Names are bytes, on both sides.
fn names(project: &Project) {
    let of_host = project.root.join(OsStr::from_bytes(b"names/host \xff\xfe"));
    fs::create_dir(of_host.parent().unwrap()).unwrap();
    fs::write(of_host, "h").unwrap();
    project.ssh(
        r#"cd /vagrant/names && cat host* && echo g >"$(printf 'guest\200\n-')" && mv host* "$(printf '\377')""#,
    );
    let mut names: Vec<_> =
        fs::read_dir(project.root.join("names")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [OsStr::from_bytes(b"guest\x80\n-"), OsStr::from_bytes(b"\xff")]);
    project.ssh("rm -r /vagrant/names");
}

/// Links lead where they lead in the guest, whoever made them.
fn no_way_out(project: &Project, outside: &Path) {
    symlink(outside, project.root.join("by-host")).unwrap();
    symlink("../outside/secret", project.root.join("relative")).unwrap();
    let secret = outside.join("secret");
    project.ssh(&format!("ln -s {} /vagrant/by-guest", secret.display()));
    for path in ["by-host/secret", "relative", "by-guest", "../outside/secret"] {
        project.rvm(&["ssh", "-c", &format!("sudo cat /vagrant/{path}")]).code(1).says("can't open");
    }
    project.ssh("ln -s /etc/hostname /vagrant/own && cat /vagrant/own && sudo mknod /vagrant/pipe p");
    project.rvm(&["ssh", "-c", "sudo mknod /vagrant/disk b 254 0"]).code(1).says("not permitted");
    assert_eq!(fs::read(secret).unwrap(), b"of the host");
    project.ssh("rm /vagrant/by-host /vagrant/relative /vagrant/by-guest /vagrant/own /vagrant/pipe");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
}

fn read_only(project: &Project, fixed: &Path) {
    // Also where the guest was told otherwise.
    project.ssh("sudo mount -o remount,rw /srv/fixed");
    for command in
        ["echo x >/srv/fixed/file", "touch /srv/fixed/new", "rm /srv/fixed/file", "chmod 777 /srv/fixed/file"]
    {
        project.rvm(&["ssh", "-c", &format!("sudo sh -c '{command}'")]).code(1).says("read-only file system");
    }
    assert_eq!(project.ssh("cat /srv/fixed/file"), "fixed");
    assert_eq!(fs::read(fixed.join("file")).unwrap(), b"fixed");
    assert_eq!(fs::read_dir(fixed).unwrap().count(), 1);
}

/// Programs of the host, as the guest runs them from the project folder, with their own loader and libraries.
fn programs_of_the_host(project: &Project) {
    let tools = project.root.join("tools");
    fs::create_dir(&tools).unwrap();
    let git = project.run("git", &["--exec-path"]).ok().stdout.trim_end().to_owned() + "/git";
    let sqlite = project.run("sh", &["-c", "command -v sqlite3"]).ok().stdout.trim_end().to_owned();
    for (name, program) in [("git", git), ("sqlite3", sqlite)] {
        let needs = project.run("ldd", &[&program]).ok().stdout;
        let files = needs.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
        for file in files {
            fs::copy(file, tools.join(file.file_name().unwrap())).unwrap();
        }
        fs::copy(program, tools.join(format!("{name}.program"))).unwrap();
        let start = format!(
            "#!/bin/sh\nexec /vagrant/tools/ld-linux-x86-64.so.2 --library-path /vagrant/tools --argv0 \"$0\" \
             /vagrant/tools/{name}.program \"$@\"\n"
        );
        fs::write(tools.join(name), start).unwrap();
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    // What serves a clone; it is the same program.
    std::os::unix::fs::symlink("git", tools.join("git-upload-pack")).unwrap();
    git_works(project);
    a_database(project);
    project.ssh("rm -r /vagrant/git /vagrant/tools /vagrant/*.db*");
}

/// git clones, commits, packs and checks out.
fn git_works(project: &Project) {
    let script = r#"set -e
        export GIT_EXEC_PATH=/vagrant/tools PATH=/vagrant/tools:$PATH
        export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        mkdir /vagrant/git; cd /vagrant/git; git init -q -b main origin; cd origin
        for d in $(seq 5); do mkdir d$d; for f in $(seq 8); do seq $d $((d + f)) >d$d/f$f; done; ln -s f1 d$d/link; done
        chmod +x d1/f1; git add .; git commit -q -m one; cd ..
        git clone -q origin linked; git clone -q --no-local origin sent
        cd linked; git checkout -q -b work; git mv d2 e2; echo more >>d1/f1; git rm -q -r d3
        git commit -q -a -m two; git checkout -q main; [ -d d2 ]; git checkout -q work; [ ! -e d3 ]; git gc -q
        cd ../sent; git fetch -q ../linked work; git merge -q --ff-only FETCH_HEAD
        for r in ../origin ../linked .; do git -C $r fsck --strict >&2; [ -z "$(git -C $r status --porcelain)" ]; done
        find . -type f -not -path './.git/*' | wc -l"#;
    assert_eq!(project.ssh(script), "32");
    let sent = project.root.join("git/sent");
    assert_eq!(fs::read_link(sent.join("e2/link")).unwrap(), Path::new("f1"));
    assert_eq!(fs::metadata(sent.join("d1/f1")).unwrap().permissions().mode() & 0o111, 0o111);
}

/// SQLite: two writers at a time, in each way of its to keep a journal.
fn a_database(project: &Project) {
    let script = r#"set -e
        export PATH=/vagrant/tools:$PATH
        cd /vagrant && for mode in delete wal; do
            sqlite3 $mode.db "pragma journal_mode=$mode; create table t (who, n)" >/dev/null
            for who in a b; do
                seq 20 | sed "s/.*/insert into t values ('$who', &);/" |
                    sqlite3 -cmd '.timeout 120000' -cmd 'pragma mmap_size=1000000' $mode.db >/dev/null &
            done
            wait
            sqlite3 $mode.db 'pragma integrity_check; select count(*), count(distinct who), max(n) from t'
        done"#;
    assert_eq!(project.ssh(script), "ok\n40|2|20\nok\n40|2|20");
    let header = fs::read(project.root.join("delete.db")).unwrap();
    assert!(header.starts_with(b"SQLite format 3\0"));
}
