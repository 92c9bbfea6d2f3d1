//! A `Vagrantfile` with its ENV file and scripts → what the lower rooms get.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use rvm::config::{self, ConfigError, Host, Inputs};
use rvm::model::{
    Check, Hooked, KernelChoice, Moment, Probe, Project, Protocol, ProviderKind, RunPolicy, Script, Side,
    StepKind,
};

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

fn load(dir: &Path, env: &[(&str, &str)]) -> Result<Project, ConfigError> {
    let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    config::load(&dir.join("Vagrantfile"), &env)
}

fn project(files: &[(&str, &str)]) -> (tempfile::TempDir, Project) {
    let dir = folder(files);
    let project = load(dir.path(), &[]).unwrap_or_else(|error| panic!("{error}"));
    (dir, project)
}

#[test]
fn the_smallest_file_gives_one_machine_with_defaults() {
    let (dir, project) = project(&[("Vagrantfile", "box = \"micro\"\n")]);
    let root = std::fs::canonicalize(dir.path()).unwrap();
    assert_eq!(project.root, root);
    assert_eq!(project.file, root.join("Vagrantfile"));
    let [machine] = project.machines.as_slice() else { panic!("{:?}", project.machines) };
    assert_eq!((machine.name.as_str(), machine.hostname.as_str()), ("default", "default"));
    assert_eq!((machine.box_name.as_str(), machine.cpus), ("micro", 1));
    assert_eq!((machine.memory, machine.disk), (1 << 30, None));
    assert_eq!((machine.provider, machine.kernel), (None, KernelChoice::Stock));
    assert_eq!(machine.boot_timeout, Duration::from_secs(300));
    assert_eq!(machine.halt_timeout, Duration::from_secs(60));
    assert!(machine.ports.is_empty() && machine.steps.is_empty());
    assert_eq!((project.login.user.as_str(), project.login.key.is_none()), ("vagrant", true));
}

#[test]
fn machines_belong_together() {
    let text = r#"
box = "micro"
groups = ["shop"]
message = "${GREETING:-hello}"

[[ready]]
file = "/run/booted"
timeout = 5

[[machine]]
name = "lb"
groups = ["front", "shop"]
depends_on = ["front", "db", "db"]
primary = true
message = "http://localhost:8080"

[[machine]]
name = "web"
groups = ["front"]
depends_on = ["db"]

[[machine.ready]]
port = 80

[[machine.ready]]
command = "test ${UP} = 1"
timeout = "2m"

[[machine]]
name = "db"
autostart = false
"#;
    let (_dir, project) = project(&[("Vagrantfile", text)]);
    let [lb, web, db] = project.machines.as_slice() else { panic!("three machines") };
    assert_eq!(
        (&lb.groups[..], &db.groups[..]),
        (&["shop".into(), "front".into()][..], &["shop".into()][..])
    );
    assert_eq!(lb.depends_on, ["web", "db"]);
    assert_eq!((&web.depends_on[..], db.depends_on.len()), (&["db".to_owned()][..], 0));
    assert_eq!([lb.primary, web.primary, db.primary], [true, false, false]);
    assert_eq!([lb.autostart, web.autostart, db.autostart], [true, true, false]);
    assert_eq!(lb.message.as_deref(), Some("http://localhost:8080"));
    assert_eq!(db.message.as_deref(), Some("hello"));
    let probe = |check, seconds| Probe { check, timeout: Duration::from_secs(seconds) };
    let booted = probe(Check::File("/run/booted".into()), 5);
    let port = probe(Check::Port(80), 60);
    let command = probe(Check::Command("test ${UP} = 1".into()), 120);
    assert_eq!(web.ready, [booted.clone(), port, command]);
    assert_eq!(db.ready, [booted]);
}

