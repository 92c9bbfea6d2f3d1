//! What is wrong with a file: collected while it is read, rendered at the end.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::model::{Absent, Code, Problem};
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Problems beyond this number are not kept.
const MOST: usize = 100;
/// Lines longer than this (in bytes) are not shown, only pointed at.
const LONGEST_LINE: usize = 1000;

/// All that is wrong, in the order of the lines.
#[derive(Debug, Clone)]
pub struct Report {
    problems: Vec<Problem>,
    cut: bool,
}

impl Report {
    /// Of folders that the host does not have; `None` where it has them all.
    pub fn of_absent<'a>(absent: impl IntoIterator<Item = &'a Absent>) -> Option<Self> {
        let mut problems: Vec<Problem> = Vec::new();
        for folder in absent {
            // Machines share the lines of outer layers.
            if !problems.contains(&folder.problem) {
                problems.push(folder.problem.clone());
            }
        }
        let cut = problems.len() > MOST;
        problems.truncate(MOST);
        (!problems.is_empty()).then_some(Report { problems, cut })
    }

    /// The problems that were kept (at most 100).
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The text for people; `color` adds terminal styles.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut blocks: Vec<String> =
            self.problems.iter().map(|problem| render_one(&renderer, problem)).collect();
        let count = self.problems.len();
        if self.cut {
            blocks.push(format!("more than {count} problems; the others are not shown"));
        } else if count > 1 {
            blocks.push(format!("{count} problems"));
        }
        blocks.join("\n\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

fn render_one(renderer: &Renderer, problem: &Problem) -> String {
    let path = printable(&problem.file.to_string_lossy());
    let title = Level::ERROR.primary_title(problem.message.as_str()).id(Code::InvalidConfig.as_str());
    let group = match (&problem.excerpt, problem.line) {
        (Some((text, mark)), Some(line)) => title.element(
            Snippet::source(text.as_str())
                .line_start(line)
                .path(path)
                .annotation(AnnotationKind::Primary.span(mark.clone())),
        ),
        (_, line) => title.element(place(path, line, problem.column)),
    };
    let group: Group<'_> = match &problem.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    };
    renderer.render(&[group])
}

fn place<'a>(path: String, line: Option<usize>, column: Option<usize>) -> Origin<'a> {
    let mut origin = Origin::path(path);
    if let Some(line) = line {
        origin = origin.line(line);
        if let Some(column) = column {
            origin = origin.char_column(column);
        }
    }
    origin
}

/// A file that was read. The bytes of all files count on from each other, so that a span
/// says which file it is in.
struct Source {
    file: PathBuf,
    text: Rc<str>,
    /// The position of its first byte among those of all files.
    base: usize,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Source {
    fn new(file: &Path, text: &str, base: usize) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Source { file: file.to_owned(), text: text.into(), base, lines }
    }

    /// The line (from 1) of a byte of the text.
    fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset.min(self.text.len())).max(1)
    }

    fn before(&self, offset: usize) -> &str {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        self.text.get(..end).unwrap_or_default()
    }
}

/// Takes problems while files are read.
pub(super) struct Problems {
    /// The main file first; never empty.
    sources: Vec<Source>,
    list: Vec<Problem>,
    cut: bool,
}

impl Problems {
    /// None yet; spans that come are byte ranges of `source`.
    pub fn new(file: &Path, source: &str) -> Self {
        Problems { sources: vec![Source::new(file, source, 0)], list: Vec::new(), cut: false }
    }

    /// Takes another file; gives its number. Spans in it are those of its text, moved by its
    /// [`base`](Self::text).
    pub fn add_source(&mut self, file: &Path, text: &str) -> usize {
        // One more than there are bytes: a span may be at the very end.
        let base = self.sources.last().map_or(0, |last| last.base + last.text.len() + 1);
        self.sources.push(Source::new(file, text, base));
        self.sources.len() - 1
    }

    /// The text of a file, and by what spans in it are moved.
    pub fn text(&self, number: usize) -> (Rc<str>, usize) {
        self.sources
            .get(number)
            .map_or_else(|| ("".into(), 0), |source| (Rc::clone(&source.text), source.base))
    }

    /// The path of a file.
    pub fn path(&self, number: usize) -> &Path {
        self.sources.get(number).map_or(Path::new(""), |source| &source.file)
    }

    fn number_of(&self, offset: usize) -> usize {
        self.sources.partition_point(|source| source.base <= offset).saturating_sub(1)
    }

    /// The file that a byte is in.
    pub fn file_of(&self, offset: usize) -> &Path {
        self.path(self.number_of(offset))
    }

    /// The text that a span covers.
    pub fn text_of(&self, span: &Range<usize>) -> Option<&str> {
        let source = self.sources.get(self.number_of(span.start))?;
        source.text.get(span.start.checked_sub(source.base)?..span.end.checked_sub(source.base)?)
    }

    /// The line (from 1) of a byte, with the file where it is not the main one.
    pub fn line_of(&self, offset: usize) -> String {
        let number = self.number_of(offset);
        let line = self.sources.get(number).map_or(1, |source| source.line_of(offset - source.base));
        match number {
            0 => line.to_string(),
            _ => format!("{line} of {}", self.path(number).display()),
        }
    }

