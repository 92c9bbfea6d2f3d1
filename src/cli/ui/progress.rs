//! How long jobs are shown: bars on a terminal, a few plain lines elsewhere.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the lines of machines move: there may be many.
const CREW_TICK: Duration = Duration::from_millis(250);

/// Plain lines about one job are at least this far apart.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Lines at the bottom of the terminal: one for each machine of a crew, then one for each long job.
pub struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
    crew: Vec<ProgressBar>,
}

impl Default for Bars {
    fn default() -> Self {
        Bars::on(ProgressDrawTarget::stderr())
    }
}

impl Bars {
    /// Bars that indicatif draws there.
    pub fn on(target: ProgressDrawTarget) -> Self {
        Bars { all: MultiProgress::with_draw_target(target), bars: HashMap::new(), crew: Vec::new() }
    }

    /// A line for each machine, with its label and what it waits for.
    pub fn crew(&mut self, lines: &[(String, String)]) {
        for (label, waits) in lines {
            let line = self.all.insert(self.crew.len(), ProgressBar::new_spinner());
            line.set_style(template("    {prefix} {wide_msg}"));
            line.set_prefix(label.clone());
            line.set_message(waits.clone());
            self.crew.push(line);
        }
    }

    /// The work on that machine begins now.
    pub fn began(&self, machine: usize) {
        if let Some(line) = self.crew.get(machine) {
            line.set_style(template("    {prefix} {spinner} {elapsed:>4} {wide_msg}"));
            line.set_message("");
            line.reset_elapsed();
            line.enable_steady_tick(CREW_TICK);
        }
    }

    /// What it is at.
    pub fn stage(&self, machine: usize, text: &str) {
        if let Some(line) = self.crew.get(machine) {
            line.set_message(text.replace('\n', " "));
        }
    }

    /// What became of it; the line stays until all are done.
    pub fn ended(&self, machine: usize, text: &str) {
        if let Some(line) = self.crew.get(machine) {
            line.disable_steady_tick();
            line.set_style(template("    {prefix} {wide_msg}"));
            line.abandon_with_message(text.replace('\n', " "));
        }
    }

    /// Runs `print` while no bar is on the screen.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.all.suspend(print);
    }

    /// Moves the bar of `task`. `done == total` removes it.
    pub fn update(&mut self, task: &str, detail: &str, done: u64, total: u64) {
        if total > 0 && done >= total {
            if let Some(bar) = self.bars.remove(task) {
                bar.finish_and_clear();
            }
            return;
        }
        let all = &self.all;
        let bar = self.bars.entry(task.to_owned()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(total));
            bar.set_style(style(total));
            bar.set_prefix(task.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.length() != Some(total) {
            bar.set_style(style(total));
            bar.set_length(total);
        }
        bar.set_position(done);
        bar.set_message(detail.to_owned());
    }

    /// Removes all bars.
    pub fn clear(&mut self) {
        for (_, bar) in self.bars.drain() {
            bar.finish_and_clear();
        }
        for line in self.crew.drain(..) {
            line.finish_and_clear();
        }
    }
}

fn style(total: u64) -> ProgressStyle {
    let template = if total > 0 {
        "    {prefix} [{bar:24}] {percent:>3}% {elapsed} {wide_msg}"
    } else {
        "    {prefix} {spinner} {elapsed} {wide_msg}"
    };
    self::template(template).progress_chars("=> ")
}

/// The templates are constants; a mistake in them would show the default bar.
fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Decides which progress events become a line in a pipe or a log.
#[derive(Default)]
pub struct Lines {
    jobs: HashMap<String, Job>,
}

struct Job {
    began: Instant,
    last_line: Instant,
    last_percent: u64,
}

impl Lines {
    /// The line to print now, if any: at the beginning, at times in between, at the end.
    pub fn update(
        &mut self,
        task: &str,
        detail: &str,
        done: u64,
        total: u64,
        now: Instant,
    ) -> Option<String> {
        let percent = percent(done, total);
        let Some(job) = self.jobs.get_mut(task) else {
            if total > 0 && done >= total {
                return None;
            }
            self.jobs.insert(task.to_owned(), Job { began: now, last_line: now, last_percent: percent });
            return Some(format!("{task} ..."));
        };
        if total > 0 && done >= total {
            let seconds = now.saturating_duration_since(job.began).as_secs_f64();
            self.jobs.remove(task);
            return Some(format!("{task}: done in {seconds:.1} s"));
        }
        if now.saturating_duration_since(job.last_line) < LINE_INTERVAL
            || (total > 0 && percent == job.last_percent)
        {
            return None;
        }
        job.last_line = now;
        job.last_percent = percent;
        let amount = if total > 0 { format!("{percent} %") } else { String::new() };
        let words: Vec<&str> = [amount.as_str(), detail].into_iter().filter(|w| !w.is_empty()).collect();
        Some(format!("{task}: {}", if words.is_empty() { "at work".to_owned() } else { words.join(" ") }))
    }
}

fn percent(done: u64, total: u64) -> u64 {
    let ratio = u128::from(done) * 100 / u128::from(total.max(1));
    u64::try_from(ratio.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few() {
        let mut lines = Lines::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lines.update("box", "", 0, 100, at(0)).as_deref(), Some("box ..."));
        assert_eq!(lines.update("box", "", 10, 100, at(3)), None);
        assert_eq!(lines.update("box", "systemd", 20, 100, at(12)).as_deref(), Some("box: 20 % systemd"));
        assert_eq!(lines.update("box", "", 20, 100, at(30)), None, "nothing moved");
        assert_eq!(lines.update("box", "", 100, 100, at(31)).as_deref(), Some("box: done in 31.0 s"));
        assert_eq!(lines.update("box", "", 100, 100, at(31)), None, "the end is said once");
    }

    #[test]
    fn a_job_of_unknown_length_has_no_percent() {
        let mut lines = Lines::default();
        let start = Instant::now();
        lines.update("wait", "", 0, 0, start);
        let later = start + Duration::from_secs(11);
        assert_eq!(lines.update("wait", "kernel", 5, 0, later).as_deref(), Some("wait: kernel"));
    }

    #[test]
    fn percent_of_huge_numbers() {
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
        assert_eq!(percent(u64::MAX / 2, u64::MAX), 49);
        assert_eq!(percent(7, 0), 100);
    }
}
