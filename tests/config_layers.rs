//! Several files → one project: what is included, the local layer, ENV files, variables and
//! profiles; and what is told where one of them is wrong.

use std::path::Path;

use rvm::config::{self, ConfigError, Inputs};
use rvm::model::{Project, Script, StepKind};

/// A project folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn load(dir: &Path, env: Pairs<'_>, vars: Pairs<'_>) -> Result<Project, ConfigError> {
    let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    let vars: Vec<(String, String)> = vars.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    config::load_with(&dir.join("Vagrantfile"), &Inputs { env: &env, vars: &vars, host: None })
}

fn project(files: Pairs<'_>) -> (tempfile::TempDir, Project) {
    let dir = folder(files);
    let project = load(dir.path(), &[], &[]).unwrap_or_else(|error| panic!("{error}"));
    (dir, project)
}

/// The text of the error, the folder's name replaced.
fn told_with(files: Pairs<'_>, env: Pairs<'_>, vars: Pairs<'_>) -> String {
    let dir = folder(files);
    let error = load(dir.path(), env, vars).expect_err("the project must be refused");
    assert!(!error.problems().is_empty(), "{error}");
    error.render(false).replace(std::fs::canonicalize(dir.path()).unwrap().to_str().unwrap(), "/project")
}

fn told(files: Pairs<'_>) -> String {
    told_with(files, &[], &[])
}

#[test]
fn each_layer_wins_over_those_below() {
    let files = [
        (
            "Vagrantfile",
            "include = ['lib/base.toml', 'lib/second.toml']\nbox = '${BOX}'\nmemory = '1GiB'\n\
             [vars]\nA = 'main'\nB = 'main'\nC = 'main'\nD = 'main'\nE = 'main'\n\
             [[machine]]\nname = 'web'\nmessage = '${A} ${B} ${C} ${D} ${E} ${F}'\n\
             [[machine]]\nname = 'db'\n",
        ),
        (
            "lib/base.toml",
            "include = 'deeper/more.toml'\nbox = 'nope'\nmemory = '4GiB'\ncpus = 4\n[vars]\nBOX = 'micro'\nA = 'base'\nF = 'base'\n\
             [[machine]]\nname = 'web'\ncpus = 3\n[[machine.port]]\nguest = 80\nhost = 8080\n\
             [[provision]]\nname = 'setup'\npath = 'setup.sh'\n",
        ),
        ("lib/setup.sh", "true"),
        ("lib/deeper/more.toml", "include = ['../second.toml']\nkernel = 'fast'\n[vars]\nF = 'more'\n"),
        // Included twice, and so laid down once.
        ("lib/second.toml", "hostname = 'x'\n[[port]]\nguest = 1\nhost = 1000\nauto_correct = true\n"),
        (
            "Vagrantfile.local.toml",
            "memory = '2GiB'\n[vars]\nB = 'local'\nC = 'local'\n\
             [[machine]]\nname = 'web'\nhostname = 'mine'\n[[machine.port]]\nguest = 443\nhost = 8443\n\
             [[machine]]\nname = 'db'\nhostname = 'other'\n[[provision]]\nname = 'setup'\nrun = 'always'\n",
        ),
        (".env", "C=env-file\nD=env-file\n"),
    ];
    let dir = folder(&files);
    // A host name at the top is that of one machine.
    let text = load(dir.path(), &[], &[]).unwrap_err().to_string();
    assert!(text.contains("lib/second.toml:1:12"), "{text}");
    std::fs::write(dir.path().join("lib/second.toml"), files[4].1.replace("hostname = 'x'\n", "")).unwrap();

    let project = load(dir.path(), &[("D", "environment"), ("E", "environment")], &[("E", "given")])
        .unwrap_or_else(|error| panic!("{error}"));
    let [web, db] = project.machines.as_slice() else { panic!("{:?}", project.machines) };
    assert_eq!((web.box_name.as_str(), web.memory >> 30, web.cpus, db.cpus), ("micro", 2, 3, 4));
    assert_eq!((web.hostname.as_str(), web.kernel.as_str()), ("mine", "fast"));
    assert_eq!(web.ports.iter().map(|port| port.host).collect::<Vec<_>>(), [1000, 8080, 8443]);
    assert_eq!(web.message.as_deref(), Some("main local env-file environment given base"));
    let [step] = web.steps.as_slice() else { panic!("{:?}", web.steps) };
    let StepKind::Shell { script: Script::Path(path), .. } = &step.kind else { panic!("{step:?}") };
    assert_eq!(*path, project.root.join("lib/setup.sh"));
    assert_eq!(step.run, rvm::model::RunPolicy::Always);
    assert_eq!(project.file, project.root.join("Vagrantfile"));
}

