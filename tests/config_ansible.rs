//! `ansible` steps and `[[after_all]]`, as the file is read.

use std::path::Path;

use rvm::config::{self, ConfigError};
use rvm::model::{Project, Side, StepKind};

const MACHINES: &str = "box = 'micro'\nenv_file = '.env'\n[[machine]]\nname = 'web'\ngroups = ['front']\n\
    [[machine]]\nname = 'db'\n[[machine]]\nname = 'spare'\nautostart = false\n";

fn load(dir: &Path, rest: &str) -> Result<Project, ConfigError> {
    for (name, text) in [("site.yml", "- hosts: all\n"), (".env", "PW=s3cr3t-value\n")] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    std::fs::write(dir.join("Vagrantfile"), format!("{MACHINES}{rest}")).unwrap();
    config::load(&dir.join("Vagrantfile"), &|_| None)
}

fn told(rest: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    load(dir.path(), rest).expect_err("the file must be refused").render(false)
}

#[test]
fn steps_after_all_machines_and_their_machines() {
    let dir = tempfile::tempdir().unwrap();
    let rest = "[[after_all]]\nansible = 'site.yml'\nlimit = 'web:!db'\ntags = ['a', 'b']\nbecome = true\n\
        extra_vars = { pw = '${PW}', n = 3, on = true, list = [1.5, { x = 'y' }] }\n\
        [[after_all]]\non = 'guest'\nmachines = ['front', 'spare']\nshell = 'true'\n";
    let project = load(dir.path(), rest).unwrap_or_else(|error| panic!("{}", error.render(false)));
    let [first, second] = project.after_all.as_slice() else { panic!("{:?}", project.after_all) };
    assert_eq!((first.side, first.machines.join(" ")), (Side::Host, "web db".into()));
    assert_eq!((second.side, second.machines.join(" ")), (Side::Guest, "web spare".into()));
    assert_eq!((first.step.name.as_str(), second.step.name.as_str()), ("ansible-1", "shell-2"));
    let StepKind::Ansible(ansible) = &first.step.kind else { panic!("{:?}", first.step) };
    assert_eq!(ansible.playbook.file_name().unwrap(), "site.yml");
    assert_eq!((ansible.limit.as_deref(), ansible.tags.join(" ")), (Some("web:!db"), "a b".into()));
    assert!(ansible.become_root && ansible.skip_tags.is_empty());
    let vars: serde_json::Value = serde_json::from_str(ansible.extra_vars.expose()).unwrap();
    let wanted = serde_json::json!({ "pw": "s3cr3t-value", "n": 3, "on": true, "list": [1.5, { "x": "y" }] });
    assert_eq!(vars, wanted);
    assert!(!format!("{project:?}").contains("s3cr3t"), "a secret is shown");
}

#[test]
fn what_is_wrong_with_them() {
    let cases = [
        ("[[provision]]\nansible = 'none.yml'\n", "none.yml"),
        ("[[provision]]\nansible = 'site.yml'\ntags = ['--list']\n", "cannot be"),
        ("[[provision]]\nansible = 'site.yml'\nlimit = '${PW}'\n", "`PW` is from the ENV file"),
        ("[[provision]]\nansible = 'site.yml'\nargs = ['${PW}']\n", "`PW` is from the ENV file"),
        ("[[provision]]\nansible = 'site.yml'\nextra_vars = 'a=b'\n", "`extra_vars` is no table"),
        ("[[provision]]\nansible = 'site.yml'\nextra_vars = { d = 2020-01-01 }\n", "a date"),
        ("[[provision]]\nansible = 'site.yml'\nextra_vars = { d = inf }\n", "JSON has no such number"),
        ("[[provision]]\nshell = 'true'\nbecome = true\n", "`become` is for steps with `ansible`"),
        ("[[after_all]]\npackages = ['git']\n", "add `on = \"guest\"`"),
        ("[[after_all]]\non = 'guest'\nansible = 'site.yml'\n", "`ansible` runs on the host"),
        ("[[after_all]]\nshell = 'true'\nprivileged = true\n", "`privileged` is for steps in a guest"),
        ("[[after_all]]\nshell = 'true'\nreboot = true\n", "`reboot` is for steps in a guest"),
        ("[[after_all]]\nshell = 'true'\nmachines = ['wbe']\n", "wbe"),
    ];
    for (rest, words) in cases {
        let text = told(rest);
        assert!(text.contains(words), "{rest}{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
    }
}
