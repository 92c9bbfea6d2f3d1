//! What a user is shown for each kind of wrong file. The texts are kept as snapshots.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rvm::config::{self, ConfigError};

fn write(dir: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn fail(files: &[(&str, &[u8])]) -> (ConfigError, String) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), files);
    fail_in(dir.path())
}

/// The error, and its text with the folder's name replaced.
fn fail_in(dir: &Path) -> (ConfigError, String) {
    let env = |name: &str| (name == "EDITOR_BOX").then(|| "Not A Box".to_owned());
    let error = config::load(&dir.join("Vagrantfile"), &env).expect_err("the file must be refused");
    let text = error.render(false).replace(std::fs::canonicalize(dir).unwrap().to_str().unwrap(), "/project");
    assert!(!error.render(true).is_empty());
    (error, text)
}

/// The text for a project folder with these files.
fn told(files: &[(&str, &[u8])]) -> String {
    fail(files).1
}

fn told_file(vagrantfile: &str) -> String {
    told(&[("Vagrantfile", vagrantfile.as_bytes())])
}

#[test]
fn files_that_are_not_ours() {
    insta::assert_snapshot!("empty", told_file(" \n"));
    insta::assert_snapshot!("only_comments", told_file("# nothing\n"));
    insta::assert_snapshot!(
        "ruby",
        told_file(
            "# -*- mode: ruby -*-\nVagrant.configure(\"2\") do |config|\n  config.vm.box = \"x\"\nend\n"
        )
    );
    insta::assert_snapshot!("not_utf8", told(&[("Vagrantfile", b"box = 'micro'\n# caf\xe9\n")]));
    insta::assert_snapshot!("too_large", told(&[("Vagrantfile", &vec![b'#'; 1024 * 1024 + 1])]));
    let syntax = "box = debian/13\ncpus 2\nhostname = \"web\n[[machine]\nname = 'a'\n";
    insta::assert_snapshot!("syntax", told_file(syntax));
    insta::assert_snapshot!("duplicate_key", told_file("box = 'micro'\nbox = 'debian/13'\n"));
    insta::assert_snapshot!("yaml", told_file("box: micro\ncpus: 2\n"));
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    insta::assert_snapshot!("missing", fail_in(dir.path()).1);
    std::os::unix::fs::symlink("nowhere", dir.path().join("Vagrantfile")).unwrap();
    assert!(matches!(fail_in(dir.path()).0, ConfigError::Unreadable { .. }));
    std::fs::remove_file(dir.path().join("Vagrantfile")).unwrap();
    std::fs::create_dir(dir.path().join("Vagrantfile")).unwrap();
    insta::assert_snapshot!("folder", fail_in(dir.path()).1);
}

#[test]
fn disks() {
    let text = r#"
box = "micro"

[[disk]]
name = "root"
mount = "/x"

[[disk]]
name = "Data"
size = "1GiB"

[[disk]]
name = "seed"
size = "1GiB"

[[disk]]
size = "1GiB"

[[disk]]
name = "small"
size = "1MiB"

[[disk]]
name = "nothing"

[[disk]]
name = "both"
size = "1GiB"
image = "disk.raw"
format = "raw"

[[disk]]
name = "gone"
image = "no/such.qcow2"
format = "qcow2"

[[disk]]
name = "folder"
image = "."
format = "raw"

[[disk]]
name = "what"
image = "disk.raw"

[[disk]]
name = "guess"
image = "disk.raw"
format = "vmdk"

[[disk]]
name = "odd"
size = "1GiB"
format = "qcow2"
read_only = true

[[disk]]
name = "bare"
size = "1GiB"
filesystem = "none"
mount = "/srv/bare"

[[disk]]
name = "here"
size = "1GiB"
mount = "srv"

[[disk]]
name = "needed"
size = "1GiB"
mount = "/usr/"

[[disk]]
name = "virtual"
size = "1GiB"
mount = "/dev/shm"

[[disk]]
name = "up"
size = "1GiB"
mount = "/srv/../etc"
"#;
    let files = [("Vagrantfile", text.as_bytes()), ("disk.raw", b"")];
    insta::assert_snapshot!("disks", told(&files));
}