#[test]
fn the_local_layer_goes_by_the_name_of_the_file() {
    let dir = folder(&[
        ("Vagrantfile.toml", "box = 'micro'\n"),
        ("Vagrantfile.local.toml", "include = ['mine.toml']\ncpus = 3\n"),
        ("mine.toml", "cpus = 2\nmemory = 512\n"),
        ("other.toml", "box = 'micro'\n"),
        ("other.local.toml", "# nothing yet\n"),
    ]);
    let cpus = |name: &str| config::load(&dir.path().join(name), &|_| None).unwrap().machines[0].cpus;
    assert_eq!((cpus("Vagrantfile.toml"), cpus("other.toml")), (3, 1));
}

#[test]
fn variables_stand_for_one_another_and_reach_steps() {
    let (_dir, project) = project(&[
        (
            "Vagrantfile",
            "box = 'micro'\nmessage = '${URL} ${GO} ${FLAG} ${N}'\n[vars]\nURL = 'http://${HOST}:${PORT}/'\n\
             HOST = 'h.${DOMAIN:-example}'\nPORT = 8_080\nGO = 1.20\nFLAG = true\nN = 0x10\n\
             [[provision]]\nshell = 'true'\nenv = ['URL', 'SECRET_URL', 'API_TOKEN']\n",
        ),
        ("Vagrantfile.local.toml", "[vars]\nSECRET_URL = 'x:${PW}@y'\nAPI_TOKEN = 'committed'\n"),
        (".env", "PW=hunter2\n"),
    ]);
    assert_eq!(project.machines[0].message.as_deref(), Some("http://h.example:8080/ 1.20 true 0x10"));
    let env: Vec<_> = project.machines[0].steps[0].env.iter().map(|(_, value)| value.expose()).collect();
    assert_eq!(env, ["http://h.example:8080/", "x:hunter2@y", "committed"]);
    // What stands in the file for all to read is no secret, unless its name says so.
    assert_eq!(
        project.masker.mask("http://h.example:8080/ x:hunter2@y hunter2 committed"),
        "http://h.example:8080/ *** *** ***"
    );
}

#[test]
fn env_files_are_laid_over_each_other() {
    let text = "box = 'micro'\nenv_file = ['.env', 'conf/${STAGE:-dev}.env', '.env.local']\nmessage = '${A} ${B} ${C}'\n";
    let files = [
        ("Vagrantfile", text),
        (".env", "A=one\nB=one\nC=one\n"),
        ("conf/dev.env", "B=two\nC=two\n"),
        ("conf/live.env", "B=live\n"),
    ];
    let dir = folder(&files);
    let message =
        |env| load(dir.path(), env, &[]).unwrap_or_else(|e| panic!("{e}")).machines[0].message.clone();
    assert_eq!(message(&[]).as_deref(), Some("one two two"));
    std::fs::write(dir.path().join(".env.local"), "C='th ree'\n").unwrap();
    assert_eq!(message(&[]).as_deref(), Some("one two th ree"));
    assert_eq!(message(&[("STAGE", "live"), ("A", "env")]).as_deref(), Some("env live th ree"));
    let none = folder(&[
        ("Vagrantfile", "box = 'micro'\nenv_file = []\nmessage = '${A:-none}'\n"),
        (".env", "A=1\n"),
    ]);
    assert_eq!(load(none.path(), &[], &[]).unwrap().machines[0].message.as_deref(), Some("none"));
}

