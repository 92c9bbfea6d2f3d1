//! `[[volume]]`: disks that outlive machines.

use std::collections::HashMap;

use crate::model::Volume;

use super::disks::{FILESYSTEMS, LONGEST_NAME, SIZE};
use super::keys::Place;
use super::machines::is_label;
use super::report::brief;
use super::suggest::nearest;
use super::vars::Text;
use super::walk::{Reader, Sp, Table};

impl Reader<'_> {
    /// Reads the `[[volume]]` tables; disks that name one come later.
    pub fn declare_volumes(&mut self, top: &Table<'_>) {
        let mut names: HashMap<String, usize> = HashMap::new();
        for table in self.tables(top, "volume", Place::Volume) {
            let Some((name, volume)) = self.volume(&table) else { continue };
            if let Some(first) = names.insert(volume.name.clone(), name.span.start) {
                let line = self.problems.line_of(first);
                let message = format!("a volume called {:?} is already on line {line}", brief(&name.value));
                self.wrong(&name.span, message, "give each volume a name of its own");
                continue;
            }
            self.volumes.push(volume);
        }
    }

    fn volume(&mut self, table: &Table<'_>) -> Option<(Sp<String>, Volume)> {
        if table.raw("name").is_none() {
            self.wrong(&table.span, "this volume has no `name`", "add `name = \"data\"`");
        }
        if table.raw("size").is_none() {
            self.wrong(&table.span, "nothing says how large this volume is", "add `size = \"10GiB\"`");
        }
        let name = self.text(table, "name", "\"data\"").and_then(|name| self.volume_name(name));
        let size = self.size(table, "size", None, SIZE).map(|size| size.value);
        let filesystem = match table.raw("filesystem") {
            Some(_) => self.choice(table, "filesystem", &FILESYSTEMS).map(|choice| choice.value),
            None => Some(true),
        };
        let shared = self.boolean(table, "shared").unwrap_or(false);
        let (name, size, filesystem) = (name?, size?, filesystem?);
        let volume = Volume { name: name.value.clone(), size, filesystem, shared };
        Some((name, volume))
    }

    fn volume_name(&mut self, name: Sp<Text>) -> Option<Sp<String>> {
        let text = name.value.value.as_str();
        if text.len() > LONGEST_NAME || !is_label(text) {
            let message = format!("a volume cannot be called {:?}", brief(&name.value.shown));
            let help = "use a to z, 0 to 9 and `-`, beginning and ending with a letter or digit, at most 16";
            self.wrong(&name.span, message, help);
            return None;
        }
        Some(name.map(|text| text.value))
    }

    /// The volume that a disk names.
    pub fn volume_of(&mut self, disk: &Table<'_>) -> Option<Volume> {
        let given = self.text(disk, "volume", "\"data\"")?;
        let name = given.value.value.as_str();
        if let Some(volume) = self.volumes.iter().find(|volume| volume.name == name) {
            return Some(volume.clone());
        }
        let message = format!("no volume of this file is called {:?}", brief(&given.value.shown));
        let help = match nearest(name, self.volumes.iter().map(|volume| volume.name.as_str())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "declare it at the top of the file: `[[volume]]` with `name` and `size`".into(),
        };
        self.wrong(&given.span, message, help);
        None
    }
}
