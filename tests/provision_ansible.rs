//! Steps with `ansible`: the real `ansible-playbook`, against sshd on this host.

mod provision_support;
mod ssh_support;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use provision_support::{Seen, shell};
use rvm::model::{Ansible, Cancel, Event, Masker, ProvisionChoice, Secret, Step, StepKind};
use rvm::provision::{self, Context, Host, HostSide, Link, Outcome, ProvisionError, Stamps, StepLogs};
use rvm::ssh::{self, ConfigEntry, InventoryHost, WaitError};
use ssh_support::{Server, user_name};

const SECRET: &str = "s3cr3t-for-ansible";

struct Site {
    server: Server,
    dir: tempfile::TempDir,
    seen: Seen,
}

impl Site {
    fn new(playbook: &str) -> Site {
        // A blank in the path: the options of the inventory have to survive two parsers.
        let dir = tempfile::Builder::new().prefix("rvm site ").tempdir().unwrap();
        fs::write(dir.path().join("site.yml"), playbook).unwrap();
        Site { server: Server::sshd(""), dir, seen: Seen::default() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Two machines that are the same server.
    fn inventory(&self) -> String {
        let known_hosts = self.at("known hosts");
        let line =
            ssh::known_hosts_line(self.server.addr.ip(), self.server.addr.port(), &self.server.host_key);
        fs::write(&known_hosts, line).unwrap();
        let host = |name: &str, groups: &[&str]| InventoryHost {
            entry: ConfigEntry {
                host: name.into(),
                hostname: self.server.addr.ip(),
                port: self.server.addr.port(),
                user: user_name(),
                known_hosts: known_hosts.clone(),
                identities: vec![self.server.key()],
                password: false,
                options: Vec::new(),
            },
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        ssh::render_inventory(&[host("web", &["front"]), host("db", &[])])
    }

    fn step(&self, limit: Option<&str>) -> Step {
        let out = self.at("out").display().to_string();
        let ansible = Ansible {
            playbook: self.at("site.yml"),
            limit: limit.map(str::to_owned),
            tags: Vec::new(),
            skip_tags: vec!["unwanted".into()],
            become_root: false,
            extra_vars: Secret::new(serde_json::json!({ "password": SECRET, "out": out }).to_string()),
            args: vec!["--diff".into()],
        };
        let env = vec![("FROM_ENV".to_owned(), Secret::new("of the environment"))];
        Step { env, ..Step::new("site", StepKind::Ansible(Box::new(ansible))) }
    }

    fn run(&self, inventory: &str, steps: &[Step]) -> Result<Outcome, ProvisionError> {
        let target = self.server.target();
        let connect = |cancel: &Cancel| -> Result<ssh::Session, WaitError> {
            let deadline = Instant::now() + Duration::from_secs(30);
            ssh::wait_ready(&target, deadline, &mut || true, &mut |_| (), cancel)
        };
        let mut stamps = Stamps::load(self.dir.path()).unwrap();
        let context = Context {
            machine: "web",
            guest: &Link::new(connect(&Cancel::new()).unwrap(), &connect),
            report: &self.seen,
            masker: &Masker::new([SECRET]),
            cancel: &Cancel::new(),
            logs: &StepLogs::of(self.dir.path()),
            host: HostSide { dir: self.dir.path(), inventory, password: None },
            pins: None,
            locked: false,
            boot_timeout: Duration::from_secs(20),
        };
        provision::run(&context, steps, &ProvisionChoice::Auto, &mut stamps)
    }

    fn output(&self) -> String {
        let events = self.seen.0.lock().unwrap();
        let line = |event: &Event| match event {
            Event::Output { line, .. } => Some(format!("{line}\n")),
            _ => None,
        };
        events.iter().filter_map(line).collect()
    }
}

const PLAYBOOK: &str = r#"
- hosts: all
  gather_facts: false
  tasks:
    - name: a file for each machine
      ansible.builtin.copy:
        dest: "{{ out }}-{{ inventory_hostname }}"
        content: "{{ password }} {{ lookup('env', 'FROM_ENV') }} {{ group_names | join(',') }}\n"
    - name: not here
      tags: unwanted
      ansible.builtin.fail:
    - name: what ran
      ansible.builtin.command: sh -c "tr '\\0' ' ' </proc/$PPID/cmdline; sleep 1"
      changed_when: false
"#;

/// Whether a process of this host has the secret among its arguments.
fn seen_in_command_lines() -> bool {
    let lines = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("cmdline"));
    lines
        .map(|line| fs::read(line).unwrap_or_default())
        .any(|line| String::from_utf8_lossy(&line).contains(SECRET))
}

#[test]
fn a_playbook_runs_on_the_machine_of_the_step_and_secrets_stay_in_files() {
    let site = Site::new(PLAYBOOK);
    let inventory = site.inventory();
    let (done, leaked) = (AtomicBool::new(false), AtomicBool::new(false));
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                leaked.fetch_or(seen_in_command_lines(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let outcome = site.run(&inventory, &[shell("first", "true"), site.step(None)]);
        done.store(true, Ordering::Relaxed);
        outcome
    });
    let outcome = outcome.unwrap_or_else(|error| panic!("{error:?}\n{}", site.output()));
    assert_eq!(outcome.ran, ["first", "site"]);
    assert!(!leaked.load(Ordering::Relaxed), "the secret was in a command line");
    let written = fs::read_to_string(site.at("out-web")).unwrap();
    assert_eq!(written, format!("{SECRET} of the environment front\n"));
    assert!(!site.at("out-db").exists(), "the step is for one machine");
    let output = site.output();
    assert!(output.contains("+*** of the environment") && !output.contains(SECRET), "{output}");
    assert!(StepLogs::of(site.dir.path()).read("site").unwrap().unwrap().contains("PLAY RECAP"));
    // It is stamped, and an edited playbook runs again.
    assert_eq!(site.run(&inventory, &[site.step(None)]).unwrap().ran, [] as [&str; 0]);
    fs::write(site.at("site.yml"), PLAYBOOK.replace("not here", "nor here")).unwrap();
    assert_eq!(site.run(&inventory, &[site.step(Some("all"))]).unwrap().ran, ["site"]);
    assert!(site.at("out-db").exists(), "`limit` is wider than the machine");
}

#[test]
fn after_all_machines_a_playbook_runs_on_all_of_them() {
    let site = Site::new(PLAYBOOK);
    let host = Host {
        machine: "after all",
        report: &site.seen,
        masker: &Masker::default(),
        cancel: &Cancel::new(),
        logs: None,
        dir: site.dir.path(),
        vars: &[],
    };
    let side = HostSide { dir: site.dir.path(), inventory: &site.inventory(), password: None };
    provision::run_on_host(&host, &side, &site.step(None))
        .unwrap_or_else(|e| panic!("{e:?}\n{}", site.output()));
    assert!(site.at("out-web").exists() && site.at("out-db").exists());
}

#[test]
fn a_playbook_that_fails_and_a_host_key_that_is_not_the_pinned_one() {
    let site = Site::new(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.fail: { msg: no way }\n",
    );
    let inventory = site.inventory();
    let error = site.run(&inventory, &[site.step(None)]).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 2, .. }), "{error:?}");
    assert!(site.output().contains("no way"));
    fs::write(
        site.at("site.yml"),
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.raw: 'true'\n",
    )
    .unwrap();
    // Another server at that address is not talked to.
    let other = Server::sshd("");
    let line = ssh::known_hosts_line(site.server.addr.ip(), site.server.addr.port(), &other.host_key);
    fs::write(site.at("known hosts"), line).unwrap();
    let error = site.run(&inventory, &[site.step(None)]).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 4, .. }), "{error:?}\n{}", site.output());
}
