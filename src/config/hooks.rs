//! `[[hook]]`.

use std::time::Duration;

use crate::model::{Hook, Hooked, Machine, Moment, Side, Step};

use super::keys::Place;
use super::report::brief;
use super::suggest::{nearest, one_of};
use super::vars::Text;
use super::walk::{Reader, Sp, Table};

/// How long a hook may take where the file does not say it: one that hangs must not hang a command.
const TIMEOUT: Duration = Duration::from_secs(300);
const SIDES: [(&str, Side); 2] = [("host", Side::Host), ("guest", Side::Guest)];
const ON_ERROR: [(&str, bool); 2] = [("halt", false), ("continue", true)];
const KINDS: [&str; 2] = ["shell", "path"];

impl Reader<'_> {
    /// The hooks of the file, in its order.
    pub fn hooks(&mut self, top: &Table<'_>, machines: &[Machine]) -> Vec<Hook> {
        let tables = self.tables(top, "hook", Place::Hook);
        let hooks = tables.iter().enumerate();
        hooks.filter_map(|(index, table)| self.hook(table, index + 1, machines)).collect()
    }

    fn hook(&mut self, table: &Table<'_>, number: usize, machines: &[Machine]) -> Option<Hook> {
        let name = self.step_name(table).map_or_else(|| format!("hook-{number}"), |name| name.value);
        let moment = self.moment(table);
        let side = self.choice(table, "on", &SIDES).map(|side| side.value).unwrap_or_default();
        let may_fail = self.choice(table, "on_error", &ON_ERROR).is_some_and(|word| word.value);
        let members = self.members(table, machines);
        let env = self.step_env(table);
        let given: Vec<&str> = KINDS.into_iter().filter(|key| table.raw(key).is_some()).collect();
        let kind = match given.as_slice() {
            [key] => self.step_kind(table, key),
            [] => {
                let help = "add `shell = \"…\"` or `path = \"script.sh\"`";
                self.wrong(&table.span, "this hook does not say what to run", help);
                None
            }
            _ => {
                self.wrong(&table.span, "this hook has `shell` and `path`", "keep one of them");
                None
            }
        };
        if let (Side::Host, Some(span)) = (side, table.key_span("privileged")) {
            let help = "on the host a hook runs as you: remove it, or say `on = \"guest\"`";
            self.wrong(&span, "`privileged` is for hooks in the guest", help);
        }
        let timeout = self.time(table, "timeout").map_or(TIMEOUT, |time| time.value);
        let (moment, commands) = moment?;
        self.check_guest_is_there(table, side, moment, &commands);
        let step = Step { env: env?, timeout: Some(timeout), ..Step::new(name, kind?) };
        Some(Hook { moment, commands, side, machines: members?, may_fail, step })
    }

    /// `before` or `after`, with one command or a list.
    fn moment(&mut self, table: &Table<'_>) -> Option<(Moment, Vec<Hooked>)> {
        let given = [Moment::Before, Moment::After].map(|m| table.key_span(m.as_str()).map(|_| m));
        let moment = match given {
            [Some(moment), None] | [None, Some(moment)] => moment,
            [None, None] => {
                let help = "add `before = \"halt\"` or `after = \"up\"`";
                self.wrong(&table.span, "this hook does not say when to run", help);
                return None;
            }
            [Some(_), Some(_)] => {
                self.wrong(&table.span, "this hook has `before` and `after`", "make two hooks of it");
                return None;
            }
        };
        let key = moment.as_str();
        let is_list = table.raw(key).is_some_and(|value| value.get_ref().as_array().is_some());
        let words = match is_list {
            true => self.texts(table, key, "[\"up\", \"reload\"]")?,
            false => vec![self.text(table, key, "\"up\"")?],
        };
        if let (true, Some(value)) = (words.is_empty(), table.raw(key)) {
            self.wrong(
                &value.span(),
                format!("`{key}` names no command"),
                "name at least one, such as `\"up\"`",
            );
        }
        let mut commands = Vec::new();
        let mut fine = !words.is_empty();
        for word in words {
            match Hooked::ALL.into_iter().find(|command| command.as_str() == word.value.value) {
                Some(command) if commands.contains(&command) => {}
                Some(command) => commands.push(command),
                None => {
                    fine = false;
                    self.no_command(key, &word);
                }
            }
        }
        fine.then_some((moment, commands))
    }

    fn no_command(&mut self, key: &str, word: &Sp<Text>) {
        let names = || Hooked::ALL.into_iter().map(Hooked::as_str);
        let all = one_of(names());
        let help = match nearest(&word.value.value, names()) {
            Some(near) => format!("did you mean `{near}`? It can be {all}"),
            None => format!("it can be {all}"),
        };
        self.wrong(&word.span, format!("`{key}` cannot be {:?}", brief(&word.value.shown)), help);
    }

    /// The names of the machines that `machines` names, by name or group; all where it is not there.
    pub fn members(&mut self, table: &Table<'_>, machines: &[Machine]) -> Option<Vec<String>> {
        if table.raw("machines").is_none() {
            return Some(machines.iter().map(|machine| machine.name.clone()).collect());
        }
        let words = self.texts(table, "machines", "[\"web\"]")?;
        let mut names: Vec<String> = Vec::new();
        let mut fine = true;
        for word in words {
            let meant = |machine: &&Machine| {
                machine.name == word.value.value || machine.groups.contains(&word.value.value)
            };
            let before = names.len();
            for machine in machines.iter().filter(meant) {
                if !names.contains(&machine.name) {
                    names.push(machine.name.clone());
                }
            }
            if names.len() == before && !machines.iter().any(|machine| meant(&machine)) {
                fine = false;
                let known = machines.iter().flat_map(|m| std::iter::once(&m.name).chain(&m.groups));
                let help = match nearest(&word.value.value, known.map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "name machines or groups of this file".to_owned(),
                };
                let message = format!("no machine or group is called {:?}", brief(&word.value.shown));
                self.wrong(&word.span, message, help);
            }
        }
        fine.then_some(names)
    }

    /// A hook in a guest that cannot be there would never run.
    fn check_guest_is_there(&mut self, table: &Table<'_>, side: Side, moment: Moment, commands: &[Hooked]) {
        let gone = |command: &&Hooked| match moment {
            Moment::Before => **command == Hooked::Up,
            Moment::After => matches!(command, Hooked::Halt | Hooked::Destroy),
        };
        if let (Side::Guest, Some(command)) = (side, commands.iter().find(gone))
            && let Some(span) = table.key_span(moment.as_str())
        {
            let message =
                format!("{} `{}` there is no guest to run this in", moment.as_str(), command.as_str());
            self.wrong(&span, message, "say `on = \"host\"`, or another moment");
        }
    }
}
