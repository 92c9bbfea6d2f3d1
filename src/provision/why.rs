//! Why a step runs, or does not: what `rvm plan` tells.

use super::choose::{self, Wish};
use super::content::{self, Content};
use super::{Decision, Parts, ProvisionError, Stamps};
use crate::model::{ProvisionChoice, Step, StepKind};

/// Why a step runs at the next `up`, or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It runs: it has not succeeded yet.
    New,
    /// It runs: these parts of it changed since it succeeded; none where that is not known.
    Changed(Vec<String>),
    /// It runs each time.
    Always,
    /// It does not run: it succeeded with its present content.
    Done,
    /// It does not run: `run = "never"`.
    Never,
}

impl Why {
    /// Whether the step runs.
    pub fn runs(&self) -> bool {
        matches!(self, Why::New | Why::Changed(_) | Why::Always)
    }
}

/// What an `up` would do with a step now, and why. Reads its script and files; needs no guest.
pub fn why(step: &Step, stamps: &Stamps) -> Result<Why, ProvisionError> {
    let wish = choose::wishes(std::slice::from_ref(step), &ProvisionChoice::Auto)?.pop();
    let wish = wish.unwrap_or(Wish::Settled(Decision::Never));
    if wish == Wish::Settled(Decision::Never) {
        return Ok(Why::Never);
    }
    // Also of a step that always runs: `up` fails where its script cannot be read.
    let (content, digest) = content::load(step, stamps)?;
    Ok(match choose::decide(step, wish, &digest, stamps) {
        Decision::RunChanged => Why::Changed(changed(step, &content, stamps)),
        Decision::Run if wish == Wish::UnlessDone => Why::New,
        Decision::Run => Why::Always,
        Decision::Done => Why::Done,
        Decision::Never | Decision::NotChosen => Why::Never,
    })
}

/// A digest for each part of a step that can change alone, by its name for people. What is large and
/// read from the disk has none: where nothing else differs, it is that.
pub(super) fn parts(step: &Step, content: &Content, stamps: &Stamps) -> Parts {
    let mut parts = Parts::new();
    let words =
        |list: &[String]| stamps.digest(|hash| list.iter().for_each(|word| hash.field(word.as_bytes())));
    for (name, value) in &step.env {
        let digest = stamps.digest(|hash| hash.field(value.expose().as_bytes()));
        parts.insert(format!("env {name}"), digest);
    }
    match &step.kind {
        StepKind::Shell { args, privileged, .. } => {
            parts.insert("args".into(), words(args));
            parts.insert("privileged".into(), stamps.digest(|hash| hash.number(u64::from(*privileged))));
        }
        StepKind::Packages { names } => {
            parts.insert("packages".into(), words(names));
        }
        StepKind::File(copy) => {
            parts.insert("destination".into(), words(std::slice::from_ref(&copy.destination)));
            for (name, word) in [("owner", &copy.owner), ("group", &copy.group)] {
                if word.is_some() {
                    parts.insert(name.into(), words(word.as_slice()));
                }
            }
            if let Some(mode) = copy.mode {
                parts.insert("mode".into(), stamps.digest(|hash| hash.number(u64::from(mode))));
            }
        }
        StepKind::Ansible(ansible) => {
            for (name, list) in
                [("args", &ansible.args), ("tags", &ansible.tags), ("skip_tags", &ansible.skip_tags)]
            {
                parts.insert(name.into(), words(list));
            }
            parts.insert("limit".into(), words(ansible.limit.as_slice()));
            parts.insert("become".into(), stamps.digest(|hash| hash.number(u64::from(ansible.become_root))));
            let vars = ansible.extra_vars.expose().as_bytes();
            parts.insert("extra_vars".into(), stamps.digest(|hash| hash.field(vars)));
        }
        StepKind::Docker(docker) => {
            parts.insert("images".into(), words(&docker.images));
            parts.insert("remove".into(), stamps.digest(|hash| hash.number(u64::from(docker.remove))));
            for container in &docker.containers {
                let digest = super::docker::digest(container);
                parts.insert(format!("container {}", container.name), words(&[digest]));
            }
        }
        StepKind::Reboot => {}
    }
    if let Content::Archives(archives) = content {
        let digests: Vec<String> = archives.iter().map(|archive| archive.digest.clone()).collect();
        parts.insert("archives".into(), words(&digests));
    }
    if let Content::Script(script) = content {
        let name = if matches!(step.kind, StepKind::Ansible(_)) { "playbook" } else { "script" };
        parts.insert(name.into(), stamps.digest(|hash| hash.field(script)));
    }
    parts
}

