//! `--machine-readable`: lines for scripts, in the format of Vagrant's
//! (<https://developer.hashicorp.com/vagrant/docs/cli/machine-readable>): seconds since 1970, the machine
//! (or nothing), a type, and data, with commas in between.

use std::time::SystemTime;

/// Something said about the work, by how much it matters: the second field of a line of type `ui`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// A result, or a note.
    Info,
    /// A stage of the work on a machine.
    Output,
    /// More about a stage; what a step prints.
    Detail,
    /// A warning.
    Warn,
    /// A failure.
    Error,
}

impl Tone {
    /// Vagrant's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Tone::Info => "info",
            Tone::Output => "output",
            Tone::Detail => "detail",
            Tone::Warn => "warn",
            Tone::Error => "error",
        }
    }
}

/// A line without its end. `target` is empty where it is about no machine.
pub fn line(now: SystemTime, target: &str, kind: &str, data: &[&str]) -> String {
    // A clock before 1970 is wrong in any case.
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut line = format!("{seconds},{},{}", escape(target), escape(kind));
    for field in data {
        line.push(',');
        line.push_str(&escape(field));
    }
    line
}

/// A field without what would end it. There is no escape for a backslash: Vagrant has none.
fn escape(text: &str) -> String {
    text.replace(',', "%!(VAGRANT_COMMA)").replace('\n', "\\n").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fields_stay_apart() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(line(now, "web", "state", &["running"]), "1700000000,web,state,running");
        assert_eq!(
            line(now, "", "ui", &["info", "a, b\r\nc\\n"]),
            "1700000000,,ui,info,a%!(VAGRANT_COMMA) b\\r\\nc\\n"
        );
        assert_eq!(line(now - Duration::from_secs(1_800_000_000), "", "x", &[]), "0,,x");
    }

    proptest::proptest! {
        #[test]
        fn a_line_is_one_line_with_the_fields_that_it_was_given(data in proptest::collection::vec(".*", 0..4)) {
            let data: Vec<&str> = data.iter().map(String::as_str).collect();
            let line = line(SystemTime::UNIX_EPOCH, "web", "ui", &data);
            proptest::prop_assert!(!line.contains('\n') && !line.contains('\r'));
            proptest::prop_assert_eq!(line.split(',').count(), 3 + data.len());
        }
    }
}
