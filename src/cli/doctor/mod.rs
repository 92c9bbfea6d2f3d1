//! `rvm doctor`: what this host can do, what it lacks, and the command that mends it.

mod host;
mod judge;

use clap::Args;
use serde_json::{Value, json};

use super::app::App;
use super::error::Kind;
use super::json::VERSION;
use super::ui::sink::To;
use super::{DONE, Json, Outcome};
use host::Facts;
use judge::{Check, Mark, Verdict};

/// Words of `rvm doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub(super) json: Json,
}

/// Looks at the host and says what was found. Exit code 0 when a provider can run machines.
pub fn run(app: &App) -> Outcome {
    let layout = app.layout()?;
    let machines = app.machines()?;
    let running = machines.all().unwrap_or_default().into_iter();
    let running = running.filter_map(|status| Some((status.name, status.pid?))).collect();
    let facts = host::look(layout.home(), &machines.exe, running);
    let verdict = judge::judge(&facts);
    if app.json {
        app.ui.json(&document(&verdict, &facts));
    } else {
        app.ui.result(&text(&verdict, app.ui.color(To::Stdout)));
    }
    Ok(if verdict.kvm || verdict.qemu { DONE } else { Kind::Failed.exit_code() })
}

fn text(verdict: &Verdict, color: bool) -> String {
    let width = verdict.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let indent = " ".repeat(width + 4);
    let mut text = String::new();
    for check in &verdict.checks {
        let (on, off) = if color { (check.mark.color(), "\x1b[0m") } else { ("", "") };
        let name = check.name;
        text.push_str(&format!("{on}{}{off} {name:<width$}  {}\n", check.mark.sign(), check.text));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("{indent}→ {fix}\n"));
        }
    }
    text.push('\n');
    text.push_str(&verdict.conclusion);
    text
}

fn document(verdict: &Verdict, facts: &Facts) -> Value {
    let walls = facts.walls.as_ref().ok();
    let running: Vec<Value> = facts
        .running
        .iter()
        .map(|shut| {
            json!({
                "machine": shut.machine,
                "pid": shut.pid,
                "seccomp": shut.rights.seccomp,
                "no_new_privileges": shut.rights.no_new_privileges,
                "no_capabilities": shut.rights.no_capabilities,
            })
        })
        .collect();
    let checks: Vec<Value> = verdict.checks.iter().map(check_document).collect();
    json!({
        "version": VERSION,
        "ok": verdict.kvm || verdict.qemu,
        "providers": { "kvm": verdict.kvm, "qemu": verdict.qemu },
        "sandbox": walls.map(|walls| json!({
            "landlock": walls.landlock,
            "seccomp": walls.rights.seccomp,
            "no_new_privileges": walls.rights.no_new_privileges,
            "no_capabilities": walls.rights.no_capabilities,
            "limits": {
                "core": walls.core,
                "files": walls.files,
                "file_size": walls.file_size,
                "locked": walls.locked,
            },
            "inherited": walls.inherited,
            "environment": walls.environment,
        })),
        "running": running,
        "checks": checks,
    })
}

fn check_document(check: &Check) -> Value {
    let result = match check.mark {
        Mark::Good => "ok",
        Mark::Bad => "missing",
        Mark::Note => "note",
    };
    json!({ "name": check.name, "result": result, "text": check.text, "fix": check.fix })
}