#[test]
fn disks_that_clash() {
    let text = r#"
box = "micro"

[[disk]]
name = "data"
size = "1GiB"
mount = "/srv/data"

[[disk]]
name = "shared"
image = "disk.raw"
format = "raw"

[[machine]]
name = "one"

[[machine.disk]]
name = "data"
size = "2GiB"

[[machine]]
name = "two"

[[machine.disk]]
name = "more"
size = "2GiB"
mount = "/srv/data"
"#;
    let files = [("Vagrantfile", text.as_bytes()), ("disk.raw", b"")];
    insta::assert_snapshot!("disks_that_clash", told(&files));
    let table = "box = \"micro\"\n[disk]\nname = \"data\"\n";
    insta::assert_snapshot!("single_disk_table", told_file(table));
    let many: String = (0..7).map(|n| format!("[[disk]]\nname = \"d{n}\"\nsize = \"1GiB\"\n")).collect();
    insta::assert_snapshot!("too_many_disks", told_file(&format!("box = \"micro\"\n{many}")));
}

#[test]
fn keys() {
    let text = r#"
bocks = "micro"
boxx = "micro"
ram = 512
ports = 3
box = "micro"
guest = 80
cpu = 2

[[provision]]
shell = "true"
type = "shell"
memory = 512

[[machine]]
name = "a"
post_up_message = "hello"

[[machine.port]]
guest_port = 80
host = 8080
"#;
    insta::assert_snapshot!("unknown_keys", told_file(text));
}

#[test]
fn values() {
    let text = r#"
box = "Debian 13"
cpus = 0
memory = "lots"
disk = 10
hostname = "web_1"
provider = "kvmm"
kernel = "slow"
boot_timeout = "soon"
halt_timeout = 0
rvm_version = ">=99"
"#;
    insta::assert_snapshot!("wrong_values", told_file(text));
    let text = "box = ['micro']\ncpus = 1.5\nmemory = true\ndisk = { size = 1 }\nprovider = 1\nkernel = \
                1979-05-27\nhostname = 7\nprovision = 'x'\nboot_timeout = []\nenv_file = 5\nrvm_version = 1\n";
    insta::assert_snapshot!("wrong_types", told_file(text));
    let text = "box = 'micro'\ncpus = 65\nmemory = 63\ndisk = '0GiB'\nboot_timeout = '25h'\n";
    insta::assert_snapshot!("out_of_range", told_file(text));
    let text = "box = 'micro'\ncpus = -1\nmemory = 99999999999999999999\ndisk = '99999999TiB'\nrvm_version = 'new'\n";
    insta::assert_snapshot!("absurd_numbers", told_file(text));
}

#[test]
fn ports() {
    let text = r#"box = "micro"
[[port]]
guest = 0
host = 70000
host_ip = "localhost"
protocol = "TCP"
auto_correct = "yes"
[[port]]
[[port]]
guest = 80
host = 8080
[[port]]
guest = 81
host = 8080
host_ip = "0.0.0.0"
"#;
    insta::assert_snapshot!("ports", told_file(text));
    insta::assert_snapshot!(
        "single_port_table",
        told_file("box = 'micro'\n[port]\nguest = 80\nhost = 8080\n")
    );
    let shared = "box = 'micro'\n[[port]]\nguest = 80\nhost = 8080\n[[machine]]\nname = 'a'\n[[machine]]\nname = 'b'\n";
    insta::assert_snapshot!("port_of_several_machines", told_file(shared));
}

#[test]
fn machines() {
    let text = r#"
[[machine]]
name = "web"
box = "micro"
[[machine]]
name = "web"
box = "micro"
[[machine]]
box = "micro"
[[machine]]
name = "Data_Base"
box = "micro"
[[machine]]
name = "boxless"
[[machine]]
name = "other"
box = "micro"
hostname = "web"
"#;
    insta::assert_snapshot!("machines", told_file(text));
    insta::assert_snapshot!("no_box", told_file("cpus = 2\n"));
    insta::assert_snapshot!("no_machine", told_file("box = 'micro'\nmachine = []\n"));
    let text = "box = 'micro'\nhostname = 'x'\n[[machine]]\nname = 'a'\n[[machine]]\nname = 'b'\n";
    insta::assert_snapshot!("shared_hostname", told_file(text));
    let many = format!("box = 'micro'\n{}", "[[machine]]\nname = 'a'\n".repeat(300));
    insta::assert_snapshot!("too_many_machines", told_file(&many));
}