    /// Notes a problem at `span`, with what to do about it.
    pub fn add(&mut self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        if self.is_full() {
            self.cut = true;
        } else if let Some(problem) = self.problem(span, message, help) {
            self.push(problem);
        }
    }

    /// A problem at `span`, which is not noted.
    pub fn problem(
        &self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Option<Problem> {
        let source = self.sources.get(self.number_of(span.start))?;
        let before = source.before(span.start - source.base);
        let number = source.line_of(before.len());
        let start = source.lines.get(number - 1).copied().unwrap_or_default();
        let line = source.text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
        let from = before.len() - start;
        let end = source.before(span.end.saturating_sub(source.base)).len();
        let to = end.saturating_sub(start).clamp(from, line.len().max(from));
        let excerpt =
            (line.len() <= LONGEST_LINE && to <= line.len()).then(|| (line.to_owned(), from..to.max(from)));
        Some(Problem {
            file: source.file.clone(),
            line: Some(number),
            column: Some(before.get(start..).unwrap_or_default().chars().count() + 1),
            message: printable(&message.into()),
            help: Some(printable(&help.into())).filter(|text| !text.is_empty()),
            excerpt,
        })
    }

    /// Notes a problem of the file as a whole.
    pub fn add_whole(&mut self, message: impl Into<String>, help: impl Into<String>) {
        let file = self.path(0).to_owned();
        self.add_elsewhere(&file, None, message, help);
    }

    /// Notes a problem of another file, whose lines are not shown.
    pub fn add_elsewhere(
        &mut self,
        file: &Path,
        line: Option<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if self.is_full() {
            self.cut = true;
            return;
        }
        self.push(Problem {
            file: file.to_owned(),
            line,
            column: None,
            message: printable(&message.into()),
            help: Some(printable(&help.into())).filter(|text| !text.is_empty()),
            excerpt: None,
        });
    }

    /// A default that several machines share is read once for each: one report is enough.
    fn push(&mut self, problem: Problem) {
        let same = |other: &Problem| {
            (&other.file, other.line, other.column, &other.message)
                == (&problem.file, problem.line, problem.column, &problem.message)
        };
        if !self.list.iter().any(same) {
            self.list.push(problem);
        }
    }

    /// Whether further problems would not be kept.
    pub fn is_full(&self) -> bool {
        self.list.len() >= MOST
    }

    /// How many problems there are so far, those not kept among them.
    pub fn count(&self) -> usize {
        self.list.len() + usize::from(self.cut)
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, file by file from the main one on, by line.
    pub fn into_report(self) -> Report {
        let Problems { sources, mut list, cut } = self;
        let place = |file: &Path| sources.iter().position(|source| source.file == file).unwrap_or(usize::MAX);
        list.sort_by_key(|p| (place(&p.file), p.line, p.column));
        Report { problems: list, cut }
    }
}

/// The text with control characters made visible: a file must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let steers = (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steers {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A value as it may stand in a message: one line, not too long.
pub(super) fn brief(value: &str) -> String {
    const MOST_CHARS: usize = 60;
    let line = value.lines().next().unwrap_or_default();
    if line.len() == value.len() && line.chars().count() <= MOST_CHARS {
        return line.to_owned();
    }
    let cut: String = line.chars().take(MOST_CHARS).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let mut problems = Problems::new(Path::new("/p/Vagrantfile"), "a = 1\nö = ü\n");
        problems.add(&(11..13), "here", "");
        problems.add(&(500..600), "past the end", "");
        let report = problems.into_report();
        let places: Vec<_> = report.problems().iter().map(|p| (p.line, p.column)).collect();
        assert_eq!(places, [(Some(2), Some(5)), (Some(3), Some(1))]);
        assert!(report.to_string().contains("ö = ü"), "{report}");
    }

    #[test]
    fn the_same_problem_is_told_once_and_many_are_cut() {
        let mut problems = Problems::new(Path::new("/p/V"), "x = 1\n");
        problems.add(&(0..1), "same", "");
        problems.add(&(0..1), "same", "");
        assert_eq!(problems.list.len(), 1);
        for n in 0..200 {
            problems.add(&(0..1), format!("problem {n}"), "");
        }
        let report = problems.into_report();
        assert_eq!(report.problems().len(), MOST);
        assert!(report.to_string().ends_with("more than 100 problems; the others are not shown"));
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let source = "x = '\u{1b}[31m'\n";
        let mut problems = Problems::new(Path::new("/p/\u{1b}V"), source);
        problems.add(&(4..10), "bad \u{1b}]0;x\u{7}", "use \u{202e}");
        let text = problems.into_report().to_string();
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
    }

    #[test]
    fn a_very_long_line_is_pointed_at_only() {
        let source = format!("x = '{}'", "y".repeat(5000));
        let mut problems = Problems::new(Path::new("/p/V"), &source);
        problems.add(&(4..4000), "long", "");
        let text = problems.into_report().to_string();
        assert!(text.contains("/p/V:1:5") && text.len() < 200, "{text}");
    }
}