#[test]
fn copies_have_numbers() {
    let text = r#"
box = "micro"

[[port]]
guest = 22
host = "{i+2300}"
auto_correct = true

[[machine]]
name = "k8s-{i:02}"
count = "${NODES:-3}"
hostname = "node{i}.${DOMAIN:-example}"
groups = ["all"]
depends_on = ["mon", "rgw"]
message = "10.0.0.{i+100} {{i}} {{.Names}} {x}"

[[machine.port]]
guest = 6443
host = "{(i-1)*10+6443}"

[[machine.provision]]
name = "join-{i}"
shell = "echo {i} ${i}"
args = ["{i}", "{{ i }}"]

[[machine]]
name = "mon"
count = 2
groups = ["all", "ceph"]

[[machine]]
name = "rgw"
count = 0
groups = ["ceph"]
"#;
    let (_dir, project) = project(&[("Vagrantfile", text)]);
    let names: Vec<_> = project.machines.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["k8s-01", "k8s-02", "k8s-03", "mon-1", "mon-2"]);
    let third = &project.machines[2];
    assert_eq!(third.hostname, "node3.example");
    assert_eq!(third.groups, ["all", "k8s"]);
    assert_eq!(third.depends_on, ["mon-1", "mon-2"]);
    assert_eq!(third.message.as_deref(), Some("10.0.0.103 {{i}} {{.Names}} {x}"));
    assert_eq!(third.ports.iter().map(|port| port.host).collect::<Vec<_>>(), [2303, 6463]);
    assert_eq!(third.steps[0].name, "join-3");
    let StepKind::Shell { script: Script::Inline(script), args, .. } = &third.steps[0].kind else { panic!() };
    assert_eq!((script.as_str(), &args[..]), ("echo {i} ${i}", &["3".to_owned(), "{{ i }}".to_owned()][..]));
    assert_eq!(project.machines[4].hostname, "mon-2");
    assert_eq!(project.machines[4].groups, ["all", "ceph", "mon"]);
}

#[test]
fn shares_of_the_host() {
    let of = |cpus: &str, memory: &str, host: Host| {
        let dir = folder(&[("Vagrantfile", &format!("box = 'micro'\ncpus = {cpus}\nmemory = {memory}\n"))]);
        let inputs = Inputs { env: &|_| None, vars: &[], host: Some(host) };
        let project = config::load_with(&dir.path().join("Vagrantfile"), &inputs).unwrap();
        (project.machines[0].cpus, project.machines[0].memory >> 20)
    };
    let host = Host { cpus: 6, memory: (10 << 30) + 4096 };
    assert_eq!(of("'auto'", "'half'", host), (6, 5120));
    assert_eq!(of("'half'", "'1/3'", host), (3, 3413));
    assert_eq!(of("'1/4'", "'25%'", host), (1, 2560));
    assert_eq!(of("'10%'", "'100%'", host), (1, 10240));
    assert_eq!(of("'${C:-1/2}'", "'${M:-1GiB}'", host), (3, 1024));
    let large = Host { cpus: 512, memory: u64::MAX };
    assert_eq!(of("'auto'", "'100%'", large), (64, 1 << 20));
    // The hypervisor takes all that a file may say.
    for mib in [64, 1 << 20] {
        assert!(rvm::vmm::memory::split(mib << 20).is_ok());
    }
    assert_eq!(of("'2/3'", "64", large), (64, 64));
}

