//! A plan as JSON.

use serde_json::{Value, json};

use super::Planned;
use crate::cli::json::{Port, VERSION};
use crate::machine::{StepPreview, Undeclared};
use crate::plan::Change;
use crate::provision::Why;

/// The document of `rvm plan --json`, described in `docs/vagrant.md`.
pub(super) fn document(list: &[Planned<'_>], gone: &[Undeclared]) -> Value {
    json!({
        "version": VERSION,
        "differences": !gone.is_empty() || list.iter().any(Planned::differs),
        "machines": list.iter().map(machine).collect::<Vec<_>>(),
        "undeclared": gone.iter().map(|m| json!({ "id": m.id, "name": m.name })).collect::<Vec<_>>(),
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

fn step(step: &StepPreview) -> Value {
    let (why, changed) = match &step.why {
        Why::New => ("new", None),
        Why::Changed(parts) => ("changed", Some(parts)),
        Why::Always => ("always", None),
        Why::Done => ("done", None),
        Why::Never => ("never", None),
    };
    json!({ "name": step.name, "type": step.kind, "runs": step.why.runs(), "why": why, "changed": changed })
}
