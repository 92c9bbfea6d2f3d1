//! The documents of `--json`, described in `docs/json.md`. Fields are only ever added within
//! one version.

use serde::Serialize;

use crate::machine::{OpenPort, State, Status};
use crate::model::Forward;
use crate::vmm::control::Usage;

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
        Machines {
            version: VERSION,
            machines: list.iter().map(|status| Machine::new(status, None)).collect(),
        }
    }

    /// The same with what the machines' memory costs.
    pub fn with_usage(list: &[(Status, Option<Usage>)]) -> Self {
        let machines = list.iter().map(|(status, usage)| Machine::new(status, usage.as_ref())).collect();
        Machines { version: VERSION, machines }
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
    memory: Option<Memory>,
    cause: Option<String>,
    ssh: Option<Ssh>,
    ports: Vec<Port>,
    networks: Vec<Place>,
}

/// A machine's place in a private network.
#[derive(Debug, Serialize)]
struct Place {
    network: String,
    addresses: Vec<String>,
}

impl Machine {
    fn new(status: &Status, usage: Option<&Usage>) -> Self {
        Machine {
            id: status.id.clone(),
            name: status.name.clone(),
            provider: status.provider.map(|p| p.as_str()),
            state: status.state,
            directory: status.project.display().to_string(),
            box_name: status.box_name.clone(),
            pid: status.pid,
            uptime_seconds: status.uptime,
            memory: usage.map(Memory::new),
            cause: status.cause.clone(),
            ssh: status.ssh.map(|at| Ssh { host: at.ip().to_string(), port: at.port() }),
            ports: status.ports.iter().map(Port::from).collect(),
            networks: status.places.iter().map(Place::from).collect(),
        }
    }
}

/// Memory of a machine that runs, in bytes.
#[derive(Debug, Serialize)]
struct Memory {
    given: u64,
    resident: Option<u64>,
    balloon: Option<u64>,
    guest: Option<GuestMemory>,
}

#[derive(Debug, Serialize)]
struct GuestMemory {
    total: Option<u64>,
    free: Option<u64>,
    available: Option<u64>,
    caches: Option<u64>,
    major_faults: Option<u64>,
}

impl Memory {
    fn new(usage: &Usage) -> Self {
        let guest = usage.guest.map(|guest| GuestMemory {
            total: guest.total,
            free: guest.free,
            available: guest.available,
            caches: guest.caches,
            major_faults: guest.major_faults,
        });
        Memory { given: usage.memory, resident: usage.resident, balloon: usage.balloon, guest }
    }
}

#[derive(Debug, Serialize)]
struct Ssh {
    host: String,
    port: u16,
}

impl From<&crate::machine::Place> for Place {
    fn from(place: &crate::machine::Place) -> Self {
        let addresses = place.addresses.iter().map(|net| net.addr().to_string()).collect();
        Place { network: place.network.clone(), addresses }
    }
}

/// One forwarded port.
#[derive(Debug, Serialize)]
pub struct Port {
    guest: u16,
    host: u16,
    host_ip: String,
    protocol: &'static str,
    /// Of a machine that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'static str>,
}

impl From<&OpenPort> for Port {
    fn from(port: &OpenPort) -> Self {
        Port { origin: Some(port.origin.as_str()), ..Port::from(&port.forward) }
    }
}

impl From<&Forward> for Port {
    fn from(forward: &Forward) -> Self {
        Port {
            guest: forward.guest,
            host: forward.host,
            host_ip: forward.host_ip.to_string(),
            protocol: forward.protocol.as_str(),
            origin: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Protocol, ProviderKind};
    use crate::vmm::control::Stats;

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
            ports: vec![OpenPort {
                forward: Forward {
                    guest: 80,
                    host: 8080,
                    host_ip: std::net::IpAddr::from([127, 0, 0, 1]),
                    protocol: Protocol::Tcp,
                    auto_correct: true,
                },
                origin: crate::machine::PortOrigin::Corrected,
            }],
            places: vec![crate::machine::Place {
                network: "backend".into(),
                id: "0123456789abcdef".into(),
                addresses: vec!["10.10.0.5/24".parse().unwrap()],
            }],
            ssh: Some(([127, 0, 0, 1], 2222).into()),
            uptime: Some(7),
            cause: None,
            remedy: None,
        };
        let guest = Stats { total: Some(99), available: Some(50), major_faults: Some(3), ..Stats::default() };
        let usage = Usage {
            memory: 128 << 20,
            resident: Some(64 << 20),
            balloon_target: Some(0),
            balloon: Some(0),
            guest: Some(guest),
            traffic: None,
        };
        let text = serde_json::to_string_pretty(&Machines::with_usage(&[(status, Some(usage))])).unwrap();
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
              "memory": {
                "given": 134217728,
                "resident": 67108864,
                "balloon": 0,
                "guest": {
                  "total": 99,
                  "free": null,
                  "available": 50,
                  "caches": null,
                  "major_faults": 3
                }
              },
              "cause": null,
              "ssh": {
                "host": "127.0.0.1",
                "port": 2222
              },
              "ports": [
                {
                  "guest": 80,
                  "host": 8080,
                  "host_ip": "127.0.0.1",
                  "protocol": "tcp",
                  "origin": "corrected"
                }
              ],
              "networks": [
                {
                  "network": "backend",
                  "addresses": [
                    "10.10.0.5"
                  ]
                }
              ]
            }
          ]
        }
        "#);
    }
}
