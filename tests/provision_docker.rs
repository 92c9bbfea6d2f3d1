//! `docker` steps, against a `docker` of a few lines that keeps what it is told in files.

mod provision_support;

use std::fs;

use provision_support::{Local, Userland, step};
use rvm::model::{Container, Docker, Event, ProvisionChoice, Restart, Secret, Step, StepKind};
use rvm::provision::ProvisionError;

/// Images and containers are folders; what a container was started with is in its files.
const DOCKER: &str = r#"#!/bin/sh
d=HOME/engine
mkdir -p "$d/images" "$d/containers" "$d/networks"
[ "$1" = load ] || echo "$*" >>"$d/log"
field() { cat "$d/containers/$1/$2" 2>/dev/null; }
case "$1 $2" in
  'info '*) [ ! -e "$d/dead" ] ;;
  'image inspect') for last; do :; done; cat "$d/images/$last" ;;
  'pull -q') case $3 in none*) echo "no such image" >&2; exit 1 ;; esac; echo "id-of-$3" >"$d/images/$3" ;;
  'network inspect') [ -e "$d/networks/$3" ] ;;
  'network create') : >"$d/networks/$3" ;;
  'load '*) cat >"$d/archive"; [ -s "$d/archive" ] || exit 1; echo "sha256:$(cat "$d/app-id")" >"$d/images/app:1"; echo 'Loaded image: app:1' ;;
  'container inspect')
    [ -d "$d/containers/$5" ] || exit 1
    case $4 in
      *digest*Image*) echo "$(field "$5" digest) $(field "$5" image)" ;;
      *rvm.step*) field "$5" step ;;
      *Running*) field "$5" running ;;
      *Status*) case $(field "$5" running) in true) echo running ;; *) echo exited ;; esac ;;
    esac ;;
  'start '*) echo true >"$d/containers/$2/running" ;;
  'rm -f') rm -r "$d/containers/$3" ;;
  'logs '*) echo "its last words" ;;
  'ps -a') for c in "$d/containers"/*; do [ "label=rvm.step=$(cat "$c/step")" = "$4" ] && basename "$c"; done; true ;;
  'run -d')
    c=$d/containers/$6
    mkdir "$c" || exit 1
    stat -c %a "$4" >"$c/label-mode"
    sed -n 's/^rvm.step=//p' "$4" >"$c/step"
    sed -n 's/^rvm.digest=//p' "$4" >"$c/digest"
    shift 6
    printf '%s|' "$@" >"$c/words"
    echo true >"$c/running"
    printf %s "$DOCKER_CONFIG" >"$d/config"
    while [ $# -gt 0 ]; do
      case $1 in
        -e) eval "printf '%s' \"\$$2\"" >"$c/env-$2"; shift 2 ;;
        --exits) echo false >"$c/running"; shift ;;
        -*) case $1 in --restart | -p | -v | --network) shift ;; esac; shift ;;
        *) cat "$d/images/$1" >"$c/image"; break ;;
      esac
    done ;;
  *) echo "what is $*?" >&2; exit 64 ;;
esac
"#;

const SECRET: &str = "pa'ss $(word)\nwith a second line";

fn container(name: &str) -> Container {
    Container {
        name: name.into(),
        image: "redis:7".into(),
        ports: vec!["127.0.0.1:6379:6379".into()],
        env: vec![("PASSWORD".into(), Secret::new(SECRET)), ("HOME".into(), Secret::new("/elsewhere"))],
        volumes: vec!["/srv/a b:/data".into()],
        command: vec!["redis-server".into(), "--save".into(), "".into(), "--".into(), "it's".into()],
        restart: Restart::default(),
        network: Some("backend".into()),
        options: vec!["--read-only".into()],
    }
}

fn plain(name: &str) -> Container {
    Container {
        ports: vec![],
        env: vec![],
        volumes: vec![],
        command: vec![],
        network: None,
        options: vec![],
        ..container(name)
    }
}

fn services(docker: Docker) -> Step {
    step("its services", StepKind::Docker(Box::new(docker)))
}

fn fake(local: &Local) -> String {
    DOCKER.replace("=HOME/", &format!("={}/", local.home.path().display()))
}

fn guest(userland: Userland) -> Local {
    // It finds its files whatever its environment says.
    let mut local = Local::new(userland);
    local.userland.add_program("docker", &fake(&local));
    // It makes no container of this host's.
    for name in ["systemctl", "rc-service", "rc-update"] {
        local.userland.add_program(name, "#!/bin/sh\nexit 1\n");
    }
    local.userland.add_program(
        "sudo",
        "#!/bin/sh\n[ \"$1\" = -n ] || exit 9\nshift\n[ \"$1\" != -H ] || shift\nexec \"$@\"\n",
    );
    local.secrets = vec![SECRET.into()];
    local
}

impl Local {
    fn kept(&self, path: &str) -> String {
        fs::read_to_string(self.at("engine").join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// What the engine was told to change since the last call.
    fn told(&self) -> Vec<String> {
        let log = fs::read_to_string(self.at("engine/log")).unwrap_or_default();
        fs::write(self.at("engine/log"), "").unwrap();
        let asks = ["info", "image inspect", "container inspect", "network inspect", "ps", "logs"];
        log.lines().filter(|line| !asks.iter().any(|ask| line.starts_with(ask))).map(str::to_owned).collect()
    }
}

#[test]
fn a_container_gets_all_that_it_is_to_have() {
    for userland in Userland::all() {
        let local = guest(userland);
        local.run(&[services(Docker { containers: vec![container("cache")], ..Docker::default() })]).unwrap();
        let words = "--restart|unless-stopped|-p|127.0.0.1:6379:6379|-v|/srv/a b:/data|-e|PASSWORD|-e|HOME|--network|\
                     backend|--read-only|redis:7|redis-server|--save||--|it's|";
        assert_eq!(local.kept("containers/cache/words"), words);
        assert_eq!(local.kept("containers/cache/env-PASSWORD"), SECRET);
        assert_eq!(local.kept("containers/cache/env-HOME"), "/elsewhere");
        assert_eq!(local.kept("config"), format!("{}/.docker", local.home.path().display()));
        assert_eq!(local.kept("containers/cache/step"), "its services\n");
        assert_eq!(local.kept("containers/cache/label-mode"), "600\n");
        assert!(local.at("engine/networks/backend").exists());
        let told = local.told();
        assert!(told.iter().all(|line| !line.contains("pa'ss")), "{told:?}");
        assert!(local.commands.borrow().iter().all(|command| !command.contains("pa'ss")));
        let output = local.output();
        assert_eq!(output, ["container cache: made"]);
    }
}

#[test]
fn what_is_as_it_should_be_is_left_and_the_rest_is_made_anew() {
    let local = guest(Userland::busybox());
    let run = |containers: &[Container], remove: bool| {
        let docker = Docker { containers: containers.to_vec(), remove, ..Docker::default() };
        local.run_chosen(&[services(docker)], &ProvisionChoice::Force).unwrap();
        local.told().into_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (one, two) = (container("one"), plain("two"));
    assert_eq!(run(&[one.clone(), two.clone()], false), ["network", "pull", "run", "run"]);
    assert_eq!(run(&[one.clone(), two.clone()], false), [] as [&str; 0]);
    // Another password.
    let changed = Container { env: vec![("PASSWORD".into(), Secret::new("other"))], ..one.clone() };
    assert_eq!(run(&[changed.clone(), two.clone()], false), ["rm", "run"]);
    // The name leads to another image now.
    fs::write(local.at("engine/images/redis:7"), "id-of-newer").unwrap();
    assert_eq!(run(&[changed.clone(), two.clone()], false), ["rm", "run", "rm", "run"]);
    // One that somebody stopped.
    fs::write(local.at("engine/containers/two/running"), "false").unwrap();
    assert_eq!(run(&[changed.clone(), two.clone()], false), ["start"]);
    // One that is not in the file any more stays, unless it is to go. Those of others always stay.
    let foreign = local.at("engine/containers/foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("step"), "").unwrap();
    assert_eq!(run(std::slice::from_ref(&two), false), [] as [&str; 0]);
    assert_eq!(run(&[two], true), ["rm"]);
    assert!(!local.at("engine/containers/one").exists() && foreign.exists());
}

#[test]
fn archives_are_sent_once() {
    for userland in Userland::all() {
        let local = guest(userland);
        let host = tempfile::tempdir().unwrap();
        let archive = host.path().join("app.tar");
        fs::create_dir(local.at("engine")).unwrap();
        let save = |id: &str| {
            let id = id.repeat(64);
            let manifest = format!("[{{\"Config\":\"{id}.json\",\"RepoTags\":[\"app:1\"]}}]");
            let mut tar = tar::Builder::new(fs::File::create(&archive).unwrap());
            for (name, data) in [("layer.tar", vec![7; 300_000]), ("manifest.json", manifest.into_bytes())] {
                let mut header = tar::Header::new_gnu();
                header.set_size(data.len() as u64);
                tar.append_data(&mut header, name, data.as_slice()).unwrap();
            }
            tar.finish().unwrap();
            fs::write(local.at("engine/app-id"), id).unwrap();
        };
        save("1");
        let docker = Docker {
            archives: vec![archive.clone()],
            containers: vec![Container { image: "app:1".into(), ..plain("app") }],
            ..Docker::default()
        };
        local.run(&[services(docker.clone())]).unwrap();
        assert_eq!(fs::read(local.at("engine/archive")).unwrap(), fs::read(&archive).unwrap());
        assert_eq!(local.kept("containers/app/image"), format!("sha256:{}\n", "1".repeat(64)));
        fs::remove_file(local.at("engine/archive")).unwrap();
        local.run_chosen(&[services(docker.clone())], &ProvisionChoice::Force).unwrap();
        assert!(!local.at("engine/archive").exists(), "the guest has it already");
        assert_eq!(local.run(&[services(docker.clone())]).unwrap().ran, [] as [&str; 0]);
        save("2");
        local.run(&[services(docker)]).unwrap();
        assert_eq!(local.kept("containers/app/image"), format!("sha256:{}\n", "2".repeat(64)), "made anew");
    }
}

#[test]
fn what_goes_wrong_is_said() {
    let local = guest(Userland::busybox());
    let run = |docker: Docker| local.run_chosen(&[services(docker)], &ProvisionChoice::Force);
    let one = |container: Container| Docker { containers: vec![container], ..Docker::default() };
    let failed = |error: ProvisionError| matches!(error, ProvisionError::StepFailed { code: 1, .. });
    assert!(failed(run(Docker { images: vec!["none:1".into()], ..Docker::default() }).unwrap_err()));
    assert_eq!(local.output(), ["no such image", "rvm: there is no image none:1"]);
    // A container that ends at once.
    assert!(failed(run(one(Container { options: vec!["--exits".into()], ..plain("brief") })).unwrap_err()));
    assert!(local.output().join("\n").contains("its last words\nrvm: container brief has ended at once"));
    // A container that is not ours is not touched.
    fs::create_dir(local.at("engine/containers/foreign")).unwrap();
    fs::write(local.at("engine/containers/foreign/image"), "x").unwrap();
    assert!(failed(run(one(plain("foreign"))).unwrap_err()));
    assert!(local.output().join("\n").contains("there is a container foreign that no step made"));
    // No engine, and nothing that has one.
    let local = Local::new(Userland::dash());
    let error = local.run(&[services(one(plain("x")))]).unwrap_err();
    let fake = local.userland.name();
    assert!(error.to_string().contains("neither `docker` nor a package manager"), "{fake}: {error}");
}

#[test]
fn the_engine_is_installed_where_there_is_none() {
    let local = Local::new(Userland::busybox());
    let bin = local.at("bin-docker");
    fs::write(&bin, fake(&local)).unwrap();
    // What installs it puts it where programs are.
    let install = format!(
        "#!/bin/sh\necho \"$*\" >>$HOME/apt-log\ncase $* in *install*) cp {} \"${{0%/*}}/docker\" && chmod 755 \
         \"${{0%/*}}/docker\" ;; esac\n",
        bin.display()
    );
    local.userland.add_program("apt-get", &install);
    local.userland.add_program("dpkg-query", "#!/bin/sh\nexit 1\n");
    local.run(&[services(Docker { containers: vec![plain("cache")], ..Docker::default() })]).unwrap();
    let log = fs::read_to_string(local.at("apt-log")).unwrap();
    assert!(log.lines().last().unwrap().ends_with("install docker.io"), "{log}");
    let events = local.seen.0.lock().unwrap();
    assert!(
        events
            .iter()
            .any(|e| matches!(e, Event::Detail { text, .. } if text.contains("installing docker.io")))
    );
}