#[test]
fn relations() {
    let text = r#"
box = "micro"
groups = ["Every One", "web"]

[[machine]]
name = "a"
depends_on = ["b"]
primary = true
[[machine]]
name = "b"
depends_on = ["last", "c"]
[[machine]]
name = "c"
depends_on = ["a", "a"]
primary = true
[[machine]]
name = "web"
groups = ["last"]
depends_on = ["web", "bb", "nothing-near"]
primary = 1
autostart = "sometimes"
message = 5
"#;
    insta::assert_snapshot!("relations", told_file(text));
    let two = "box = 'micro'\n[[machine]]\nname = 'a'\ndepends_on = ['b']\n[[machine]]\nname = 'b'\ngroups = ['g']\n\
               depends_on = ['c']\n[[machine]]\nname = 'c'\ngroups = ['g']\ndepends_on = ['g', 'a']\n";
    insta::assert_snapshot!("circles", told_file(two));
    let own = "box = 'micro'\n[[machine]]\nname = 'a'\ngroups = ['g']\ndepends_on = ['g', 'x']\n";
    insta::assert_snapshot!("depends_on_itself", told_file(own));
    // A machine that is missing for another reason is not told to be unknown.
    let text = "box = 'micro'\n[[machine]]\nname = 'A B'\n[[machine]]\nname = 'c'\ndepends_on = ['a-b']\n";
    insta::assert_snapshot!("depends_on_a_bad_name", told_file(text));
    insta::assert_snapshot!(
        "relations_at_the_top",
        told_file("box = 'micro'\nprimary = true\ndepends_on = ['x']\n")
    );
}

#[test]
fn copies() {
    let text = r#"
box = "micro"
cpus = "most"
hostname = "{i+1}"

[[machine]]
name = "one-{i}"

[[machine]]
name = "web"
count = 3
primary = true
hostname = "web.example"
depends_on = ["web", "db-{i}"]

[[machine]]
name = "two-{i%2}"
count = 4

[[machine]]
name = "far"
count = 300

[[machine]]
name = "{i+}"
count = "several"

[[machine]]
name = "port"
count = 5
[[machine.port]]
guest = 80
host = "{i+65533}"

[[machine]]
name = "same"
count = 5
[[machine.port]]
guest = 80
host = 8080

[[machine]]
name = "long-{i-2}"
count = 2
"#;
    insta::assert_snapshot!("copies", told_file(text));
    let text = "box = 'micro'\n[[machine]]\nname = 'web'\ncount = 3\ndepends_on = ['web', 'wob-{i}']\n\
                [[machine]]\nname = 'db'\ncount = 2\n[[machine]]\nname = 'db'\n";
    insta::assert_snapshot!("families", told_file(text));
    insta::assert_snapshot!("no_copies", told_file("box = 'micro'\n[[machine]]\nname = 'a'\ncount = 0\n"));
    let many = "box = 'micro'\n[[machine]]\nname = 'a'\ncount = 200\n[[machine]]\nname = 'b'\ncount = 57\n";
    insta::assert_snapshot!("too_many_copies", told_file(many));
    let unknown = "box = 'micro'\ncpus = 'auto'\nmemory = '50%'\n";
    insta::assert_snapshot!("unknown_host", told_file(unknown));
}

#[test]
fn readiness() {
    let text = r#"
box = "micro"
[[ready]]
[[ready]]
port = 0
[[ready]]
port = 80
command = "true"
file = "/x"
[[ready]]
command = " "
timeout = "soon"
[[ready]]
file = "run/app"
[[ready]]
file = 7
time = 5
[[machine]]
name = "a"
ready = "ssh"
[[machine]]
name = "b"
healthcheck = []
[machine.ready]
port = 1
"#;
    insta::assert_snapshot!("readiness", told_file(text));
}

#[test]
fn hooks() {
    let text = r#"
box = "micro"
[[hook]]
shell = "true"
[[hook]]
before = "hlat"
shell = "true"
[[hook]]
before = "up"
after = "up"
on = "gest"
[[hook]]
after = ["up", "snapshot"]
machines = ["wbe", "default"]
on_error = "ignore"
path = "none.sh"
[[hook]]
after = "destroy"
on = "guest"
shell = "true"
timeout = "2d"
[[hook]]
before = []
privileged = true
shell = "true"
command = "true"
[[hook]]
before = "up"
"#;
    insta::assert_snapshot!("hooks", told_file(text));
}

