//! In which order machines come up.

use crate::model::Machine;

/// `machines` so that each comes behind those it depends on, else in the order of the file. Names that
/// are not among them do not matter; the members of a circle, which `config` lets nobody declare, come
/// last.
pub fn in_order<'a>(machines: impl IntoIterator<Item = &'a Machine>) -> Vec<&'a Machine> {
    let mut waiting: Vec<&Machine> = machines.into_iter().collect();
    let mut ordered: Vec<&Machine> = Vec::with_capacity(waiting.len());
    loop {
        let is_free = |machine: &&Machine| {
            !machine.depends_on.iter().any(|name| waiting.iter().any(|other| other.name == *name))
        };
        let Some(at) = waiting.iter().position(is_free) else { break };
        ordered.push(waiting.remove(at));
    }
    ordered.extend(waiting);
    ordered
}
