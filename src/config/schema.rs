//! The JSON schema of the Vagrantfile, for editors: the keys and their kinds from `keys`, what
//! they mean from the reference.

use serde_json::{Map, Value, json};

use super::keys::Place;

/// The reference, where each table of keys follows a mark `<!-- keys: NAME -->`.
const REFERENCE: &str = include_str!("../../docs/config.md");

/// A row of a table of the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row<'t> {
    /// The key.
    pub key: &'t str,
    /// The column "type".
    pub kind: &'t str,
    /// The column "default".
    pub default: &'t str,
    /// The column "meaning".
    pub meaning: &'t str,
}

/// The rows of the table of that name.
pub(super) fn rows<'t>(reference: &'t str, table: &str) -> Vec<Row<'t>> {
    let mark = format!("<!-- keys: {table} -->\n");
    let after = reference.split_once(&mark).map_or("", |(_, after)| after);
    let row = |line: &'t str| {
        let cells = line.strip_prefix("| `")?.strip_suffix(" |")?;
        let (key, rest) = cells.split_once("` | ")?;
        let (kind, rest) = rest.split_once(" | ")?;
        // An empty cell is a single space.
        let (default, meaning) = match rest.strip_prefix("| ") {
            Some(meaning) => ("", meaning),
            None => rest.split_once(" | ")?,
        };
        Some(Row { key, kind, default, meaning })
    };
    after.lines().skip(2).map_while(row).collect()
}

impl Place {
    /// A link to the schema of a table.
    pub fn schema_ref(self) -> Value {
        json!({ "$ref": format!("#/definitions/{}", self.name()) })
    }

    /// The rows of the reference that describe the keys of this table.
    fn rows(self) -> impl Iterator<Item = Row<'static>> {
        self.reference().into_iter().flat_map(|table| rows(REFERENCE, table))
    }

    fn schema(self) -> Value {
        let rows: Vec<Row<'_>> = self.rows().collect();
        let mut properties = Map::new();
        let mut required = Vec::new();
        for key in self.described() {
            let mut schema = key.kind.schema();
            if let Some((row, schema)) =
                rows.iter().find(|row| row.key == key.name).zip(schema.as_object_mut())
            {
                let described = match schema.remove("$ref") {
                    // Draft 7 overlooks what stands beside a link.
                    Some(link) => {
                        schema.insert("allOf".into(), json!([{ "$ref": link }]));
                        schema
                    }
                    None => schema,
                };
                described.insert("description".into(), plain(row.meaning).into());
                if let Some(default) = default(row.default) {
                    described.insert("default".into(), default);
                }
                // What may stand at the top of the file as well need not stand here.
                if row.default == "required" && !Place::Top.keys().any(|name| name == key.name) {
                    required.push(key.name);
                }
            }
            properties.insert(key.name.into(), schema);
        }
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if let (Some(object), false) = (schema.as_object_mut(), required.is_empty()) {
            object.insert("required".into(), json!(required));
        }
        schema
    }
}

/// The JSON schema (draft 7) of a Vagrantfile.
pub fn schema() -> Value {
    let mut schema = Place::Top.schema();
    if let Some(object) = schema.as_object_mut() {
        let definitions: Map<String, Value> =
            Place::ALL.iter().skip(1).map(|place| (place.name().to_owned(), place.schema())).collect();
        object.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into());
        object.insert("title".into(), "Vagrantfile of rvm".into());
        object.insert("definitions".into(), definitions.into());
    }
    schema
}

/// The value that a cell of the column "default" gives, if it gives one: `` `"60s"` ``.
fn default(cell: &str) -> Option<Value> {
    let literal = cell.strip_prefix('`')?.strip_suffix('`')?;
    let table: toml::Table = toml::from_str(&format!("x = {literal}")).ok()?;
    serde_json::to_value(table.get("x")?).ok()
}

/// Markdown as plain text: links are their words.
fn plain(markdown: &str) -> String {
    let mut out = String::with_capacity(markdown.len());
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        match after.split_once("](#").and_then(|(words, link)| Some((words, link.split_once(')')?.1))) {
            Some((words, left)) if !words.contains('[') => {
                out.push_str(words);
                rest = left;
            }
            _ => {
                out.push('[');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.replace("**", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference and the keys say the same: each table has a row for each of its keys and
    /// no other, in their order and with their kinds.
    #[test]
    fn the_reference_is_complete() {
        let mut tables = std::collections::BTreeSet::<&str>::new();
        for place in Place::ALL {
            let rows: Vec<_> = place.rows().collect();
            let described: Vec<_> = rows.iter().map(|row| (row.key, row.kind)).collect();
            // A profile takes the keys of a machine, and these are described there.
            let keys: Vec<_> = place.described().map(|key| (key.name, key.kind.words())).collect();
            match place {
                // Described by the table of the machine, which has more.
                Place::Top | Place::Profile => {
                    let row =
                        |key| assert!(described.contains(key), "docs/config.md lacks {key:?} of {place:?}");
                    keys.iter().for_each(row);
                    let own = super::rows(REFERENCE, place.reference()[0]);
                    let no_key = own.iter().find(|row| !keys.iter().any(|(key, _)| *key == row.key));
                    assert!(*place == Place::Profile || no_key.is_none(), "{no_key:?}");
                }
                _ => assert_eq!(described, keys, "docs/config.md beside the keys of {place:?}"),
            }
            tables.extend(place.reference());
            for row in &rows {
                let key = place.described().find(|key| key.name == row.key);
                let Some((least, most)) = key.and_then(|key| key.kind.range()) else { continue };
                for number in [least, most] {
                    let spaced = number.replace("MiB", " MiB").replace("TiB", " TiB").replace("GiB", " GiB");
                    assert!(
                        row.meaning.contains(&spaced),
                        "`{}` of {place:?} does not say {spaced}",
                        row.key
                    );
                }
            }
        }
        let marks = REFERENCE.matches("<!-- keys: ").count();
        assert_eq!(tables.len(), marks, "{tables:?}");
    }

    #[test]
    fn a_row_is_taken_apart() {
        let text = "<!-- keys: x -->\n| key | type | default | meaning |\n|---|---|---|---|\n| `a` | number | | One. |\n\
                    | `b` | word | `\"tcp\"` | Either `\"tcp\"` or [two](#two). |\n\nother\n| `c` | x | y | z |\n";
        let rows = rows(text, "x");
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].default, rows[0].meaning), ("", "One."));
        assert_eq!(default(rows[1].default), Some(json!("tcp")));
        assert_eq!(plain(rows[1].meaning), "Either `\"tcp\"` or two.");
        assert_eq!(plain("a [b] **c** [d](#e) [f"), "a [b] c d [f");
        assert_eq!(default("none"), None);
        assert_eq!(default("`[]`"), Some(json!([])));
    }
}
