//! The documents of `--json`, described in `docs/vagrant.md`. Fields are only ever added within
//! one version.

use serde::Serialize;

use crate::machine::{State, Status};
use crate::model::Forward;

/// Version of all documents.
pub const VERSION: u32 = 1;

/// `status` and `global-status`.
#[derive(Debug, Serialize)]
pub struct Machines {
    version: u32,
    machines: Vec<Machine>,
}

impl Machines {
    /// The document for that list.
    pub fn new(list: &[Status]) -> Self {
        Machines { version: VERSION, machines: list.iter().map(Machine::new).collect() }
    }
}

#[derive(Debug, Serialize)]
struct Machine {
    id: Option<String>,
    name: String,
    provider: Option<&'static str>,
    state: State,
    directory: String,
    #[serde(rename = "box")]
    box_name: String,
    pid: Option<u32>,
    uptime_seconds: Option<u64>,
    ssh: Option<Ssh>,
    ports: Vec<Port>,
}

impl Machine {
    fn new(status: &Status) -> Self {
        Machine {
            id: status.id.clone(),
            name: status.name.clone(),
            provider: status.provider.map(|p| p.as_str()),
            state: status.state,
            directory: status.project.display().to_string(),
            box_name: status.box_name.clone(),
            pid: status.pid,
            uptime_seconds: status.uptime,
            ssh: status.ssh.map(|at| Ssh { host: at.ip().to_string(), port: at.port() }),
            ports: status.ports.iter().map(Port::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Ssh {
    host: String,
    port: u16,
}

/// One forwarded port.
#[derive(Debug, Serialize)]
pub struct Port {
    guest: u16,
    host: u16,
    host_ip: String,
    protocol: &'static str,
}

impl From<&Forward> for Port {
    fn from(forward: &Forward) -> Self {
        Port {
            guest: forward.guest,
            host: forward.host,
            host_ip: forward.host_ip.to_string(),
            protocol: forward.protocol.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Protocol, ProviderKind};

    #[test]
    fn shape_of_a_machine() {
        let status = Status {
            id: Some("0123456789abcdef0123456789abcdef".into()),
            name: "web".into(),
            provider: Some(ProviderKind::Kvm),
            state: State::Running,
            project: "/p".into(),
            box_name: "debian/13".into(),
            pid: Some(42),
            ports: vec![Forward {
                guest: 80,
                host: 8080,
                host_ip: std::net::IpAddr::from([127, 0, 0, 1]),
                protocol: Protocol::Tcp,
                auto_correct: true,
            }],
            ssh: Some(([127, 0, 0, 1], 2222).into()),
            uptime: Some(7),
        };
        let text = serde_json::to_string_pretty(&Machines::new(&[status])).unwrap();
        insta::assert_snapshot!(text, @r#"
        {
          "version": 1,
          "machines": [
            {
              "id": "0123456789abcdef0123456789abcdef",
              "name": "web",
              "provider": "kvm",
              "state": "running",
              "directory": "/p",
              "box": "debian/13",
              "pid": 42,
              "uptime_seconds": 7,
              "ssh": {
                "host": "127.0.0.1",
                "port": 2222
              },
              "ports": [
                {
                  "guest": 80,
                  "host": 8080,
                  "host_ip": "127.0.0.1",
                  "protocol": "tcp"
                }
              ]
            }
          ]
        }
        "#);
    }
}
