//! `rvm logs`: the serial console of a machine, or what a provision step printed.

use clap::Args;
use serde_json::json;

use super::app::App;
use super::error::CliError;
use super::json::VERSION;
use super::target::{self, Target};
use super::{DONE, Json, Outcome};
use crate::machine::Machines;
use crate::model::Code;

/// Words of `rvm logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Machine or id; needed where the project has several
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print the last lines only
    #[arg(short = 'n', long, value_name = "COUNT")]
    lines: Option<usize>,
    /// Print what this provision step printed when it ran last, instead of the console
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Prints what the console log holds. On a terminal without the guest's control sequences.
pub fn run(app: &App, args: &LogsArgs) -> Outcome {
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, &args.name, "logs")?;
    let Some(id) = target.id(&machines)? else {
        return Err(CliError::failed(
            Code::NotCreated,
            format!("{} has no console log: it is not created", target.name),
        )
        .hint(format!("`rvm up {}` creates it", target.name)));
    };
    let text = match &args.step {
        None => String::from_utf8_lossy(&machines.console_log(&id)?).into_owned(),
        Some(step) => step_log(&machines, &target, &id, step)?,
    };
    let text = args.lines.map_or(text.as_str(), |count| last_lines(&text, count));
    if app.json {
        let text = app.ui.masked(text);
        app.ui.json(&json!({ "version": VERSION, "machine": target.name, "step": args.step, "text": text }));
        return Ok(DONE);
    }
    app.ui.foreign(text);
    if !text.is_empty() && !text.ends_with('\n') {
        app.ui.foreign("\n");
    }
    Ok(DONE)
}

fn step_log(machines: &Machines<'_>, target: &Target, id: &str, step: &str) -> Result<String, CliError> {
    if let Some(text) = machines.step_log(id, step)? {
        return Ok(text);
    }
    let name = &target.name;
    let kept = machines.step_logs(id)?;
    let declared = target.declaration().is_ok_and(|(_, m)| m.steps.iter().any(|s| s.name == *step));
    Err(match declared {
        true => CliError::failed(Code::NoStepLog, format!("step `{step}` of {name} has not run yet"))
            .hint(format!("`rvm provision {name} --provision-with '{step}'` runs it")),
        false => {
            let message = format!("{name} has no step `{step}`, and none of that name has run");
            CliError::usage(message).hint(match kept.is_empty() {
                true => "no step of it has run yet".into(),
                false => format!("steps that have run: {}", kept.join(", ")),
            })
        }
    })
}

fn last_lines(text: &str, count: usize) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let Some(skip) = count.checked_sub(1) else { return "" };
    match body.rmatch_indices('\n').nth(skip) {
        Some((at, _)) => text.get(at + 1..).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", 1), "c");
        assert_eq!(last_lines("a\nb\n", 9), "a\nb\n");
        assert_eq!(last_lines("a\nb\n", 0), "");
        assert_eq!(last_lines("", 3), "");
    }
}
