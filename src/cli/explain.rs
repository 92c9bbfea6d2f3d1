//! `rvm explain`: what is behind an error's code.

use clap::Args;
use serde_json::{Value, json};

use super::app::App;
use super::error::{CliError, Kind};
use super::json::VERSION;
use super::ui::table::table;
use super::{DONE, Json, Outcome};
use crate::model::Code;

/// The page that all entries are on: the binary carries it.
const PAGE: &str = include_str!("../../docs/errors.md");

/// Words of `rvm explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The code, such as E0306; without, all codes
    #[arg(value_name = "CODE")]
    code: Option<String>,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Prints the entry of a code, or the list of all.
pub fn run(app: &App, args: &ExplainArgs) -> Outcome {
    let codes = match &args.code {
        Some(text) => vec![parse(text)?],
        None => Code::ALL.to_vec(),
    };
    let entries: Vec<Entry> = codes.into_iter().filter_map(entry).collect();
    match entries.as_slice() {
        entries if app.json => {
            let list: Vec<Value> = entries.iter().map(Entry::document).collect();
            app.ui.json(&json!({ "version": VERSION, "errors": list }));
        }
        [one] if args.code.is_some() => app.ui.result(&one.text()),
        all => {
            let rows: Vec<Vec<String>> =
                all.iter().map(|e| vec![e.code.to_string(), e.title.clone()]).collect();
            app.ui.result(table(&["code", "meaning"], &rows).trim_end());
        }
    }
    Ok(DONE)
}

/// `E0306`, also `e0306` and `0306`.
fn parse(text: &str) -> Result<Code, CliError> {
    Code::parse(text).or_else(|| Code::parse(&format!("E{text}"))).ok_or_else(|| {
        CliError::new(Kind::Usage, Code::UnknownCode, format!("there is no error code `{text}`"))
            .hint("`rvm explain` lists all")
    })
}

/// One entry of the page; `cause` and `next` are one line each.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    code: Code,
    title: String,
    cause: String,
    next: String,
}

impl Entry {
    fn text(&self) -> String {
        format!("{}: {}\n\nCause: {}\n\nNext: {}", self.code, self.title, self.cause, self.next)
    }

    fn document(&self) -> Value {
        json!({ "code": self.code.as_str(), "title": self.title, "cause": self.cause, "next": self.next })
    }
}

fn entry(code: Code) -> Option<Entry> {
    let (_, rest) = PAGE.split_once(&format!("\n### {code} "))?;
    let body = rest.split("\n#").next()?;
    let (title, paragraphs) = body.split_once("\n\n")?;
    let part = |lead: &str| {
        let paragraph = paragraphs.split("\n\n").find_map(|text| text.trim().strip_prefix(lead))?;
        Some(paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    Some(Entry { code, title: title.to_owned(), cause: part("Cause: ")?, next: part("Next: ")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_entry_with_cause_and_next_step() {
        for code in Code::ALL {
            let entry =
                entry(*code).unwrap_or_else(|| panic!("docs/errors.md has no whole entry for {code}"));
            assert!(entry.title.len() > 5 && entry.cause.len() > 10 && entry.next.len() > 10, "{entry:?}");
        }
    }

    #[test]
    fn every_entry_is_that_of_a_code_once_and_in_order() {
        let headings: Vec<&str> =
            PAGE.lines().filter_map(|line| line.strip_prefix("### ")?.split(' ').next()).collect();
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(headings, codes);
    }

    #[test]
    fn the_text() {
        insta::assert_snapshot!(entry(Code::NotRunning).unwrap().text(), @r"
        E0306: the machine is not running

        Cause: the command needs a running machine, and this one is switched off or has ended.

        Next: `rvm up NAME` starts it; `rvm status NAME` says why it ended.
        ");
    }

    #[test]
    fn codes_as_people_type_them() {
        for text in ["E0306", "e0306", "0306"] {
            assert_eq!(parse(text).unwrap(), Code::NotRunning);
        }
        assert_eq!(parse("E1").unwrap_err().code, Code::UnknownCode);
    }
}
