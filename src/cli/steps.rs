//! The flags that choose provision steps, and what is said about the steps afterwards.

use clap::Args;

use super::error::CliError;
use super::target::Target;
use crate::machine::{ProvisionChoice, UpOutcome};

/// `--provision`, `--no-provision`, `--provision-with`.
#[derive(Debug, Args)]
pub struct StepFlags {
    /// Run all steps, also those that have succeeded before
    #[arg(long, conflicts_with_all = ["no_provision", "provision_with"])]
    provision: bool,
    /// Run no step
    #[arg(long, conflicts_with = "provision_with")]
    no_provision: bool,
    #[command(flatten)]
    with: WithFlag,
}

/// `--provision-with`.
#[derive(Debug, Args)]
pub struct WithFlag {
    /// Run only these steps, by name or type (shell, packages, file, ansible, docker, reboot)
    #[arg(long, value_name = "STEP,…", value_delimiter = ',')]
    pub provision_with: Vec<String>,
}

impl StepFlags {
    /// The choice that the flags make.
    pub fn choice(&self) -> ProvisionChoice {
        match (self.provision, self.no_provision, self.with.provision_with.as_slice()) {
            (true, ..) => ProvisionChoice::Force,
            (_, true, _) => ProvisionChoice::Skip,
            (_, _, []) => ProvisionChoice::Auto,
            (_, _, names) => ProvisionChoice::With(names.to_vec()),
        }
    }
}

/// Refuses words of `--provision-with` and `--from` that no step of any target answers to.
pub fn check_choice(choice: &ProvisionChoice, targets: &[Target]) -> Result<(), CliError> {
    let words = match choice {
        ProvisionChoice::With(words) => words.as_slice(),
        ProvisionChoice::From(step) => std::slice::from_ref(step),
        _ => return Ok(()),
    };
    let by_type = matches!(choice, ProvisionChoice::With(_));
    let mut names: Vec<&str> = Vec::new();
    let mut types: Vec<&str> = Vec::new();
    for target in targets {
        let (_, machine) = target.declaration()?;
        for step in &machine.steps {
            types.push(step.kind.type_name());
            if !names.contains(&step.name.as_str()) {
                names.push(&step.name);
            }
        }
    }
    // What follows all machines is named like any other step, but nothing is begun in the midst of it.
    if let (true, Some(target)) = (by_type, targets.first()) {
        for after in &target.declaration()?.0.after_all {
            types.push(after.step.kind.type_name());
            names.push(&after.step.name);
        }
    }
    let known =
        |word: &&String| names.contains(&word.as_str()) || (by_type && types.contains(&word.as_str()));
    match words.iter().find(|word| !known(word)) {
        None => Ok(()),
        Some(word) => {
            let and = if by_type { ", and none is of that type" } else { "" };
            let error = CliError::usage(format!("no provision step is named `{word}`{and}"));
            Err(if names.is_empty() {
                error.hint("the Vagrantfile declares no steps")
            } else {
                error.hint(format!("steps: {}", names.join(", ")))
            })
        }
    }
}

/// One sentence on what happened to the steps.
pub fn summary(outcome: &UpOutcome) -> String {
    let count = |n: usize, what: &str| match n {
        1 => format!("1 step {what}"),
        n => format!("{n} steps {what}"),
    };
    match (outcome.ran.len(), outcome.skipped.len()) {
        (0, 0) => "no steps to run".into(),
        (0, skipped) => format!("{} before, none to run", count(skipped, "succeeded")),
        (ran, 0) => count(ran, "ran"),
        (ran, skipped) => format!("{}, {skipped} had succeeded before", count(ran, "ran")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        let outcome = |ran: &[&str], skipped: &[&str]| UpOutcome {
            was_running: false,
            pending: Vec::new(),
            ran: ran.iter().map(|s| s.to_string()).collect(),
            skipped: skipped.iter().map(|s| s.to_string()).collect(),
        };
        assert_eq!(summary(&outcome(&[], &[])), "no steps to run");
        assert_eq!(summary(&outcome(&["a"], &[])), "1 step ran");
        assert_eq!(summary(&outcome(&["a", "b"], &["c"])), "2 steps ran, 1 had succeeded before");
        assert_eq!(summary(&outcome(&[], &["c"])), "1 step succeeded before, none to run");
    }
}