fn changed(step: &Step, content: &Content, stamps: &Stamps) -> Vec<String> {
    let before = stamps.parts(&step.name);
    if before.is_empty() {
        return Vec::new();
    }
    let now = parts(step, content, stamps);
    let mut names: Vec<String> = now
        .iter()
        .filter(|(name, digest)| before.get(*name) != Some(digest))
        .map(|(n, _)| n.clone())
        .collect();
    names.extend(before.keys().filter(|name| !now.contains_key(*name)).cloned());
    if names.is_empty() && matches!(step.kind, StepKind::File(_)) {
        names.push("source".into());
    }
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::{FileCopy, RunPolicy, Script, Secret};

    fn shell(script: &str, args: &[&str], env: &[(&str, &str)]) -> Step {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let kind = StepKind::Shell { script: Script::Inline(script.into()), args, privileged: true };
        let env = env.iter().map(|(n, v)| ((*n).to_owned(), Secret::new(*v))).collect();
        Step { env, ..Step::new("s", kind) }
    }

    /// As a run that succeeded leaves it.
    fn stamp(step: &Step, stamps: &mut Stamps) {
        let (content, digest) = content::load(step, stamps).unwrap();
        let parts = parts(step, &content, stamps);
        stamps.record_with(&step.name, &digest, parts).unwrap();
    }

    #[test]
    fn what_changed_is_named_and_no_value_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut stamps = Stamps::load(dir.path()).unwrap();
        let step = shell("echo 1", &["x"], &[("DB_PASSWORD", "hunter2"), ("KEPT", "1")]);
        assert_eq!(why(&step, &stamps).unwrap(), Why::New);
        stamp(&step, &mut stamps);
        assert_eq!(why(&step, &stamps).unwrap(), Why::Done);
        assert!(!fs::read_to_string(dir.path().join("steps.json")).unwrap().contains("hunter2"));
        let changed = |step: &Step| match why(step, &stamps).unwrap() {
            Why::Changed(names) => names,
            other => panic!("{other:?}"),
        };
        let env = [("DB_PASSWORD", "hunter2"), ("KEPT", "1")];
        assert_eq!(changed(&shell("echo 2", &["x"], &env)), ["script"]);
        assert_eq!(changed(&shell("echo 1", &["y", "x"], &env)), ["args"]);
        assert_eq!(
            changed(&shell("echo 2", &["x"], &[("DB_PASSWORD", "3"), ("KEPT", "1")])),
            ["env DB_PASSWORD", "script"]
        );
        assert_eq!(changed(&shell("echo 1", &["x"], &env[..1])), ["env KEPT"]);
        let mut other = shell("echo 1", &["x"], &env);
        other.kind = StepKind::Packages { names: vec!["git".into()] };
        assert_eq!(changed(&other), ["args", "packages", "privileged", "script"]);
    }

    #[test]
    fn the_files_of_a_folder_are_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("page");
        fs::write(&source, "1").unwrap();
        let mut stamps = Stamps::load(dir.path()).unwrap();
        let file = |destination: &str| {
            Step::new("f", StepKind::File(Box::new(FileCopy::new(source.clone(), destination))))
        };
        stamp(&file("/a"), &mut stamps);
        assert_eq!(why(&file("/b"), &stamps).unwrap(), Why::Changed(vec!["destination".into()]));
        fs::write(&source, "2").unwrap();
        assert_eq!(why(&file("/a"), &stamps).unwrap(), Why::Changed(vec!["source".into()]));
        fs::remove_file(&source).unwrap();
        assert!(why(&file("/a"), &stamps).is_err());
    }

    #[test]
    fn policies_come_before_stamps() {
        let dir = tempfile::tempdir().unwrap();
        let mut stamps = Stamps::load(dir.path()).unwrap();
        let step = |run| Step { run, ..shell("a", &[], &[]) };
        stamp(&step(RunPolicy::Once), &mut stamps);
        assert_eq!(why(&step(RunPolicy::Always), &stamps).unwrap(), Why::Always);
        assert_eq!(why(&step(RunPolicy::Never), &stamps).unwrap(), Why::Never);
    }

    #[test]
    fn a_stamp_of_an_older_rvm_tells_no_parts() {
        let dir = tempfile::tempdir().unwrap();
        let mut stamps = Stamps::load(dir.path()).unwrap();
        stamp(&shell("a", &[], &[]), &mut stamps);
        let path = dir.path().join("steps.json");
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["steps"]["s"].as_object_mut().unwrap().remove("parts").unwrap();
        fs::write(&path, record.to_string()).unwrap();
        let stamps = Stamps::look(dir.path()).unwrap();
        assert_eq!(why(&shell("a", &[], &[]), &stamps).unwrap(), Why::Done);
        assert_eq!(why(&shell("b", &[], &[]), &stamps).unwrap(), Why::Changed(vec![]));
    }

    #[test]
    fn looking_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("none");
        let stamps = Stamps::look(&folder).unwrap();
        assert_eq!(why(&shell("a", &[], &[]), &stamps).unwrap(), Why::New);
        assert!(!folder.exists());
    }
}
