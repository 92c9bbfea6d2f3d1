//! What `up` would do, told of machines that are not there or do not run.

use std::net::TcpListener;

use serde_json::{Value, json};

use super::{Place, Ran};

const ID: &str = "0123456789abcdef0123456789abcdef";

fn document(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", ran.stdout, ran.stderr))
}

impl Place {
    /// A machine that was made and is switched off, as the first version of its record has it; its id.
    pub fn made(&self, name: &str) -> &'static str {
        let project = self.project().canonicalize().unwrap();
        let record = json!({
            "version": 1, "id": ID, "name": name, "project": project, "file": project.join("Vagrantfile"),
            "created": 1, "made": true, "started": false, "reached": true,
            "applied": {
                "box_name": "micro", "disk": null, "cpus": 1, "memory": 134217728, "hostname": name,
                "kernel": "stock", "provider": null,
                "ports": [{
                    "guest": 80, "host": 8080, "host_ip": "127.0.0.1", "protocol": "tcp", "auto_correct": false,
                }],
            },
            "image": {
                "name": "micro", "digest": "aaaabbbbccccdddd", "dir": "/b", "root_disk": "/b/r", "size": 1,
                "default_disk": 1, "created": 1, "kernel_version": "6.12-cloud", "default_user": "vagrant",
                "mirror": "http://m", "packages": [],
            },
            "provider": "qemu", "ports": [], "ssh": null, "user": "vagrant", "identity": null,
        });
        let dir = self.home().join("machines").join(ID);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("machine.json"), record.to_string()).unwrap();
        ID
    }
}