#[test]
fn steps() {
    let text = r#"
box = "micro"
[[provision]]
name = "nothing"
[[provision]]
name = "nothing"
shell = "true"
packages = ["git"]
[[provision]]
packages = ["git", "-y", "rm nginx", 3]
args = ["x"]
privileged = false
[[provision]]
path = "setup.sh"
run = "no"
[[provision]]
file = { source = "missing.txt" }
[[provision]]
file = "x"
[[provision]]
shell = ""
name = "a,b"
env = ["DB_NAM", "1X", "RVM_SSH_PASSWORD", "DB_NAME", "DB_NAME"]
args = "x"
[[provision]]
path = "folder"
[[provision]]
packages = []
[[provision]]
file = { source = "folder", destination = "x" }
reboot = true
[[provision]]
reboot = false
retries = 1000
timeout = "0s"
sensitive = "perhaps"
[[provision]]
name = "twice"
shell = "a"
[[provision]]
name = "twice"
shell = "b"
"#;
    let files: [(&str, &[u8]); 3] =
        [("Vagrantfile", text.as_bytes()), (".env", b"DB_NAME=shop\n"), ("folder/x", b"")];
    insta::assert_snapshot!("steps", told(&files));
}

#[test]
fn variables() {
    let text = r#"
box = "${NO_BOX}"
cpus = "${COUNT}"
memory = "${DB_PASWORD} and ${DB_PASSWORD} and ${"
hostname = "${EDITOR_BOX}"
disk = "${DISK:-a${B}}"
kernel = "${DB_PASSWORD}"
[[port]]
guest = 80
host = "${DB_PASSWORD}"
[[provision]]
shell = "echo ${ANY}"
args = ["ok", "--password=${DB_PASSWORD}"]
"#;
    let files: [(&str, &[u8]); 2] =
        [("Vagrantfile", text.as_bytes()), (".env", b"COUNT=hunter2many\nDB_PASSWORD=hunter2\n")];
    let (error, told) = fail(&files);
    insta::assert_snapshot!("variables", told);
    assert!(!told.contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{error:?}");
    let without = told_file("box = '${NO_BOX}'\n");
    insta::assert_snapshot!("variable_without_env_file", without);
}

#[test]
fn env_files() {
    let with =
        |env: &[u8]| told(&[("Vagrantfile", b"box = '${BOX}'\nenv_file = 'site.env'\n"), ("site.env", env)]);
    insta::assert_snapshot!("env_file_missing", told_file("box = 'micro'\nenv_file = 'site.env'\n"));
    insta::assert_snapshot!(
        "env_file_syntax",
        with(b"BOX=micro\nhunter2 is wrong\nA=${BOX}\n# fine\nB=b\\\nC='hunter2\nD=hunter2\n")
    );
    insta::assert_snapshot!("env_file_not_utf8", with(b"A=1\nB=hunter2\xff\n"));
    insta::assert_snapshot!(
        "env_file_folder",
        told(&[("Vagrantfile", b"box = 'micro'\nenv_file = 'site'\n"), ("site/x", b"")])
    );
    insta::assert_snapshot!("env_file_empty_name", told_file("box = 'micro'\nenv_file = ''\n"));
}

#[test]
fn credentials() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("Vagrantfile", b"box = 'micro'\n"),
            (".env", b"RVM_SSH_USER=-oProxyCommand=hunter2\nRVM_SSH_KEY=id_ed25519\n"),
            ("id_ed25519", b"key"),
        ],
    );
    let key = dir.path().join("id_ed25519");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (_, open_key) = fail_in(dir.path());
    insta::assert_snapshot!("key_mode", open_key);
    assert!(!open_key.contains("hunter2"));
    std::fs::remove_file(&key).unwrap();
    insta::assert_snapshot!("key_missing", fail_in(dir.path()).1);
}

#[test]
fn problems_for_machines_to_read() {
    let (error, _) = fail(&[("Vagrantfile", b"box = 'micro'\nmemroy = 5\n\ncpus = 0\n")]);
    let places: Vec<_> = error.problems().iter().map(|p| (p.line, p.column)).collect();
    assert_eq!(places, [(Some(2), Some(1)), (Some(4), Some(8))]);
    let json = serde_json::to_value(&error.problems()[0]).unwrap();
    assert_eq!(json["message"], "unknown key `memroy` at the top of the file");
    assert_eq!(json["help"], "did you mean `memory`?");
    assert!(json["file"].as_str().unwrap().ends_with("Vagrantfile") && json.get("excerpt").is_none());
}
