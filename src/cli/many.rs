//! One command on several machines: in the order in which they need each other, as many at the same
//! time as suit the host, and a summary at the end.

use std::time::Duration;

use clap::Args;

use super::app::{App, env};
use super::error::{CliError, Kind};
use super::ssh_hosts;
use super::status::{duration, word};
use super::target::{self, Target};
use super::ui::table::table;
use super::{DONE, Outcome};
use crate::machine::Machines;
use crate::machine::schedule::{self, Behind, Ended, Ending};
use crate::model::{Code, Event, Reporter};

/// Fewest and most machines that are brought up at the same time without a word from the user: one
/// for each processor of the host, as each keeps about one busy.
const BOOTS: (usize, usize) = (2, 16);

/// Most machines that are stopped or removed at the same time: that costs the host little.
const STOPS: usize = 16;

/// Characters of a failure that the summary repeats.
const FAILURE: usize = 70;

/// `--parallel`, `--no-parallel`, `--lock-timeout`.
#[derive(Debug, Args)]
pub struct ManyFlags {
    /// Work on up to N machines at the same time; without this, on as many as suit this host
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "", conflicts_with = "no_parallel")]
    parallel: Option<String>,
    /// Work on one machine after the other
    #[arg(long)]
    no_parallel: bool,
    /// Wait no longer than this for another command that works on a machine
    #[arg(long, value_name = "SECONDS")]
    lock_timeout: Option<u64>,
}

impl ManyFlags {
    /// The names that were given. In `--parallel web` the word is one: Vagrant's flag takes no number.
    pub fn names(&self, names: &[String]) -> Vec<String> {
        let word = self.parallel.iter().filter(|word| !word.is_empty() && !is_number(word));
        word.chain(names).cloned().collect()
    }

    /// How many machines at the same time, where the user says it.
    fn width(&self) -> Result<Option<usize>, CliError> {
        match &self.parallel {
            Some(word) if is_number(word) => match word.parse() {
                Ok(number) if number > 0 => Ok(Some(number)),
                _ => Err(CliError::usage(format!("`--parallel {word}` is no number of machines"))
                    .hint("`--no-parallel` works on one after the other")),
            },
            Some(_) => Ok(None),
            None if self.no_parallel || env("RVM_NO_PARALLEL").is_some() => Ok(Some(1)),
            None => Ok(None),
        }
    }

    /// `machines` with the patience that the user has.
    pub fn patient<'a>(&self, machines: Machines<'a>) -> Machines<'a> {
        Machines { lock_timeout: self.lock_timeout.map(Duration::from_secs), ..machines }
    }
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

/// In which order machines are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// What others depend on comes first; without it they are not served.
    Up,
    /// What depends on others comes first, and does not stand in their way.
    Down,
}

/// A command on several machines.
pub struct Many<'a> {
    app: &'a App,
    machines: &'a Machines<'a>,
    targets: &'a [Target],
    verb: &'a str,
    order: Order,
    width: usize,
}

impl<'a> Many<'a> {
    /// `verb` is for messages.
    pub fn new(
        app: &'a App,
        machines: &'a Machines<'a>,
        targets: &'a [Target],
        verb: &'a str,
        order: Order,
        flags: &ManyFlags,
    ) -> Result<Self, CliError> {
        let width = flags.width()?.unwrap_or_else(|| default_width(targets, order));
        Ok(Many { app, machines, targets, verb, order, width })
    }

    /// Does `work` on each target; what it gives is said in the summary. A failure of one does not
    /// keep those from being served that do not depend on it: all failures are shown.
    pub fn each(&self, work: &(dyn Fn(&Target) -> Result<String, CliError> + Sync)) -> Outcome {
        if self.targets.is_empty() {
            return Ok(DONE);
        }
        let work = |target: &Target| self.marked(target, work);
        if let [only] = self.targets {
            return work(only).map(|_| DONE).map_err(|error| interrupted(error, self.verb, only));
        }
        let needs = target::dependencies(self.targets);
        let (after, behind) = match self.order {
            Order::Up => (needs, Behind::Skip),
            Order::Down => (reversed(&needs), Behind::Go),
        };
        let waits = |(target, after): (&Target, &Vec<usize>)| {
            let names: Vec<&str> = after.iter().map(|&other| self.name(other)).collect();
            let text =
                if names.is_empty() { "waits".into() } else { format!("waits for {}", names.join(", ")) };
            (target.name.clone(), text)
        };
        let screen = self.app.ui.crew(self.targets.iter().zip(&after).map(waits).collect());
        let ended = schedule::run(
            &after,
            self.width,
            behind,
            &self.app.cancel,
            &|job, because| {
                screen.ended(self.name(job), &format!("skipped: {} failed", self.name(because)));
                self.skipped(job, because);
            },
            &|job| {
                let target = self.target(job)?;
                screen.began(&target.name);
                let result = work(target);
                match &result {
                    Ok(text) => screen.ended(&target.name, text),
                    Err(error) if error.kind == Kind::Interrupted => {
                        screen.ended(&target.name, "interrupted")
                    }
                    Err(error) => {
                        screen.ended(&target.name, "failed");
                        self.app.ui.failure(&target.name, &of_machine(error, &target.name));
                    }
                }
                result
            },
        );
        drop(screen);
        self.conclude(&ended)
    }

