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
    /// `--no-provision`, or others were named, or it comes before `--from`.
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
    let unknown = match choice {
        ProvisionChoice::With(asked) => {
            asked.iter().find(|name| !steps.iter().any(|step| step.is_called(name)))
        }
        ProvisionChoice::From(name) => (!steps.iter().any(|step| step.name == *name)).then_some(name),
        _ => None,
    };
    if let Some(unknown) = unknown {
        return Err(ProvisionError::UnknownStep {
            asked: unknown.clone(),
            names: steps.iter().map(|step| step.name.clone()).collect(),
        });
    }
    let first = match choice {
        ProvisionChoice::From(name) => steps.iter().position(|step| step.name == *name).unwrap_or_default(),
        _ => 0,
    };
    let wish =
        |(index, step)| if index < first { Wish::Settled(Decision::NotChosen) } else { wish(step, choice) };
    Ok(steps.iter().enumerate().map(wish).collect())
}

fn wish(step: &Step, choice: &ProvisionChoice) -> Wish {
    use Decision::{Never, NotChosen, Run};
    match (choice, step.run) {
        (ProvisionChoice::Skip, _) => Wish::Settled(NotChosen),
        (ProvisionChoice::With(names), _) => {
            let chosen = names.iter().any(|name| step.is_called(name));
            Wish::Settled(if chosen { Run } else { NotChosen })
        }
        (_, RunPolicy::Never) => Wish::Settled(Never),
        (ProvisionChoice::Force | ProvisionChoice::From(_), _)
        | (ProvisionChoice::Auto, RunPolicy::Always) => Wish::Settled(Run),
        (ProvisionChoice::Auto, RunPolicy::Once) => Wish::UnlessDone,
    }
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
        Step { run, ..Step::new(name, kind) }
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
        assert_eq!(all(&ProvisionChoice::From("greet".into())), settled([NotChosen, Run, Never]));
        assert_eq!(all(&ProvisionChoice::From("tools".into())), all(&ProvisionChoice::Force));
    }

    #[test]
    fn an_unknown_name_lists_those_there_are() {
        let error = wishes(&steps(), &ProvisionChoice::With(vec!["tols".into()])).unwrap_err();
        assert!(error.to_string().contains("`tols`"), "{error}");
        assert_eq!(error.hint().unwrap(), "there are: tools, greet, reset");
        assert!(wishes(&steps(), &ProvisionChoice::From("shell".into())).is_err(), "a type is no place");
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
