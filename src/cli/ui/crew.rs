//! Several machines at work at the same time: how their lines are told apart.

/// Foreground colours of ECMA-48 for names, without red and yellow, which failures and warnings have.
const COLORS: [&str; 8] =
    ["\x1b[36m", "\x1b[35m", "\x1b[32m", "\x1b[34m", "\x1b[96m", "\x1b[95m", "\x1b[92m", "\x1b[94m"];

/// Back to the usual foreground; bold stays.
const PLAIN: &str = "\x1b[39m";

/// The machines that a command works on.
#[derive(Debug, Clone)]
pub struct Crew {
    names: Vec<String>,
    width: usize,
}

impl Crew {
    /// In this order.
    pub fn new(names: Vec<String>) -> Crew {
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        Crew { names, width }
    }

    /// Its names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Where the machine is in the list.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|other| other == name)
    }

    /// The name with its colon, in its colour, and padded to the longest of them, where that is wanted.
    pub fn label(&self, name: &str, color: bool, padded: bool) -> String {
        let pad = if padded { self.width.saturating_sub(name.chars().count()) } else { 0 };
        let color = self.position(name).filter(|_| color).and_then(|at| COLORS.get(at % COLORS.len()));
        let name = match color {
            Some(color) => format!("{color}{name}:{PLAIN}"),
            None => format!("{name}:"),
        };
        format!("{name}{}", " ".repeat(pad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_line_up_and_keep_their_colours() {
        let crew = Crew::new(["web", "database"].map(String::from).to_vec());
        assert_eq!(crew.label("web", false, true), "web:     ");
        assert_eq!(crew.label("database", false, true), "database:");
        assert_eq!(crew.label("web", true, false), "\x1b[36mweb:\x1b[39m");
        assert_eq!(crew.label("database", true, true), "\x1b[35mdatabase:\x1b[39m");
        assert_eq!(crew.label("stranger", true, true), "stranger:");
        let many = Crew::new((0..20).map(|number| format!("m{number}")).collect());
        assert_eq!(many.label("m8", true, false), "\x1b[36mm8:\x1b[39m");
    }
}