#[test]
fn machines_lay_their_own_keys_over_the_defaults() {
    let text = r#"
rvm_version = ">=0.1"
box = "debian/13"
cpus = 2
memory = 512
disk = "10GB"
kernel = "fast"
boot_timeout = "2m"

[[port]]
guest = 22000
host = 22000
auto_correct = true

[[provision]]
packages = ["curl"]

[[machine]]
name = "web"
memory = "1.5GiB"
hostname = "web.example"
provider = "qemu"
halt_timeout = 5

[[machine.port]]
guest = 80
host = 8080
host_ip = "0.0.0.0"
protocol = "udp"

[[machine.provision]]
name = "site"
shell = "echo ${HOME}"
privileged = false
run = "always"
args = ["a b", "c"]

[[machine]]
name = "db"
box = "micro"
"#;
    let (_dir, project) = project(&[("Vagrantfile", text)]);
    let [web, db] = project.machines.as_slice() else { panic!("{:?}", project.machines) };
    assert_eq!((web.name.as_str(), web.hostname.as_str(), web.memory), ("web", "web.example", 1536 << 20));
    assert_eq!((web.cpus, web.disk, web.kernel), (2, Some(10 << 30), KernelChoice::Fast));
    assert_eq!((web.provider, web.halt_timeout), (Some(ProviderKind::Qemu), Duration::from_secs(5)));
    assert_eq!(web.boot_timeout, Duration::from_secs(120));
    assert_eq!((db.box_name.as_str(), db.memory, db.hostname.as_str()), ("micro", 512 << 20, "db"));

    assert_eq!(web.ports.iter().map(|p| p.host).collect::<Vec<_>>(), [22000, 8080]);
    assert_eq!(web.ports[0].host_ip, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert_eq!((web.ports[1].host_ip, web.ports[1].protocol), (Ipv4Addr::UNSPECIFIED.into(), Protocol::Udp));
    assert_eq!(db.ports.len(), 1);

    let names: Vec<_> = web.steps.iter().map(|s| (s.name.as_str(), s.run)).collect();
    assert_eq!(names, [("packages-1", RunPolicy::Once), ("site", RunPolicy::Always)]);
    let StepKind::Shell { script: Script::Inline(script), args, privileged } = &web.steps[1].kind else {
        panic!("{:?}", web.steps[1])
    };
    assert_eq!((script.as_str(), *privileged), ("echo ${HOME}", false), "scripts are left to the shell");
    assert_eq!(args, &["a b", "c"]);
    assert_eq!(db.steps.len(), 1);
}

#[test]
fn env_file_and_environment_fill_in_and_reach_steps() {
    let vagrantfile = r#"
env_file = "conf/site.env"
box = "${BOX:-micro}"
cpus = "${CPUS}"
memory = "${MEM:-256}"

[[port]]
guest = 80
host = "${WEB_PORT}"
auto_correct = "${MOVE:-true}"

[[provision]]
path = "setup.sh"
env = ["DB_PASSWORD", "FROM_PROCESS"]
args = ["${STAGE:-dev}"]

[[provision]]
file = { source = "${SITE}/index.html", destination = "/srv/$${x}" }
"#;
    let dir = folder(&[
        ("Vagrantfile", vagrantfile),
        ("conf/site.env", "export CPUS=3\nWEB_PORT=8081\nDB_PASSWORD='top secret'\nSITE=pages\n"),
        ("setup.sh", "true\n"),
        ("pages/index.html", "hi"),
    ]);
    let env = [("CPUS", "4"), ("FROM_PROCESS", "process value")];
    let project = load(dir.path(), &env).unwrap_or_else(|error| panic!("{error}"));
    let machine = &project.machines[0];
    assert_eq!((machine.cpus, machine.memory), (4, 256 << 20), "the environment wins over the ENV file");
    assert_eq!((machine.ports[0].host, machine.ports[0].auto_correct), (8081, true));
    let env: Vec<_> = machine.steps[0].env.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
    assert_eq!(env, [("DB_PASSWORD", "top secret"), ("FROM_PROCESS", "process value")]);
    assert!(machine.steps[1].env.is_empty(), "no step gets what it does not name");
    let StepKind::Shell { script: Script::Path(path), args, .. } = &machine.steps[0].kind else { panic!() };
    assert_eq!((path, args.as_slice()), (&project.root.join("setup.sh"), ["dev".to_owned()].as_slice()));
    let StepKind::File(copy) = &machine.steps[1].kind else { panic!() };
    assert_eq!(
        (&copy.source, copy.destination.as_str()),
        (&project.root.join("pages/index.html"), "/srv/${x}")
    );

    let masked = project.masker.mask("top secret, process value, port 8081, pages");
    assert_eq!(masked, "***, ***, port 8081, ***");
    assert!(!format!("{project:?}").contains("secret"), "Debug shows no value");
}

#[test]
fn credentials_come_from_the_env_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder(&[
        ("Vagrantfile", "box = 'micro'\nenv_file = 'conf/.env'\n"),
        ("conf/.env", "RVM_SSH_USER=deployer\nRVM_SSH_PASSWORD='pa$word'\nRVM_SSH_KEY=id\n"),
        ("conf/id", "key"),
    ]);
    let key = std::fs::canonicalize(dir.path()).unwrap().join("conf/id");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let project = load(dir.path(), &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(project.login.user, "deployer");
    assert_eq!(project.login.password.as_ref().unwrap().expose(), "pa$word");
    assert_eq!(project.login.key.as_ref(), Some(&key));
    assert_eq!(project.masker.mask("deployer pa$word"), "deployer ***");

    let home = dir.path().join("conf");
    std::fs::write(dir.path().join("conf/.env"), "RVM_SSH_KEY=~/id\nRVM_SSH_USER=\n").unwrap();
    let project = load(dir.path(), &[("HOME", home.to_str().unwrap())]).unwrap();
    assert_eq!(project.login.key.as_deref(), Some(home.join("id").as_path()));
    assert_eq!(project.login.user, "vagrant", "an empty value counts as none");
}

#[test]
fn a_missing_default_env_file_is_fine() {
    let (_dir, project) = project(&[("Vagrantfile", "box = 'micro'\n[[provision]]\nshell = 'true'\n")]);
    assert_eq!(project.masker.mask("nothing is hidden"), "nothing is hidden");
}

#[test]
fn ports_may_repeat_where_one_of_them_can_move_or_they_do_not_meet() {
    let text = "box = 'micro'\n\
        [[port]]\nguest = 1\nhost = 8080\n\
        [[port]]\nguest = 2\nhost = 8080\nauto_correct = true\n\
        [[port]]\nguest = 3\nhost = 8080\nprotocol = 'udp'\n\
        [[port]]\nguest = 4\nhost = 8080\nhost_ip = '127.0.0.2'\n";
    let (_dir, project) = project(&[("Vagrantfile", text)]);
    assert_eq!(project.machines[0].ports.len(), 4);
}

#[test]
fn a_range_of_ports_is_a_forward_for_each() {
    let text = "box = 'micro'\n\
        [[port]]\nguest = '8000-8002'\nhost = ' 9000 - 9002 '\nprotocol = 'udp'\n\
        [[port]]\nguest = '80-80'\nhost = 8080\n";
    let (_dir, project) = project(&[("Vagrantfile", text)]);
    let ports: Vec<_> =
        project.machines[0].ports.iter().map(|p| (p.host, p.guest, p.protocol.as_str())).collect();
    assert_eq!(ports, [(9000, 8000, "udp"), (9001, 8001, "udp"), (9002, 8002, "udp"), (8080, 80, "tcp")]);
}

#[test]
fn unnamed_steps_never_take_the_name_of_another() {
    let text = "box = 'micro'\n[[provision]]\nname = 'shell-2'\nshell = 'a'\n[[provision]]\nshell = 'b'\n";
    let (_dir, project) = project(&[("Vagrantfile", text)]);
    let names: Vec<_> = project.machines[0].steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["shell-2", "shell-2x"]);
}

