//! A file that was edited: what `plan` says, what `up` applies, what a reload applies. The lock file.

use std::io::Read;

use serde_json::Value;

use crate::common::{Project, free_port};

const BEFORE: &str = r#"
box = "micro"
memory = "128MiB"

[[provision]]
name = "greet"
shell = "echo $GREETING > /etc/e2e-greeting"
env = ["GREETING"]
"#;

/// The differences of the only machine, as `what: what applies it`.
fn changes(project: &Project) -> Vec<String> {
    let ran = project.rvm(&["plan", "--json"]).ok().says_not("hallo").says_not("secret-word");
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    let list = document["machines"][0]["changes"].as_array().unwrap().clone();
    list.iter()
        .map(|c| format!("{}: {}", c["what"].as_str().unwrap(), c["applied_by"].as_str().unwrap()))
        .collect()
}

/// From a machine that is as its file says, by an edited file, to one that is so again.
pub fn an_edited_file_is_planned_applied_and_reloaded(provider: &str) {
    let project = Project::new(provider, BEFORE);
    project.write(".env", "GREETING=hallo-secret-word\n");
    project.rvm(&["plan", "--exit-code"]).code(2).says("will be created").says("+ step       greet");
    project.rvm(&["up"]).ok();
    project.rvm(&["plan", "--exit-code"]).ok().says("as the Vagrantfile says");
    let lock = std::fs::read_to_string(project.root.join("Vagrantfile.lock")).unwrap();
    assert!(lock.contains("name = \"micro\"") && lock.contains("\n    \"busybox-static "), "{lock}");
    project.rvm(&["lock", "--check"]).ok();

    let after = BEFORE.replace("128MiB", "112MiB").replace("> /etc", ">> /etc");
    let port = free_port();
    let edited = format!("hostname = \"other\"\n{after}\n[[port]]\nguest = 22\nhost = {port}\n");
    project.vagrantfile(provider, &edited);
    project.write(".env", "GREETING=neu-secret-word\n");
    let memory = if provider == "kvm" { "memory: up" } else { "memory: reload" };
    assert_eq!(changes(&project), [memory, "hostname: reload", "port: up"]);
    project
        .rvm(&["plan", "--exit-code"])
        .code(2)
        .says("~ hostname   default → other: `rvm reload default` applies it")
        .says("~ step       greet (shell): changed since it succeeded: env GREETING, script");

    let up = project.rvm(&["up", "--locked"]).ok();
    let up = up.says("hostname default → other: `rvm reload default` applies it").says("not applied:");
    if provider == "kvm" {
        up.says("Applied: memory 128 MiB → 112 MiB");
    } else {
        up.says("memory 128 MiB → 112 MiB: `rvm reload default` applies it");
    }
    let mut greeting = [0; 4];
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"SSH-", "the port is open");
    drop(stream);
    assert_eq!(project.ssh("wc -l < /etc/e2e-greeting").trim(), "2", "the changed step ran");
    assert_eq!(project.ssh("hostname"), "default");
    project.rvm(&["plan", "--exit-code"]).code(2).says_not("greet");

    project.rvm(&["reload"]).ok();
    assert_eq!(project.ssh("hostname"), "other");
    project.rvm(&["plan", "--exit-code"]).ok();
    assert_eq!(
        std::fs::read_to_string(project.root.join("Vagrantfile.lock")).unwrap(),
        lock,
        "nothing churns"
    );
}