    /// Does the work on a target, between two lines for scripts.
    fn marked(
        &self,
        target: &Target,
        work: &(dyn Fn(&Target) -> Result<String, CliError> + Sync),
    ) -> Result<String, CliError> {
        let say = |moment| self.app.ui.machine(&target.name, "action", &[self.verb, moment]);
        say("start");
        let done = work(target);
        // What runs now may be logged in to, also where its steps failed.
        if self.verb != "provision" {
            ssh_hosts::keep(self.app, self.machines);
        }
        say("end");
        done
    }

    fn target(&self, job: usize) -> Result<&Target, CliError> {
        // The schedule has a job for each target.
        self.targets.get(job).ok_or_else(|| CliError::failed(Code::UnknownMachine, "no such machine"))
    }

    fn name(&self, job: usize) -> &str {
        self.targets.get(job).map_or("", |target| target.name.as_str())
    }

    fn skipped(&self, job: usize, because: usize) {
        // Who is interrupted knows it.
        if !self.app.cancel.is_cancelled() {
            let (name, culprit) = (self.name(job), self.name(because));
            let text = format!("skipped: it depends on {culprit}, which failed");
            self.app.ui.event(Event::Warning { machine: Some(name.to_owned()), text });
        }
    }

    /// The summary and the exit code.
    fn conclude(&self, ended: &[Ended<String, CliError>]) -> Outcome {
        let stopped = ended.iter().any(|ended| is_interrupted(&ended.ending));
        let states = if stopped { self.states() } else { Vec::new() };
        let row = |(job, ended): (usize, &Ended<String, CliError>)| {
            let state = || states.get(job).map(|state| format!("; it is {state}")).unwrap_or_default();
            let outcome = match &ended.ending {
                Ending::Done(text) => text.clone(),
                Ending::Failed(error) if error.kind == Kind::Interrupted => format!("interrupted{}", state()),
                Ending::Failed(error) => format!("failed: {}", first_line(error)),
                Ending::Skipped(because) if !stopped => format!("skipped: {} failed", self.name(*because)),
                Ending::Skipped(_) | Ending::NotBegun => format!("not begun{}", state()),
            };
            let took = if ended.took.is_zero() { String::new() } else { time(ended.took) };
            vec![self.name(job).to_owned(), outcome, took]
        };
        let rows: Vec<Vec<String>> = ended.iter().enumerate().map(row).collect();
        let table = table(&["machine", &format!("rvm {}", self.verb), "time"], &rows);
        self.app.ui.note(&format!("\n{}", table.trim_end()));
        let verb = self.verb;
        let again = format!("`rvm {verb}` again goes on where they stopped");
        if stopped {
            let error = CliError::interrupted("interrupted");
            return Err(error.hint(format!("nothing is lost: {again}, `rvm status` shows how far it got")));
        }
        let count = |fits: &dyn Fn(&Ending<String, CliError>) -> bool| {
            ended.iter().filter(|ended| fits(&ended.ending)).count()
        };
        let failed = count(&|ending| matches!(ending, Ending::Failed(_)));
        let left_out = count(&|ending| matches!(ending, Ending::Skipped(_) | Ending::NotBegun));
        match (failed, left_out) {
            (0, 0) => Ok(DONE),
            (failed, left_out) => {
                let skipped = if left_out > 0 { format!(", {left_out} skipped") } else { String::new() };
                let all = ended.len();
                Err(CliError::failed(Code::SomeFailed, format!("{failed} of {all} machines failed{skipped}"))
                    .hint(again))
            }
        }
    }

    /// The state of each target now, in words.
    fn states(&self) -> Vec<&'static str> {
        schedule::at_once(self.targets, |target| match target.status(self.machines) {
            Ok(status) => word(status.state),
            // Its record is gone or unreadable.
            Err(_) => "not created",
        })
    }
}

