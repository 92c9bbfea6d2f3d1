//! Which steps run.

use super::{Digest, ProvisionError, Stamps};
use crate::model::{ProvisionChoice, RunPolicy, Step};

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It runs: it never succeeded, or it always runs, or it was asked for.
    Run,
    /// It runs: its content changed since it succeeded.
    RunChanged,
    /// It succeeded before with this content.
    Done,
    /// `run = "never"`, and nobody named it.
    Never,
    /// `--no-provision`, or others were named.
    NotChosen,
}

impl Decision {
    /// Whether the step runs.
    pub fn runs(self) -> bool {
        matches!(self, Decision::Run | Decision::RunChanged)
    }
}

/// What the file and the command line say about a step, before its stamp is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Settled without a look at the stamp.
    Settled(Decision),
    /// Runs unless it is stamped with its present content.
    UnlessDone,
}

/// The wish for each of `steps`. A name in `choice` that is neither a step's name nor the type
/// of one is an error.
pub(super) fn wishes(steps: &[Step], choice: &ProvisionChoice) -> Result<Vec<Wish>, ProvisionError> {
    if let ProvisionChoice::With(asked) = choice
        && let Some(unknown) = asked.iter().find(|name| !steps.iter().any(|step| is_meant(step, name)))
    {
        return Err(ProvisionError::UnknownStep {
            asked: unknown.clone(),
            names: steps.iter().map(|step| step.name.clone()).collect(),
        });
    }
    Ok(steps.iter().map(|step| wish(step, choice)).collect())
}

fn wish(step: &Step, choice: &ProvisionChoice) -> Wish {
    use Decision::{Never, NotChosen, Run};
    match (choice, step.run) {
        (ProvisionChoice::Skip, _) => Wish::Settled(NotChosen),
        (ProvisionChoice::With(names), _) => {
            let chosen = names.iter().any(|name| is_meant(step, name));
            Wish::Settled(if chosen { Run } else { NotChosen })
        }
        (_, RunPolicy::Never) => Wish::Settled(Never),
        (ProvisionChoice::Force, _) | (ProvisionChoice::Auto, RunPolicy::Always) => Wish::Settled(Run),
        (ProvisionChoice::Auto, RunPolicy::Once) => Wish::UnlessDone,
    }
}

fn is_meant(step: &Step, name: &str) -> bool {
    step.name == name || step.kind.type_name() == name
}

/// What becomes of a step whose content has this digest.
pub(super) fn decide(step: &Step, wish: Wish, digest: &Digest, stamps: &Stamps) -> Decision {
    match (wish, stamps.matches(&step.name, digest)) {
        (Wish::Settled(decision), _) => decision,
        (Wish::UnlessDone, None) => Decision::Run,
        (Wish::UnlessDone, Some(false)) => Decision::RunChanged,
        (Wish::UnlessDone, Some(true)) => Decision::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Script, StepKind};

    fn step(name: &str, run: RunPolicy, kind: StepKind) -> Step {
        Step { name: name.into(), run, env: Vec::new(), kind }
    }

    fn shell() -> StepKind {
        StepKind::Shell { script: Script::Inline(String::new()), args: Vec::new(), privileged: true }
    }

    fn steps() -> Vec<Step> {
        vec![
            step("tools", RunPolicy::Once, StepKind::Packages { names: vec!["git".into()] }),
            step("greet", RunPolicy::Always, shell()),
            step("reset", RunPolicy::Never, shell()),
        ]
    }

    fn all(choice: &ProvisionChoice) -> Vec<Wish> {
        wishes(&steps(), choice).unwrap()
    }

    #[test]
    fn choices() {
        use Decision::{Never, NotChosen, Run};
        let settled = |list: [Decision; 3]| list.map(Wish::Settled).to_vec();
        let with = |names: &[&str]| ProvisionChoice::With(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(all(&ProvisionChoice::Auto), [Wish::UnlessDone, Wish::Settled(Run), Wish::Settled(Never)]);
        assert_eq!(all(&ProvisionChoice::Force), settled([Run, Run, Never]));
        assert_eq!(all(&ProvisionChoice::Skip), settled([NotChosen; 3]));
        assert_eq!(all(&with(&["tools"])), settled([Run, NotChosen, NotChosen]));
        assert_eq!(all(&with(&["shell"])), settled([NotChosen, Run, Run]));
        assert_eq!(all(&with(&["reset", "packages"])), settled([Run, NotChosen, Run]));
        assert_eq!(all(&with(&[])), settled([NotChosen; 3]));
    }

    #[test]
    fn an_unknown_name_lists_those_there_are() {
        let error = wishes(&steps(), &ProvisionChoice::With(vec!["tols".into()])).unwrap_err();
        assert!(error.to_string().contains("`tols`"), "{error}");
        assert_eq!(error.hint().unwrap(), "there are: tools, greet, reset");
        // The type of no step is unknown, too.
        assert!(wishes(&steps(), &ProvisionChoice::With(vec!["file".into()])).is_err());
    }

    #[test]
    fn a_stamp_counts_only_for_once_and_only_for_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let mut stamps = Stamps::load(dir.path()).unwrap();
        let [old, new] = ["old", "new"].map(|text| stamps.digest(|hash| hash.field(text.as_bytes())));
        let step = &steps()[0];
        assert_eq!(decide(step, Wish::UnlessDone, &old, &stamps), Decision::Run);
        stamps.record("tools", &old).unwrap();
        assert_eq!(decide(step, Wish::UnlessDone, &old, &stamps), Decision::Done);
        assert_eq!(decide(step, Wish::UnlessDone, &new, &stamps), Decision::RunChanged);
        assert_eq!(decide(step, Wish::Settled(Decision::Run), &old, &stamps), Decision::Run);
    }
}
