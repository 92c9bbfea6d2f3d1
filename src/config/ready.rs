//! `[[ready]]`: what must hold in a machine before it counts as ready.

use std::ops::Range;
use std::time::Duration;

use crate::model::{Check, Probe};

use super::keys::Place;
use super::report::brief;
use super::walk::{Reader, Table};

/// The keys that say what a probe looks at; each has one of them.
const KINDS: [&str; 3] = ["port", "command", "file"];
/// For a probe that names no other.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A guest's path is no longer (`PATH_MAX`).
const LONGEST_PATH: usize = 4095;

impl Reader<'_> {
    /// The probes of a machine, or the defaults at the top, in the order of the file.
    pub fn probes(&mut self, table: &Table<'_>) -> Vec<Probe> {
        let tables = self.tables(table, "ready", Place::Ready);
        tables.iter().filter_map(|probe| self.probe(probe)).collect()
    }

    fn probe(&mut self, table: &Table<'_>) -> Option<Probe> {
        let timeout = match table.raw("timeout") {
            Some(_) => self.time(table, "timeout").map(|time| time.value),
            None => Some(TIMEOUT),
        };
        let given: Vec<(&str, Range<usize>)> =
            KINDS.iter().filter_map(|key| Some((*key, table.key_span(key)?))).collect();
        let check = match given.as_slice() {
            [] => {
                let help = "add `port = 80`, `command = \"…\"` or `file = \"/…\"`";
                self.wrong(&table.span, "this does not say what shows that the machine is ready", help);
                None
            }
            [("port", _)] => self.number(table, "port", 1, 65535).and_then(|port| {
                let port = u16::try_from(port.value).ok()?;
                Some(Check::Port(port))
            }),
            [("command", _)] => self.ready_command(table).map(Check::Command),
            [_] => self.ready_file(table).map(Check::File),
            [(first, _), others @ ..] => {
                for (other, span) in others {
                    let message = format!("this looks at one thing, but it has `{first}` and `{other}`");
                    self.wrong(span, message, "make two of it, each with its own `[[…ready]]`");
                }
                None
            }
        };
        Some(Probe { check: check?, timeout: timeout? })
    }

    fn ready_command(&mut self, table: &Table<'_>) -> Option<String> {
        let help = "write a command that ends with 0 once the machine is ready";
        self.script_text(table, "command", "\"systemctl is-active nginx\"", "command", help)
    }

    fn ready_file(&mut self, table: &Table<'_>) -> Option<String> {
        let file = self.text(table, "file", "\"/run/app.ready\"")?;
        let path = file.value.value.as_str();
        if !path.starts_with('/') || path.contains(['\0', '\n']) || path.len() > LONGEST_PATH {
            let message = format!("{:?} is not a file of the machine", brief(&file.value.shown));
            self.wrong(&file.span, message, "write a path in the guest from `/` on");
            return None;
        }
        Some(file.value.value)
    }
}
