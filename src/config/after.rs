//! `[[after_all]]`.

use crate::model::{AfterAll, Machine, Side, StepKind};

use super::keys::Place;
use super::walk::{Reader, Table};

const SIDES: [(&str, Side); 2] = [("host", Side::Host), ("guest", Side::Guest)];

impl Reader<'_> {
    /// The steps after all machines, in the order of the file.
    pub fn after_all(&mut self, top: &Table<'_>, machines: &[Machine]) -> Vec<AfterAll> {
        let mut raw = Vec::new();
        for table in self.tables(top, "after_all", Place::AfterAll) {
            let step = self.step(&table);
            let side = self.choice(&table, "on", &SIDES).map(|side| side.value).unwrap_or_default();
            let members = self.members(&table, machines);
            let autostart = |name: &String| machines.iter().any(|m| m.name == *name && m.autostart);
            let members = match table.raw("machines") {
                // One that nobody brings up would be waited for without end.
                None => members.map(|names| names.into_iter().filter(autostart).collect()),
                Some(_) => members,
            };
            if let (Some(step), Some(members)) = (step, members) {
                self.check_side(&table, side, &step.step.kind);
                raw.push((step, side, members));
            }
        }
        let steps = self.name_steps(raw.iter().map(|(step, ..)| step));
        let sides = raw.into_iter().map(|(_, side, members)| (side, members));
        steps
            .into_iter()
            .zip(sides)
            .map(|(step, (side, machines))| AfterAll { side, machines, step })
            .collect()
    }

    fn check_side(&mut self, table: &Table<'_>, side: Side, kind: &StepKind) {
        match (side, kind) {
            (Side::Host, StepKind::Shell { .. } | StepKind::Ansible(_)) => {}
            (Side::Host, kind) => {
                let message = format!("a step of type `{}` runs in a guest", kind.type_name());
                self.wrong(&table.span, message, "add `on = \"guest\"`");
            }
            (Side::Guest, StepKind::Ansible(_)) => {
                self.wrong(&table.span, "`ansible` runs on the host", "remove `on`");
            }
            (Side::Guest, _) => {}
        }
        for key in ["privileged", "reboot"] {
            if let (Side::Host, Some(span)) = (side, table.key_span(key)) {
                let help = "on the host a step runs as you: remove it, or say `on = \"guest\"`";
                self.wrong(&span, format!("`{key}` is for steps in a guest"), help);
            }
        }
    }
}
