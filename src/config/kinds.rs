//! What kinds of values keys have: for the reference, and as JSON schema.

use serde_json::{Value, json};

use super::keys::Place;
use super::units::MIB;

/// A string that is not judged before its variables are filled in.
const FILLED: &str = "[{]";
/// `1.5GiB`.
const SIZE: &str = r"^\s*[0-9]+(\.[0-9]{1,6})?\s*([mMgGtT]([iI]?[bB])?)\s*$";
/// `half`, `1/4`, `50%`.
const SHARE: &str = r"^\s*(half|[0-9]+\s*/\s*[0-9]+|[0-9]+\s*%)\s*$";
/// `90`, `90s`, `5m`, `1h`.
const TIME: &str = r"^\s*[0-9]+\s*([sS]|[sS][eE][cC]|[mM]|[mM][iI][nN]|[hH])?\s*$";
/// `8000-8010`.
const PORTS: &str = r"^\s*\+?[0-9]+\s*-\s*\+?[0-9]+\s*$";
/// `42`.
const NUMBER: &str = r"^\s*\+?[0-9]+\s*$";
/// A time is at most a day, in seconds.
const LONGEST_TIME: u64 = 24 * 3600;

/// The kind of a key's value. The reader checks more than these say; what it takes, they
/// allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A string.
    Text,
    /// A string in which nothing is filled in.
    Script,
    /// A whole number from, to.
    Number(u64, u64),
    /// A port, or a range of them.
    Ports,
    /// A whole number from, to, or a share of the host's.
    Share(u64, u64),
    /// A size in bytes from, to; with `bare`, a number without a unit counts MiB.
    Size { least: u64, most: u64, bare: bool },
    /// A size that can be a share of the host's.
    SizeOrShare { least: u64, most: u64 },
    /// A size with a unit, or a list of these tables.
    SizeOrTables { least: u64, most: u64, tables: Place },
    /// `true` or `false`, or a list of these tables.
    SwitchOrTables(Place),
    /// A time.
    Time,
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of strings.
    Texts,
    /// A string or a list of them.
    OneOrMoreTexts,
    /// A table of names and values.
    Variables,
    /// A table of whatever TOML has.
    AnyTable,
    /// One table.
    Table(Place),
    /// A list of tables.
    Tables(Place),
    /// A table of tables with names of the user's.
    Named(Place),
}

impl Kind {
    /// For the column "type" of the reference.
    #[cfg(test)]
    pub fn words(self) -> &'static str {
        match self {
            Kind::Text | Kind::Script => "string",
            Kind::Number(..) => "number",
            Kind::Ports => "number or range",
            Kind::Share(..) => "number or share",
            Kind::Size { .. } => "[size](#sizes-and-times)",
            Kind::SizeOrShare { .. } => "[size](#sizes-and-times) or share",
            Kind::SizeOrTables { .. } => "[size](#sizes-and-times), or list of tables",
            Kind::SwitchOrTables(_) => "true/false, or list of tables",
            Kind::Time => "[time](#sizes-and-times)",
            Kind::Boolean => "true/false",
            Kind::Word(_) => "word",
            Kind::Texts => "list of strings",
            Kind::OneOrMoreTexts => "string, or list of strings",
            Kind::Variables | Kind::AnyTable | Kind::Table(_) => "table",
            Kind::Tables(_) => "list of tables",
            Kind::Named(_) => "table of tables",
        }
    }

    /// The JSON schema (draft 7) of such a value.
    pub fn schema(self) -> Value {
        match self {
            Kind::Text | Kind::Script => json!({ "type": "string" }),
            Kind::Number(least, most) => json!({ "anyOf": [whole(least, most), text(&[NUMBER])] }),
            Kind::Ports => json!({ "anyOf": [whole(1, 65535), text(&[NUMBER, PORTS])] }),
            Kind::Share(least, most) => {
                json!({ "anyOf": [whole(least, most), text(&[NUMBER, SHARE, r"^\s*auto\s*$"])] })
            }
            Kind::Size { least, most, bare: true } => {
                json!({ "anyOf": [whole(least / MIB, most / MIB), text(&[NUMBER, SIZE])] })
            }
            Kind::Size { bare: false, .. } => text(&[SIZE]),
            Kind::SizeOrShare { least, most } => {
                json!({ "anyOf": [whole(least / MIB, most / MIB), text(&[NUMBER, SIZE, SHARE])] })
            }
            Kind::SizeOrTables { tables, .. } => {
                json!({ "anyOf": [text(&[SIZE]), list(tables.schema_ref())] })
            }
            Kind::SwitchOrTables(tables) => {
                json!({ "anyOf": [Kind::Boolean.schema(), list(tables.schema_ref())] })
            }
            Kind::Time => json!({ "anyOf": [whole(1, LONGEST_TIME), text(&[TIME])] }),
            Kind::Boolean => json!({ "anyOf": [{ "type": "boolean" }, text(&[r"^\s*(true|false)\s*$"])] }),
            Kind::Word(words) => {
                json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": FILLED }] })
            }
            Kind::Texts => list(json!({ "type": "string" })),
            Kind::OneOrMoreTexts => {
                json!({ "anyOf": [{ "type": "string" }, list(json!({ "type": "string" }))] })
            }
            Kind::Variables => json!({
                "type": "object",
                "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
                "additionalProperties": { "type": ["string", "number", "boolean"] },
            }),
            Kind::AnyTable => json!({ "type": "object" }),
            Kind::Table(place) => place.schema_ref(),
            Kind::Tables(place) => list(place.schema_ref()),
            Kind::Named(place) => json!({ "type": "object", "additionalProperties": place.schema_ref() }),
        }
    }

    /// The ends of a range, as the reference has to say them.
    #[cfg(test)]
    pub fn range(self) -> Option<(String, String)> {
        match self {
            Kind::Number(least, most) | Kind::Share(least, most) => {
                Some((least.to_string(), most.to_string()))
            }
            Kind::Ports => Some(("1".into(), "65535".into())),
            Kind::Size { least, most, .. }
            | Kind::SizeOrShare { least, most }
            | Kind::SizeOrTables { least, most, .. } => {
                Some((super::units::show_size(least), super::units::show_size(most)))
            }
            _ => None,
        }
    }
}

fn whole(least: u64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

/// A string of one of these forms, or with something to be filled in.
fn text(patterns: &[&str]) -> Value {
    let pattern = [patterns, &[FILLED]].concat().join("|");
    json!({ "type": "string", "pattern": pattern })
}

fn list(of: Value) -> Value {
    json!({ "type": "array", "items": of })
}
