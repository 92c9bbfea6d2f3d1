//! `[profiles.NAME]`: sets of machine keys that `profile` chooses from.

use std::collections::BTreeMap;

use super::index::Turn;
use super::keys::Place;
use super::layer::Layer;
use super::report::brief;
use super::suggest::{nearest, one_of};
use super::walk::{Reader, Table};

/// Profiles of one project.
const MOST_PROFILES: usize = 256;

/// One of them.
pub(super) struct Profile<'t> {
    /// Its table.
    pub table: Table<'t>,
    /// What it says, read as for the first copy of a machine.
    pub layer: Layer,
    /// `{i}` stands in it, so that it is read anew for each copy.
    pub counted: bool,
}

/// All of them, by name.
pub(super) type Profiles<'t> = BTreeMap<String, Profile<'t>>;

impl Reader<'_> {
    /// The profiles of the project; each is checked, used or not.
    pub fn profiles<'t>(&mut self, top: &Table<'t>) -> Profiles<'t> {
        const FORM: &str = "write `[profiles.NAME]` and the keys of a machine below it";
        let mut profiles = Profiles::new();
        let Some(value) = top.raw("profiles") else { return profiles };
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong(&value.span(), "`profiles` is not a table of profiles", FORM);
            return profiles;
        };
        if entries.len() > MOST_PROFILES {
            let message = format!("there are {} profiles", entries.len());
            self.wrong(&value.span(), message, format!("at most {MOST_PROFILES} are accepted"));
            return profiles;
        }
        for (name, value) in entries {
            let Some(keys) = value.get_ref().as_table() else {
                let message = format!("`{}` is not a profile", brief(name.get_ref()));
                self.wrong(&name.span(), message, FORM);
                continue;
            };
            let table = self.open(keys, value.span(), Place::Profile);
            let before = std::mem::replace(&mut self.vars.turn, Turn::Any);
            self.vars.counted = false;
            let layer = self.layer(&table);
            let counted = std::mem::take(&mut self.vars.counted);
            self.vars.turn = before;
            profiles.insert(name.get_ref().to_string(), Profile { table, layer, counted });
        }
        profiles
    }

    /// The profile that a machine or, where it says nothing, the top of the file chooses;
    /// `Some(None)`: a wrong one, which has been noted.
    pub fn chosen<'p, 't>(
        &mut self,
        machine: Option<&Table<'_>>,
        top: &Table<'_>,
        profiles: &'p Profiles<'t>,
    ) -> Option<Option<&'p Profile<'t>>> {
        let table = machine.filter(|table| table.raw("profile").is_some()).unwrap_or(top);
        table.raw("profile")?;
        let Some(name) = self.text(table, "profile", "\"debian\"") else { return Some(None) };
        if let Some(profile) = profiles.get(&name.value.value) {
            return Some(Some(profile));
        }
        let known = || profiles.keys().map(String::as_str);
        let help = match nearest(&name.value.value, known()).filter(|_| !name.value.is_filled()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if profiles.is_empty() => {
                "write it: `[profiles.NAME]` and the keys of a machine below".into()
            }
            None => format!("it can be {}", one_of(known())),
        };
        let message = format!("there is no profile {:?}", brief(&name.value.shown));
        self.wrong(&name.span, message, help);
        Some(None)
    }
}