#[test]
fn a_project_of_which_nothing_exists() {
    let place = Place::with(
        "box = \"micro\"\nprovider = \"kvm\"\n[[machine]]\nname = \"web\"\nmemory = \"2GiB\"\n[[machine.provision]]\n\
         name = \"hello\"\nshell = \"true\"\n[[machine]]\nname = \"db\"\nbox = \"debian/13\"\nkernel = \"fast\"\n",
    );
    let before = place.files();
    let ran = place.run(&["plan"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    for part in [
        "web: not created, will be created\n  + box        micro, which is built first\n",
        "  + hardware   1 CPU, 2048 MiB of memory\n",
        "  + step       hello (shell): has not succeeded yet\n",
        "  + kernel     fast, which is built first\n",
        "\n`rvm up` creates 2 of 2 machines.",
    ] {
        assert!(ran.stdout.contains(part), "{part}{}", ran.stdout);
    }
    let only = place.run(&["plan", "db"]);
    assert!(only.stdout.starts_with("db: ") && !only.stdout.contains("web"), "{}", only.stdout);
    assert_eq!(place.files(), before, "looking leaves no files");
}

/// A folder that has vanished keeps nobody from stopping and removing a machine.
#[test]
fn a_folder_of_the_host_that_is_gone() {
    let gone = "[[machine.folder]]\nhost = \"gone\"\nguest = \"/srv/a\"\n";
    let place = Place::with(format!(
        "box = \"micro\"\n[[machine]]\nname = \"web\"\n{gone}type = \"rsync\"\n[[machine]]\nname = \"db\"\n{gone}"
    ));
    place.made("web");
    for words in [&["status", "web"][..], &["halt", "web"], &["port", "web"]] {
        let ran = place.run(words);
        assert!(!ran.stderr.contains("gone"), "{words:?}: {}", ran.stderr);
    }
    assert_eq!(place.run(&["halt"]).code, 0);
    let ran = place.run(&["plan", "--exit-code", "web"]);
    assert!(
        ran.code == 1 && ran.stdout.contains("/project/gone of this host"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    let uses: [(&[&str], &[&str]); 6] = [
        (&["up"], &["5:8", "11:8"]),
        (&["up", "db"], &["11:8"]),
        (&["reload", "web"], &["5:8"]),
        (&["rsync", "web"], &["5:8"]),
        (&["rsync-auto", "web"], &["5:8"]),
        (&["validate"], &["5:8", "11:8"]),
    ];
    for (words, places) in uses {
        let ran = place.run(words);
        let told: Vec<&str> = ["5:8", "11:8"]
            .into_iter()
            .filter(|place| ran.stderr.contains(&format!("Vagrantfile:{place}")))
            .collect();
        assert_eq!((ran.code, told.as_slice()), (2, places), "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("host = \"gone\""), "{}", ran.stderr);
    }
    let ran = place.run(&["validate", "--json"]);
    assert_eq!(document(&ran)["error"]["problems"].as_array().unwrap().len(), 2, "{}", ran.stdout);
    assert_eq!(place.run(&["destroy", "-f", "web"]).code, 0);
}

#[test]
fn the_document() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = Place::with(format!(
        "box = \"micro\"\ncpus = 2\n[[port]]\nguest = 80\nhost = {port}\n[[provision]]\nname = \"s\"\nshell = \"true\"\n"
    ));
    let ran = place.run(&["plan", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let mut value = document(&ran);
    // What runs machines depends on the host.
    let machine = &mut value["machines"][0];
    machine["start"]["provider"].take();
    machine["problems"]
        .as_array_mut()
        .unwrap()
        .retain(|p| !p["message"].as_str().unwrap().contains("this host"));
    let expected = json!({
        "version": 1,
        "differences": true,
        "machines": [{
            "name": "default", "id": null, "state": "not_created", "action": "create", "differs": true,
            "depends_on": [],
            "start": {
                "box": { "name": "micro", "digest": null },
                "kernel": { "choice": "stock", "version": null },
                "provider": null, "cpus": 2, "memory": 1_073_741_824, "disk_bytes": null,
                "ports": [{
                    "declared": { "guest": 80, "host": port, "host_ip": "127.0.0.1", "protocol": "tcp" },
                    "host": port,
                }],
            },
            "changes": [],
            "steps": [{ "name": "s", "type": "shell", "runs": true, "why": "new", "changed": null }],
            "problems": [], "busy": null,
        }],
        "after_all": [],
        "undeclared": [],
    });
    assert_eq!(value, expected);
}

#[test]
fn a_machine_of_an_older_rvm_is_compared() {
    let place = Place::with("box = \"micro\"\nmemory = \"256MiB\"\n");
    place.made("default");
    let before = place.files();
    let ran = place.run(&["plan"]);
    for part in [
        "default: poweroff, will be started\n",
        "  ~ memory     128 MiB → 256 MiB\n",
        "  - port       127.0.0.1:8080 → 80\n",
        "    kernel     stock, 6.12-cloud\n",
    ] {
        assert!(ran.stdout.contains(part), "{part}{}{}", ran.stdout, ran.stderr);
    }
    let changes = &document(&place.run(&["plan", "--json"]))["machines"][0]["changes"];
    let port = json!({ "what": "port", "old": "127.0.0.1:8080 → 80", "new": null, "applied_by": "up" });
    assert!(changes.as_array().unwrap().contains(&port), "{changes}");
    assert_eq!(place.files(), before, "looking changes nothing");
}

#[test]
fn a_box_and_a_disk_of_another_kind_want_a_new_machine() {
    let place = Place::with("box = \"debian/13\"\ndisk = \"20GiB\"\nmemory = \"128MiB\"\n");
    place.made("default");
    let ran = place.run(&["plan"]);
    let remedy = "`rvm destroy default` and `rvm up default` make it anew";
    assert!(ran.stdout.contains(&format!("  ~ box        micro → debian/13: {remedy}\n")), "{}", ran.stdout);
    assert!(ran.stdout.contains(&format!("as the box has it → 20480 MiB: {remedy}\n")), "{}", ran.stdout);
}

#[test]
fn a_machine_that_the_file_forgot_is_a_difference() {
    let place = Place::with("box = \"micro\"\n");
    place.made("old");
    let ran = place.run(&["plan"]);
    assert!(
        ran.stdout.contains(
            "old: not in the Vagrantfile any more\n  - machine    `rvm destroy 0123456` removes it"
        ),
        "{}",
        ran.stdout
    );
    let value = document(&place.run(&["plan", "--json"]));
    assert_eq!(value["undeclared"], json!([{ "id": ID, "name": "old" }]));
}

#[test]
fn exit_codes() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let place = Place::with(format!("box = \"micro\"\n[[port]]\nguest = 80\nhost = {port}\n"));
    let ran = place.run(&["plan"]);
    assert!(
        ran.stdout.contains("  ! problem    port") && ran.stdout.contains("It would fail for 1"),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.code, 0, "a plan was made");
    assert_eq!(place.run(&["plan", "--exit-code"]).code, 1);
    // One that moves is no problem. Without a provider there would be one all the same.
    let moves = format!("box = \"micro\"\n[[port]]\nguest = 80\nhost = {port}\nauto_correct = true\n");
    place.write("Vagrantfile", moves);
    let ran = place.run(&["plan", "--exit-code"]);
    assert!(ran.stdout.contains(&format!("127.0.0.1:{port} → 80: taken, so 22")), "{}", ran.stdout);
    assert_eq!(ran.code, if ran.stdout.contains("problem") { 1 } else { 2 });
    place.write("Vagrantfile", "box = \"no-such\"\n");
    assert_eq!(place.run(&["plan", "--exit-code"]).code, 1);
    place.write("Vagrantfile", "box = 1\n");
    assert_eq!(place.run(&["plan"]).code, 2);
}

#[test]
fn values_of_the_env_file_are_not_shown() {
    let place = Place::with(
        "box = \"micro\"\n[[provision]]\nname = \"s-hunter2\"\nshell = \"true\"\nenv = [\"DB_PASSWORD\"]\n",
    );
    place.write(".env", "DB_PASSWORD=hunter2\nRVM_SSH_PASSWORD=correct-horse\n");
    for words in [&["plan"][..], &["plan", "--json"]] {
        let ran = place.run(words);
        assert!(!ran.stdout.contains("hunter2") && !ran.stdout.contains("correct-horse"), "{}", ran.stdout);
        assert!(ran.stdout.contains("s-***"), "{}", ran.stdout);
    }
}

#[test]
fn what_comes_after_all_machines_is_told() {
    let place = Place::with(
        "box = \"micro\"\nprovider = \"kvm\"\n[[after_all]]\nname = \"check\"\nshell = \"true\"\n\
         [[after_all]]\nname = \"site\"\nansible = \"site.yml\"\n[[after_all]]\nname = \"greet\"\non = \"guest\"\n\
         run = \"always\"\nshell = \"true\"\n",
    );
    std::fs::write(place.project().join("site.yml"), "- hosts: all\n").unwrap();
    let ran = place.run(&["plan"]);
    let told = "after all machines\n  + step       check (shell, host): has not succeeded yet\n  \
                + step       site (ansible, host): has not succeeded yet\n    \
                step       greet (shell, default): runs each time\n";
    assert!(ran.code == 0 && ran.stdout.contains(told), "{}{}", ran.stdout, ran.stderr);
    let after = document(&place.run(&["plan", "--json"]))["after_all"].clone();
    let site = json!({
        "name": "site", "type": "ansible", "on": "host", "machines": ["default"],
        "runs": true, "why": "new", "changed": null, "problem": null,
    });
    assert_eq!(after[1], site);
    assert_eq!(after[2]["on"], "guest");
}
