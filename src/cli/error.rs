//! What a command failed with, and how that is said.

use std::error::Error;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::ui::text::sanitise;
use crate::config::ConfigError;
use crate::image::ImageError;
use crate::machine::MachineError;
use crate::model::Code;
use crate::state::{LayoutError, LockError, store};

/// What kind of failure: it decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command was typed wrong: exit code 2.
    Usage,
    /// The configuration is missing or wrong: exit code 2.
    Config,
    /// The work failed: exit code 1.
    Failed,
    /// Ctrl-C or SIGTERM: exit code 130.
    Interrupted,
}

impl Kind {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage | Kind::Config => 2,
            Kind::Failed => 1,
            Kind::Interrupted => 130,
        }
    }
}

/// A failure as the user sees it.
#[derive(Debug, Clone)]
pub struct CliError {
    /// Decides the exit code.
    pub kind: Kind,
    /// Stable, for scripts and for `rvm explain`.
    pub code: Code,
    /// What was tried on what: a lower-case fragment without a full stop.
    pub message: String,
    /// Why, from the nearest cause to the deepest.
    pub causes: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// Where it is about the content of a file.
    in_file: Option<Box<InFile>>,
}

/// What is wrong inside a file.
#[derive(Debug, Clone)]
struct InFile {
    /// Shown to people in place of message and causes.
    plain: String,
    /// The same with colours.
    colored: String,
    /// The single problems, for `--json`.
    problems: Value,
}

impl CliError {
    /// A failure of that kind. Each has a code: a new one is a line in `model::Code` and an entry in
    /// `docs/errors.md`.
    pub fn new(kind: Kind, code: Code, message: impl Into<String>) -> Self {
        CliError { kind, code, message: message.into(), causes: Vec::new(), hint: None, in_file: None }
    }

    /// Words on the command line that do not fit together.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, Code::Usage, message)
    }

    /// Failed work.
    pub fn failed(code: Code, message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, code, message)
    }

    /// A file or folder of the store or the project that could not be read or written.
    pub fn file(what: &str, path: &Path, error: &io::Error) -> Self {
        let failure = Self::failed(Code::WriteFile, format!("{what} {}", path.display())).because(error);
        CliError { hint: store::remedy(error), ..failure }
    }

    /// Ended by Ctrl-C or SIGTERM.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted, Code::Interrupted, message)
    }

    /// A failure with the message and all causes of `error`.
    pub fn from_error(kind: Kind, code: Code, error: &dyn Error, hint: Option<String>) -> Self {
        let mut failure = Self::new(kind, code, error.to_string());
        failure.causes = causes(error);
        failure.hint = hint;
        failure
    }

    /// With `cause` and all that is behind it.
    pub fn because(mut self, cause: &dyn Error) -> Self {
        self.causes.push(cause.to_string());
        self.causes.extend(causes(cause));
        self
    }

    /// With a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Message and causes in one line. A cause that the text before already says is left out.
    pub fn one_line(&self) -> String {
        let mut line = self.message.clone();
        for cause in &self.causes {
            if !line.ends_with(cause.as_str()) {
                line.push_str(": ");
                line.push_str(cause);
            }
        }
        line
    }

    /// All there is to say, for people: without a line end.
    pub fn render(&self, color: bool) -> String {
        let (red, cyan, reset) = if color { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
        let mut text = match &self.in_file {
            Some(file) if color => file.colored.trim_end().to_owned(),
            Some(file) => file.plain.trim_end().to_owned(),
            None => format!("{red}error[{}]{reset}: {}", self.code, sanitise(&self.one_line())),
        };
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n{cyan}hint:{reset} {}", sanitise(hint)));
        }
        text
    }

    /// The `error` document of `--json`.
    pub fn to_json(&self) -> Value {
        let mut error = json!({
            "code": self.code.as_str(),
            "message": self.message,
            "causes": self.causes,
            "hint": self.hint,
        });
        if let (Some(file), Some(fields)) = (&self.in_file, error.as_object_mut()) {
            fields.insert("problems".into(), file.problems.clone());
        }
        json!({ "version": super::json::VERSION, "error": error })
    }
}

fn causes(error: &dyn Error) -> Vec<String> {
    let mut list = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        list.push(cause.to_string());
        next = cause.source();
    }
    list
}

impl From<MachineError> for CliError {
    fn from(error: MachineError) -> Self {
        let kind = if error.is_interrupt() { Kind::Interrupted } else { Kind::Failed };
        Self::from_error(kind, error.code(), &error, error.hint())
    }
}

impl From<ImageError> for CliError {
    fn from(error: ImageError) -> Self {
        let interrupted =
            matches!(error, ImageError::Cancelled { .. } | ImageError::Lock(LockError::Cancelled { .. }));
        let kind = if interrupted { Kind::Interrupted } else { Kind::Failed };
        Self::from_error(kind, error.code(), &error, error.hint())
    }
}

impl From<LayoutError> for CliError {
    fn from(error: LayoutError) -> Self {
        Self::from_error(Kind::Config, error.code(), &error, Some("set RVM_HOME to a folder of yours".into()))
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let problems = error.problems();
        if problems.is_empty() {
            return Self::from_error(Kind::Config, error.code(), &error, error.hint());
        }
        let mut failure = match problems {
            [one] => Self::new(Kind::Config, error.code(), &one.message),
            all => {
                Self::new(Kind::Config, error.code(), format!("the configuration has {} problems", all.len()))
            }
        };
        failure.in_file = Some(Box::new(InFile {
            plain: error.render(false),
            colored: error.render(true),
            // Paths that are not UTF-8 do not serialise; the text has them all the same.
            problems: serde_json::to_value(problems).unwrap_or_default(),
        }));
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read {path}")]
    struct Read {
        path: &'static str,
        #[source]
        source: io::Error,
    }

    fn example() -> CliError {
        let error = Read { path: "/x", source: io::Error::other("disk on fire") };
        CliError::from_error(Kind::Failed, Code::ImageFile, &error, Some("call the fire brigade".into()))
    }

    #[test]
    fn says_what_why_and_what_next() {
        assert_eq!(
            example().render(false),
            "error[E0606]: cannot read /x: disk on fire\nhint: call the fire brigade"
        );
        assert!(example().render(true).starts_with("\x1b[1;31merror[E0606]\x1b[0m: cannot read"));
    }

    #[test]
    fn a_cause_is_said_once() {
        let error =
            CliError::failed(Code::Host, "cannot boot: no space").because(&io::Error::other("no space"));
        assert_eq!(error.one_line(), "cannot boot: no space");
        assert_eq!(error.causes, ["no space"]);
    }

    #[test]
    fn json_keeps_the_parts_apart() {
        let value = example().to_json();
        assert_eq!(value["version"], 1);
        assert_eq!(value["error"]["code"], "E0606");
        assert_eq!(value["error"]["message"], "cannot read /x");
        assert_eq!(value["error"]["causes"][0], "disk on fire");
        assert_eq!(value["error"]["hint"], "call the fire brigade");
    }

    #[test]
    fn exit_codes() {
        let codes = [Kind::Usage, Kind::Config, Kind::Failed, Kind::Interrupted].map(Kind::exit_code);
        assert_eq!(codes, [2, 2, 1, 130]);
    }
}