#[test]
fn a_key_starts_at_the_folder_of_its_env_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder(&[
        ("Vagrantfile", "box = 'micro'\nenv_file = ['.env', 'keys/site.env']\n"),
        (".env", "RVM_SSH_USER=first\n"),
        ("keys/site.env", "RVM_SSH_KEY=id\nRVM_SSH_USER=second\n"),
        ("keys/id", "key"),
    ]);
    std::fs::set_permissions(dir.path().join("keys/id"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let project = load(dir.path(), &[], &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(project.login.user, "second");
    assert_eq!(project.login.key, Some(project.root.join("keys/id")));
}

#[test]
fn a_profile_lies_between_the_top_and_the_machine() {
    let text = r#"
box = "micro"
cpus = 1
profile = "${OS:-trixie}"

[profiles.trixie]
box = "debian/13"
memory = "2GiB"
groups = ["systemd"]

[profiles."bookworm"]
box = "debian/12"
cpus = 2
hostname = "old{i}.example"

[[machine]]
name = "web"
memory = "3GiB"

[[machine]]
name = "old"
count = 2
profile = "bookworm"
"#;
    let dir = folder(&[("Vagrantfile", text)]);
    let of = |env| {
        let project = load(dir.path(), env, &[]).unwrap_or_else(|error| panic!("{error}"));
        let line = |m: &rvm::model::Machine| {
            format!("{} {} {} {} {} {:?}", m.name, m.hostname, m.box_name, m.cpus, m.memory >> 30, m.groups)
        };
        project.machines.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(
        of(&[]),
        [
            "web web debian/13 1 3 [\"systemd\"]",
            "old-1 old1.example debian/12 2 1 [\"old\"]",
            "old-2 old2.example debian/12 2 1 [\"old\"]",
        ]
    );
    let alone = "profile = '${OS}'\n[profiles.a]\nbox = 'micro'\n[profiles.b]\nbox = 'debian/12'\n";
    let dir = folder(&[("Vagrantfile", alone)]);
    let project = load(dir.path(), &[], &[("OS", "b")]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(project.machines[0].box_name, "debian/12");
}

#[test]
fn wrong_includes() {
    let text = "box = 'micro'\ninclude = ['gone.toml', '.env', 'link.toml', 'folder.toml', 'bytes.toml', '~/x.toml', 'a.toml', '${NO}.toml']\n";
    let files = [
        ("Vagrantfile", text),
        (".env", "PW=hunter2\n"),
        ("folder.toml/x", ""),
        ("a.toml", "include = ['sub/b.toml']\n"),
        ("sub/b.toml", "\ninclude = ['../a.toml', '../Vagrantfile.toml']\n"),
    ];
    let dir = folder(&files);
    std::os::unix::fs::symlink(".env", dir.path().join("link.toml")).unwrap();
    std::fs::write(dir.path().join("bytes.toml"), b"x = 1\n\xff").unwrap();
    let error = load(dir.path(), &[], &[]).unwrap_err();
    let root = std::fs::canonicalize(dir.path()).unwrap();
    let text = error.render(false).replace(root.to_str().unwrap(), "/project");
    insta::assert_snapshot!("includes", text);
    assert!(!text.contains("hunter2"));
    insta::assert_snapshot!("include_is_no_list", told(&[("Vagrantfile", "box = 'micro'\ninclude = 7\n")]));
    let own = [
        ("Vagrantfile", "box = 'micro'\n"),
        ("Vagrantfile.local.toml", "include = ['Vagrantfile.local.toml']\n"),
    ];
    insta::assert_snapshot!("include_itself", told(&own));
}

#[test]
fn includes_have_bounds() {
    let chain: Vec<(String, String)> =
        (0..12).map(|n| (format!("f{n}.toml"), format!("include = ['f{}.toml']\n", n + 1))).collect();
    let mut files: Vec<(&str, &str)> =
        chain.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    files.push(("Vagrantfile", "box = 'micro'\ninclude = ['f0.toml']\n"));
    insta::assert_snapshot!("include_too_deep", told(&files));
    let all: String = (0..70).map(|n| format!("'f{n}.toml', ")).collect();
    let main = format!("box = 'micro'\ninclude = [{all}]\n");
    let flat: Vec<String> = (0..70).map(|n| format!("f{n}.toml")).collect();
    let mut files: Vec<(&str, &str)> = flat.iter().map(|name| (name.as_str(), "")).collect();
    files.push(("Vagrantfile", &main));
    let text = told(&files);
    assert!(text.contains("more than 64 files"), "{text}");
}

#[test]
fn what_is_wrong_in_a_layer_is_shown_there() {
    let files = [
        (
            "Vagrantfile",
            "include = ['lib/common.toml']\nbox = 'micro'\ncpus = 0\n[[machine]]\nname = 'web'\ndepends_on = ['db']\n\
             [[machine.port]]\nguest = 80\nhost = 8080\n",
        ),
        (
            "lib/common.toml",
            "# ö\nmemroy = 5\n[[machine]]\nname = 'db'\nprovider = 'kwm'\n[[machine.provision]]\nname = 'x'\npath = 'setup.sh'\n\
             [[machine.provision]]\nname = 'x'\nshell = '${not filled}'\nargs = ['${NO_ARG}']\n[[machine.port]]\nguest = 80\nhost = 8080\n",
        ),
        (
            "Vagrantfile.local.toml",
            "\n\n[[machine]]\nname = 'db'\ndepends_on = ['web']\n[[machine]]\nname = 'wbe'\nbox = 7\n",
        ),
    ];
    insta::assert_snapshot!("layers", told(&files));
    let broken = [
        ("Vagrantfile", "include = ['a.toml', 'b.toml']\nbox = 'micro'\n"),
        ("a.toml", "x = \n"),
        ("b.toml", "[[machine]\n"),
        ("Vagrantfile.local.toml", "box = debian\n"),
    ];
    insta::assert_snapshot!("layers_syntax", told(&broken));
    insta::assert_snapshot!(
        "local_is_a_folder",
        told(&[("Vagrantfile", "box = 'micro'\n"), ("Vagrantfile.local.toml/x", "")])
    );
}

#[test]
fn wrong_variables() {
    let text = "box = 'micro'\nmessage = '${A} ${NOPE} ${MISSPELT} ${LIST}'\n[vars]\nA = '${B}'\nB = 'x${C}'\nC = '${A}'\n\
                MISSPELLED = 'x'\nLIST = ['a']\n'1X' = 'y'\nRVM_SSH_PASSWORD = 'hunter2'\nUNDEFINED = '${NOPE}-${ANOTHER}'\nCOPY = '{i}'\n";
    insta::assert_snapshot!("vars", told(&[("Vagrantfile", text)]));
    insta::assert_snapshot!("vars_is_no_table", told(&[("Vagrantfile", "box = 'micro'\nvars = 5\n")]));
    let deep: String = (0..40).map(|n| format!("V{n} = '${{V{}}}'\n", n + 1)).collect();
    let text = told(&[("Vagrantfile", &format!("box = 'micro'\n[vars]\nV40 = 1\n{deep}"))]);
    assert!(text.contains("more than 32 deep"), "{text}");
    let double: String = (1..60).map(|n| format!("V{n} = '${{V{0}}}${{V{0}}}'\n", n - 1)).collect();
    let text = told(&[("Vagrantfile", &format!("box = 'micro'\n[vars]\nV0 = 'xxxxxxxx'\n{double}"))]);
    assert!(text.contains("more than 64 MiB"), "{text}");
}

#[test]
fn given_variables_are_checked() {
    let files = [("Vagrantfile", "box = 'micro'\ncpus = '${CPUS:-1}'\n[vars]\nUNUSED = 1\n")];
    let given =
        [("CUPS", "4"), ("UNUSED", "2"), ("far-off", "x"), ("RVM_SSH_PASSWORD", "hunter2"), ("ZZZZ", "1")];
    let text = told_with(&files, &[], &given);
    insta::assert_snapshot!("given_vars", text);
    let dir = folder(&files);
    let project = load(dir.path(), &[("CPUS", "2")], &[("CPUS", "3"), ("CPUS", "4")]).unwrap();
    assert_eq!(project.machines[0].cpus, 4);
    let nothing = told_with(&[("Vagrantfile", "box = 'micro'\n")], &[], &[("X", "1")]);
    insta::assert_snapshot!("given_vars_for_none", nothing);
}

#[test]
fn wrong_profiles() {
    let text = "profile = 'trixi'\nprofiles.x = 5\n[profiles.trixie]\nbox = 'Debian'\nname = 'x'\nprofile = 'y'\n\
                [[machine]]\nname = 'a'\nprofile = '${WHICH:-nothing-near}'\n[[machine]]\nname = 'b'\n";
    insta::assert_snapshot!("profiles", told(&[("Vagrantfile", text)]));
    insta::assert_snapshot!("no_profiles", told(&[("Vagrantfile", "box = 'micro'\nprofile = 'x'\n")]));
    insta::assert_snapshot!(
        "profiles_is_no_table",
        told(&[("Vagrantfile", "box = 'micro'\nprofiles = 1\n")])
    );
}

#[test]
fn wrong_env_file_lists() {
    let files = [
        ("Vagrantfile", "box = '${BOX}'\nenv_file = ['.env', 'b.env', '.env.local', '', 5]\n"),
        ("b.env", "A=1\nhunter2 x\n"),
    ];
    insta::assert_snapshot!("env_file_list", told(&files));
}