fn is_interrupted(ending: &Ending<String, CliError>) -> bool {
    match ending {
        Ending::Failed(error) => error.kind == Kind::Interrupted,
        Ending::NotBegun => true,
        Ending::Done(_) | Ending::Skipped(_) => false,
    }
}

/// How many machines at the same time where nobody says it.
fn default_width(targets: &[Target], order: Order) -> usize {
    if order == Order::Down {
        return STOPS;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = targets.iter().filter_map(|target| Some(target.declaration().ok()?.1.memory)).max();
    boots(processors, memory.unwrap_or_default(), available_memory())
}

/// One boot a processor, and no more guests at once than there is memory for the largest of them.
fn boots(processors: usize, largest: u64, available: Option<u64>) -> usize {
    let by_memory = available.and_then(|available| available.checked_div(largest));
    let by_memory = by_memory.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    processors.clamp(BOOTS.0, BOOTS.1).min(by_memory).max(1)
}

/// Bytes that new programs of this host can have (proc_meminfo(5), `MemAvailable`).
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Who waits for whom, the other way round.
fn reversed(needs: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut waits: Vec<Vec<usize>> = needs.iter().map(|_| Vec::new()).collect();
    for (job, needed) in needs.iter().enumerate() {
        for &other in needed {
            if let Some(list) = waits.get_mut(other) {
                list.push(job);
            }
        }
    }
    waits
}

/// The failure with its machine, where it does not name it.
fn of_machine(error: &CliError, name: &str) -> CliError {
    let mut error = error.clone();
    if !error.message.contains(&format!("`{name}`")) {
        error.message = format!("{name}: {}", error.message);
    }
    error
}

/// The beginning of what was said when it happened.
fn first_line(error: &CliError) -> String {
    let line = error.one_line();
    let line = line.lines().next().unwrap_or_default();
    match line.char_indices().nth(FAILURE) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// A time as a person reads it: `0.4 s`, `2 min 5 s`.
fn time(took: Duration) -> String {
    if took.as_secs() < 60 { format!("{:.1} s", took.as_secs_f64()) } else { duration(took.as_secs()) }
}

/// Says in what state things are left.
fn interrupted(mut error: CliError, verb: &str, target: &Target) -> CliError {
    if error.kind == Kind::Interrupted && error.hint.is_none() {
        let name = &target.name;
        error.hint = Some(format!(
            "nothing is lost: `rvm {verb} {name}` goes on, `rvm status` shows how far it got, \
             `rvm destroy {name}` removes it"
        ));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_boots_as_processors_and_memory_allow() {
        let gib = 1 << 30;
        assert_eq!(boots(8, gib, Some(64 * gib)), 8);
        assert_eq!(boots(1, gib, Some(64 * gib)), 2);
        assert_eq!(boots(128, gib, None), 16);
        assert_eq!(boots(8, 2 * gib, Some(5 * gib)), 2);
        assert_eq!(boots(8, 8 * gib, Some(gib)), 1, "one at a time is always tried");
        assert_eq!(boots(8, 0, Some(gib)), 8);
    }

    #[test]
    fn the_other_way_round() {
        assert_eq!(reversed(&[vec![], vec![0], vec![0, 1]]), [vec![1, 2], vec![2], vec![]]);
    }

    #[test]
    fn a_word_behind_parallel_may_be_a_name() {
        let flags =
            |word: &str| ManyFlags { parallel: Some(word.into()), no_parallel: false, lock_timeout: None };
        let names = ["db".to_owned()];
        assert_eq!(flags("web").names(&names), ["web", "db"]);
        assert_eq!((flags("web").width().unwrap(), flags("").width().unwrap()), (None, None));
        assert_eq!(flags("3").names(&names), ["db"]);
        assert_eq!(flags("3").width().unwrap(), Some(3));
        for wrong in ["0", "99999999999999999999999"] {
            assert_eq!(flags(wrong).width().unwrap_err().kind, Kind::Usage);
        }
    }

    #[test]
    fn a_failure_names_its_machine_once() {
        let named = |text: &str| of_machine(&CliError::failed(Code::StepFailed, text), "web").message;
        assert_eq!(named("machine `web` is not running"), "machine `web` is not running");
        assert_eq!(named("no space left"), "web: no space left");
    }

    #[test]
    fn the_memory_of_this_host() {
        assert!(available_memory().unwrap() > 1 << 20);
    }

    #[test]
    fn times() {
        assert_eq!([400, 61_000].map(|ms| time(Duration::from_millis(ms))), ["0.4 s", "1 min 1 s"]);
    }
}