#[test]
fn steps_may_be_tried_again_bounded_hidden_and_followed_by_a_reboot() {
    let text = "box = 'micro'\n\
        [[provision]]\nshell = 'a'\nretries = 3\ntimeout = '5m'\nsensitive = true\nreboot = true\n\
        [[provision]]\nreboot = true\n\
        [[provision]]\nshell = 'b'\nreboot = false\n";
    let (_dir, project) = project(&[("Vagrantfile", text)]);
    let [first, second, third] = project.machines[0].steps.as_slice() else { panic!() };
    assert_eq!((first.retries, first.timeout), (3, Some(Duration::from_secs(300))));
    assert!(first.sensitive && first.reboot && matches!(first.kind, StepKind::Shell { .. }));
    assert!(second.reboot && matches!(second.kind, StepKind::Reboot) && second.name == "reboot-2");
    assert_eq!((third.retries, third.timeout, third.sensitive, third.reboot), (0, None, false, false));
}

#[test]
fn hooks_have_a_moment_a_side_and_their_machines() {
    let text = "box = 'micro'\n\
        [[machine]]\nname = 'web'\ngroups = ['front']\n[[machine]]\nname = 'db'\n\
        [[hook]]\nbefore = ['halt', 'destroy']\non = 'guest'\nmachines = ['front']\nshell = 'dump'\ntimeout = 5\n\
        [[hook]]\nafter = 'up'\nname = 'open'\non_error = 'continue'\nenv = ['A']\nshell = 'open'\n";
    let (_dir, project) = project(&[("Vagrantfile", text), (".env", "A=value\n")]);
    let [first, second] = project.hooks.as_slice() else { panic!("{:?}", project.hooks) };
    assert_eq!(
        (first.moment, first.commands.as_slice()),
        (Moment::Before, [Hooked::Halt, Hooked::Destroy].as_slice())
    );
    assert_eq!(
        (first.side, first.machines.as_slice(), first.may_fail),
        (Side::Guest, ["web".to_owned()].as_slice(), false)
    );
    assert_eq!((first.step.name.as_str(), first.step.timeout), ("hook-1", Some(Duration::from_secs(5))));
    assert_eq!((second.moment, second.side, second.may_fail), (Moment::After, Side::Host, true));
    assert_eq!(second.machines, ["web", "db"]);
    assert_eq!((second.step.name.as_str(), second.step.timeout), ("open", Some(Duration::from_secs(300))));
    assert_eq!(second.step.env[0].1.expose(), "value");
}

#[test]
fn the_template_is_a_valid_file() {
    for name in ["micro", "debian/13"] {
        let (_dir, project) = project(&[("Vagrantfile", &config::template(name))]);
        assert_eq!(project.machines[0].box_name, name);
    }
    // Its commented parts too, once they are uncommented.
    let uncommented: String = config::template("micro")
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ") || rest.starts_with('[')))
        .zip(config::template("micro").lines())
        .map(|(rest, line)| format!("{}\n", rest.unwrap_or(line)))
        .collect();
    let (_dir, project) = project(&[("Vagrantfile", &uncommented), (".env", "GREETING=hello\n")]);
    assert_eq!(project.machines[0].steps.len(), 2);
    assert_eq!(project.machines[0].ports.len(), 1);
}

#[test]
fn box_names() {
    for name in ["micro", "debian/13", "my.box_1/x-2"] {
        assert!(config::is_box_name(name), "{name}");
    }
    for name in ["", "..", "../x", "a/b/c", "A", "a/", "/a", "a b", ".hidden", "a/.."] {
        assert!(!config::is_box_name(name), "{name}");
    }
}
