//! A plan as JSON.

use serde_json::{Value, json};

use super::{After, Plan, Planned};
use crate::cli::json::{Port, VERSION};
use crate::machine::StepPreview;
use crate::model::Side;
use crate::plan::Change;
use crate::provision::Why;

/// The document of `rvm plan --json`, described in `docs/json.md`.
pub(super) fn document(plan: &Plan<'_>) -> Value {
    json!({
        "version": VERSION,
        "differences": plan.differs(),
        "machines": plan.machines.iter().map(machine).collect::<Vec<_>>(),
        "after_all": plan.after.iter().map(after).collect::<Vec<_>>(),
        "undeclared": plan.gone.iter().map(|m| json!({ "id": m.id, "name": m.name })).collect::<Vec<_>>(),
    })
}

fn machine(planned: &Planned<'_>) -> Value {
    let (machine, preview) = (planned.machine, &planned.preview);
    let action = match (preview.runs(), preview.is_new()) {
        (true, _) => "connect",
        _ if planned.left_alone => "none",
        (_, true) => "create",
        _ => "start",
    };
    let problems: Vec<Value> =
        planned.problems().map(|(message, hint)| json!({ "message": message, "hint": hint })).collect();
    json!({
        "name": machine.name,
        "id": preview.status.id,
        "state": preview.status.state,
        "action": action,
        "differs": planned.differs(),
        "depends_on": machine.depends_on,
        "start": start(planned),
        "changes": preview.changes.iter().map(change).collect::<Vec<_>>(),
        "steps": preview.steps.iter().map(step).collect::<Vec<_>>(),
        "problems": problems,
        "busy": preview.busy,
    })
}

fn start(planned: &Planned<'_>) -> Value {
    let Some(start) = &planned.preview.start else { return Value::Null };
    let machine = planned.machine;
    let image = start.image.as_ref();
    let ports: Vec<Value> = start
        .ports
        .iter()
        .map(|(declared, chosen)| json!({ "declared": Port::from(declared), "host": chosen.host }))
        .collect();
    json!({
        "box": {
            "name": image.map_or(&machine.box_name, |image| &image.name),
            "digest": image.map(|image| &image.digest),
        },
        "kernel": { "choice": machine.kernel.as_str(), "version": start.kernel },
        "provider": start.provider.map(|kind| kind.as_str()),
        "cpus": machine.cpus,
        "memory": machine.memory,
        "disk_bytes": machine.disk.or_else(|| image.map(|image| image.default_disk)),
        "ports": ports,
    })
}

fn change(change: &Change) -> Value {
    json!({
        "what": change.subject.to_string(),
        "old": change.old,
        "new": change.new,
        "applied_by": change.how.as_str(),
    })
}

fn after(after: &After<'_>) -> Value {
    let declared = after.preview.after;
    let (runs, (why, changed)) = match &after.preview.why {
        Ok(why) => (Some(why.runs()), reason(why)),
        Err(_) => (None, ("", None)),
    };
    json!({
        "name": after.project.masker.mask(&declared.step.name),
        "type": declared.step.kind.type_name(),
        "on": match declared.side {
            Side::Host => "host",
            Side::Guest => "guest",
        },
        "machines": declared.machines,
        "runs": runs,
        "why": Some(why).filter(|why| !why.is_empty()),
        "changed": changed,
        "problem": after.problem().map(|(message, hint)| json!({ "message": message, "hint": hint })),
    })
}

fn step(step: &StepPreview) -> Value {
    let (why, changed) = reason(&step.why);
    json!({ "name": step.name, "type": step.kind, "runs": step.why.runs(), "why": why, "changed": changed })
}

fn reason(why: &Why) -> (&'static str, Option<&Vec<String>>) {
    match why {
        Why::New => ("new", None),
        Why::Changed(parts) => ("changed", Some(parts)),
        Why::Always => ("always", None),
        Why::Done => ("done", None),
        Why::Never => ("never", None),
    }
}
