//! `docker` steps with a real engine, in a Debian that another test has booted.
//!
//! To install the engine takes an emulated guest minutes. So the host unpacks its packages into the project's
//! folder, and a step starts it from there; the image is an archive that is made here, of a static program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::common::Project;

/// What an engine is made of, as Debian packs it; newer releases have the client in a package of its own.
const ENGINE: &[&str] = &["docker.io", "containerd", "runc", "libdevmapper1.02.1"];
const CLIENT: &str = "docker-cli";
/// Its files, wherever the packages have them.
const FILES: &[&str] =
    &["docker", "dockerd", "containerd", "containerd-shim-runc-v2", "runc", "libdevmapper.so.1.02.1"];

/// Without firewall rules, networks and AppArmor profiles of its own, it needs nothing but these files.
const STEPS: &str = r#"
[[provision]]
name = "engine"
timeout = "5m"
shell = '''
printf '#!/bin/sh\nexec /vagrant/engine/docker "$@"\n' >/usr/local/bin/docker
chmod 755 /usr/local/bin/docker
# What it starts of itself has no environment.
cp /vagrant/engine/libdevmapper.so.1.02.1 /usr/lib/x86_64-linux-gnu/
systemd-run -q --unit docker -E PATH=/vagrant/engine:$PATH \
  /vagrant/engine/dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs
until docker info >/dev/null 2>&1; do
  systemctl is-active -q docker || { journalctl --no-pager -u docker | tail -n 20; exit 1; }
  sleep 1
done
'''

[[provision]]
name = "services"

[provision.docker]
archives = ["tiny.tar"]
remove = true

[[provision.docker.container]]
name = "page"
image = "tiny:1"
network = "host"
options = ["--security-opt", "apparmor=unconfined"]
env = { GREETING = "${GREETING}" }
command = ["/bin/busybox", "sh", "-c", "mkdir /www && echo \"$GREETING\" >/www/index.html && exec /bin/busybox httpd -f -p 80 -h /www"]
"#;

const SECOND: &str = r#"
[[provision.docker.container]]
name = "second"
image = "tiny:1"
network = "none"
options = ["--security-opt", "apparmor=unconfined"]
command = ["/bin/busybox", "sleep", "1000000"]
"#;

fn run(command: &mut Command) -> bool {
    let output = command.output().unwrap();
    print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

/// Downloads packages of this host's distribution and unpacks them.
fn fetch(names: &[&str], to: &Path) {
    let debs = tempfile::tempdir().unwrap();
    assert!(run(Command::new("apt-get").arg("download").args(names).current_dir(debs.path())), "{names:?}");
    for deb in fs::read_dir(debs.path()).unwrap() {
        assert!(run(Command::new("dpkg-deb").arg("-x").arg(deb.unwrap().path()).arg(to)));
    }
}

/// The program or library of that name below a folder, links followed; not what completes its name in a shell.
fn find(name: &str, below: &Path) -> Option<PathBuf> {
    let output = Command::new("find").arg(below).args(["-name", name]).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    let is_wanted = |path: &PathBuf| {
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
        path.is_file() && (name.contains(".so.") || ["bin", "sbin"].iter().any(|known| folder == *known))
    };
    found.lines().map(PathBuf::from).find(is_wanted)
}

fn engine(to: &Path) {
    let unpacked = tempfile::tempdir_in(to.parent().unwrap()).unwrap();
    fetch(ENGINE, unpacked.path());
    if find("docker", unpacked.path()).is_none() {
        fetch(&[CLIENT], unpacked.path());
    }
    fs::create_dir(to).unwrap();
    for name in FILES {
        let path = find(name, unpacked.path()).unwrap_or_else(|| panic!("no {name} in the packages"));
        fs::copy(path, to.join(name)).unwrap();
    }
}

/// An archive as `docker save` writes it, of one image with one program.
fn archive(path: &Path) {
    let tar = |files: &[(&str, &[u8])]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, data) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            header.set_mode(0o755);
            builder.append_data(&mut header, name, *data).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let digest = |data: &[u8]| Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let layer = tar(&[("bin/busybox", &fs::read("/bin/busybox").unwrap())]);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/busybox"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))] },
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest =
        serde_json::json!([{ "Config": config_name, "RepoTags": ["tiny:1"], "Layers": ["layer.tar"] }]);
    let image = tar(&[
        (&config_name, config.as_bytes()),
        ("layer.tar", &layer),
        ("manifest.json", manifest.to_string().as_bytes()),
    ]);
    fs::write(path, image).unwrap();
}

/// Images and containers come about in the machine of a project, again only where something changed, and the
/// secret of one is on no screen.
pub fn come_about_in(project: &Project) {
    let file = fs::read_to_string(project.root.join("Vagrantfile")).unwrap();
    engine(&project.root.join("engine"));
    archive(&project.root.join("tiny.tar"));
    let env = fs::read_to_string(project.root.join(".env")).unwrap();
    let up = |steps: &str, greeting: &str| {
        project.write("Vagrantfile", &format!("{file}{steps}"));
        project.write(".env", &format!("{env}GREETING={greeting}\n"));
        project.rvm(&["up"]).ok().says_not(greeting)
    };
    up(STEPS, "hello-from-env").says("container page: made");
    let page = || project.ssh("sudo docker exec page /bin/busybox wget -q -O- http://127.0.0.1/");
    assert_eq!(page(), "hello-from-env");
    let containers = || project.ssh("sudo docker ps --format '{{.Names}} {{.Image}}' | sort");
    assert_eq!(containers(), "page tiny:1");

    // One more: the other one stays as it is, and the image is not sent again.
    let more = up(&format!("{STEPS}{SECOND}"), "hello-from-env");
    more.says("page: as it should be").says("second: made").says_not("Loaded image");
    assert_eq!(containers(), "page tiny:1\nsecond tiny:1");

    // Another secret, and one less; one that was stopped by hand runs again.
    up(STEPS, "hello-again").says("page: made anew").says("second: removed");
    assert_eq!(page(), "hello-again");
    project.ssh("sudo docker stop -t 1 page");
    project.rvm(&["provision", "--provision-with", "services"]).ok().says("page: started");
}
