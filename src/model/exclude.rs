//! What is left out of a folder.

use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Patterns as in a `.gitignore` of that folder: `*.log`, `target/`, `/top`, `!kept.log`.
#[derive(Debug, Clone)]
pub struct Exclude(Gitignore);

impl Default for Exclude {
    fn default() -> Self {
        Exclude(Gitignore::empty())
    }
}

impl Exclude {
    /// Reads the patterns; the error says why one of them is none.
    pub fn new<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Self, String> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            builder.add_line(None, pattern).map_err(why)?;
        }
        builder.build().map(Exclude).map_err(why)
    }

    /// Whether something in the folder is left out. What is below a folder that is left out is not asked for.
    pub fn covers(&self, path: &Path, is_folder: bool) -> bool {
        self.0.matched(path, is_folder).is_ignore()
    }
}

fn why(error: ignore::Error) -> String {
    match error {
        // It repeats the pattern.
        ignore::Error::Glob { err, .. } => err,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_git() {
        let exclude =
            Exclude::new(["*.log", "target/", "/top", "!kept.log", "a/**/z", "# a remark"]).unwrap();
        let covers = |path: &str, is_folder| exclude.covers(Path::new(path), is_folder);
        assert!(covers("x.log", false) && covers("deep/x.log", false));
        assert!(!covers("kept.log", false) && !covers("deep/kept.log", false));
        assert!(covers("sub/target", true) && !covers("target", false));
        assert!(covers("top", false) && !covers("sub/top", false));
        assert!(covers("a/b/c/z", false) && !covers("b/z", false));
        assert!(!Exclude::default().covers(Path::new("x"), false));
        assert!(Exclude::new(["[z-a]"]).is_err());
    }
}
