//! `[ssh]`: the login user of one machine, and what the system's ssh client is told.

use rvm::config::{self, ConfigError};
use rvm::model::Project;

fn load(files: &[(&str, &str)]) -> Result<Project, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    config::load(&dir.path().join("Vagrantfile"), &|_| None)
}

#[test]
fn who_logs_in_and_what_the_client_is_told() {
    let text = r#"
box = "micro"

[ssh]
user = "${WHO:-admin}"
forward_agent = true
options = ["Compression yes"]

[profiles.desk.ssh]
forward_x11 = true
options = ["LogLevel=DEBUG"]

[[machine]]
name = "web"
profile = "desk"

[machine.ssh]
user = "deploy"
forward_agent = false
keep_alive = "true"
options = ["  SetEnv  A=1 "]

[[machine]]
name = "db"

[[machine]]
name = "node"
count = 2
ssh = { port = "{i+2200}" }
"#;
    let project = load(&[("Vagrantfile", text), (".env", "RVM_SSH_USER=everybody\n")]).unwrap();
    let client = |name: &str| {
        let machine = project.machines.iter().find(|machine| machine.name == name).unwrap();
        machine.ssh.client.lines()
    };
    assert_eq!(
        client("web"),
        [
            "ForwardX11 yes",
            "ServerAliveInterval 15",
            "ServerAliveCountMax 4",
            "Compression yes",
            "LogLevel=DEBUG",
            "SetEnv  A=1"
        ]
    );
    assert_eq!(client("db"), ["ForwardAgent yes", "Compression yes"]);
    let port = |name: &str| project.machines.iter().find(|machine| machine.name == name).unwrap().ssh.port;
    assert_eq!(
        [port("web"), port("db"), port("node-1"), port("node-2")],
        [None, None, Some(2201), Some(2202)]
    );
    let user = |name: &str| project.login_for(name).user;
    assert_eq!(
        (user("web"), user("db"), user("nobody")),
        ("deploy".into(), "admin".into(), "everybody".into())
    );
}

#[test]
fn what_cannot_be_told_to_the_client() {
    let text = r#"
box = "micro"

[ssh]
user = "-oProxyCommand=x"
forward_agnet = true
options = ["Host *", "hostname evil", "Port=1", "Compression", "", "A B\nHost *", "x/y z", "User me"]

[[machine]]
name = "web"
ssh = "yes"
"#;
    let error = load(&[("Vagrantfile", text)]).unwrap_err().render(false);
    let root = error.split("--> ").nth(1).unwrap().split("/Vagrantfile").next().unwrap().to_owned();
    insta::assert_snapshot!("ssh", error.replace(&root, "/project"));
}

#[test]
fn one_port_leads_to_the_ssh_server_of_one_machine() {
    let text = r#"
box = "micro"

[ssh]
port = 2200

[[machine]]
name = "web"
port = [{ guest = 80, host = 2200 }, { guest = 81, host = 2201, host_ip = "0.0.0.0" }]

[[machine]]
name = "db"
ssh = { port = 2201 }

[[machine]]
name = "node"
count = 2
ssh = { port = 2202 }

[[machine]]
name = "wrong"
ssh = { port = 65536 }

[[machine]]
name = "free"
ssh = { port = 2204 }
port = [{ guest = 80, host = 2204, host_ip = "127.0.0.2" }]
"#;
    let error = load(&[("Vagrantfile", text)]).unwrap_err().render(false);
    let root = error.split("--> ").nth(1).unwrap().split("/Vagrantfile").next().unwrap().to_owned();
    insta::assert_snapshot!("ssh_ports", error.replace(&root, "/project"));
}
