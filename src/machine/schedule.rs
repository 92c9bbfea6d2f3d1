//! Several jobs at once, each behind those that it waits for. Knows nothing of machines.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::model::Cancel;

/// Most questions that [`at_once`] asks at the same time.
const QUESTIONS: usize = 64;

/// How long one thread asks alone: twenty machines that are switched off answer in a few milliseconds.
const SOON: Duration = Duration::from_millis(20);

/// What becomes of the jobs behind one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// They are not begun: they need it.
    Skip,
    /// They are done all the same: the order is a courtesy.
    Go,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending<T, E> {
    /// Well.
    Done(T),
    /// Not.
    Failed(E),
    /// It was not begun, because this job, which it waits for, failed.
    Skipped(usize),
    /// It was not begun, because the user asked to stop.
    NotBegun,
}

/// What became of one job.
#[derive(Debug, Clone)]
pub struct Ended<T, E> {
    /// How it ended.
    pub ending: Ending<T, E>,
    /// How long it took; nothing for one that was not begun.
    pub took: Duration,
}

/// Where one job is.
enum Place<T, E> {
    Waiting,
    Running,
    Ended(Ended<T, E>),
}

/// All that the workers share.
struct Board<'a, T, E> {
    /// For each job those that it waits for.
    after: &'a [Vec<usize>],
    behind: Behind,
    places: Mutex<Vec<Place<T, E>>>,
    moved: Condvar,
}

/// Does `after.len()` jobs with at most `parallel` of them (at least one) at the same time; job `i`
/// begins when all jobs of `after[i]` have ended, in the order of their numbers where several may.
///
/// A failure ends nothing but, with [`Behind::Skip`], what waits for it: `skipped` hears of each such
/// job and of the one that failed. After `cancel` no job begins any more; those that run see it
/// themselves. Jobs that wait for each other in a circle never begin.
pub fn run<T: Send, E: Send>(
    after: &[Vec<usize>],
    parallel: usize,
    behind: Behind,
    cancel: &Cancel,
    skipped: &(dyn Fn(usize, usize) + Sync),
    work: &(dyn Fn(usize) -> Result<T, E> + Sync),
) -> Vec<Ended<T, E>> {
    let places = Mutex::new(after.iter().map(|_| Place::Waiting).collect());
    let board = Board { after, behind, places, moved: Condvar::new() };
    crew(parallel.min(after.len()), &|| board.serve(cancel, skipped, work));
    let places = board.places.into_inner().unwrap_or_else(|e| e.into_inner());
    let ended = |place| match place {
        Place::Ended(ended) => ended,
        Place::Waiting | Place::Running => Ended { ending: Ending::NotBegun, took: Duration::ZERO },
    };
    places.into_iter().map(ended).collect()
}

/// The answers to one question about each of `items`, in their order, asked of many at the same time:
/// the slowest decides how long it takes, not their number.
pub fn at_once<I: Sync, T: Send>(items: &[I], ask: impl Fn(&I) -> T + Sync) -> Vec<T> {
    if let [only] = items {
        return vec![ask(only)];
    }
    let answers: Vec<Mutex<Option<T>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let serve = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(item), Some(answer)) = (items.get(at), answers.get(at)) else { return };
            *answer.lock().unwrap_or_else(|e| e.into_inner()) = Some(ask(item));
        }
    };
    with_help(items.len().min(QUESTIONS), &serve);
    let answer = |answer: Mutex<Option<T>>| answer.into_inner().unwrap_or_else(|e| e.into_inner());
    answers.into_iter().filter_map(answer).collect()
}

/// Runs `serve` on this thread, and on so many in all once it takes longer than [`SOON`]: most machines answer
/// in less time than a thread takes to start.
fn with_help(size: usize, serve: &(dyn Fn() + Sync)) {
    if size < 2 {
        return serve();
    }
    let (done, changed) = (Mutex::new(false), Condvar::new());
    let help = || {
        let done = done.lock().unwrap_or_else(|e| e.into_inner());
        let waited = changed.wait_timeout_while(done, SOON, |done| !*done);
        let is_done = waited.map_or_else(|poisoned| *poisoned.into_inner().0, |(done, _)| *done);
        if !is_done {
            crew(size.saturating_sub(1), serve);
        }
    };
    thread::scope(|scope| {
        // Without a helper this one does it all, if it takes long.
        let helper = thread::Builder::new().spawn_scoped(scope, help);
        tracing::trace!(helped = helper.is_ok(), size, "asks");
        serve();
        *done.lock().unwrap_or_else(|e| e.into_inner()) = true;
        changed.notify_all();
    });
}

/// Runs `serve` on so many threads, this one among them. Where the host gives fewer, fewer do the work.
fn crew(size: usize, serve: &(dyn Fn() + Sync)) {
    thread::scope(|scope| {
        for _ in 1..size {
            if thread::Builder::new().spawn_scoped(scope, serve).is_err() {
                break;
            }
        }
        serve();
    });
}

impl<T, E> Board<'_, T, E> {
    /// What each worker does: job after job, until none is left that could begin.
    fn serve(&self, cancel: &Cancel, skipped: &dyn Fn(usize, usize), work: &dyn Fn(usize) -> Result<T, E>) {
        while let Some(job) = self.next(cancel) {
            let began = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| work(job)));
            let took = began.elapsed();
            let (ending, panic) = match result {
                Ok(Ok(done)) => (Ending::Done(done), None),
                Ok(Err(error)) => (Ending::Failed(error), None),
                // The others must not wait for ever for a job that nobody ends.
                Err(panic) => (Ending::NotBegun, Some(panic)),
            };
            for behind in self.settle(job, Ended { ending, took }) {
                skipped(behind, job);
            }
            if let Some(panic) = panic {
                resume_unwind(panic);
            }
        }
    }

    /// The next job to begin; waits where one may become ready. `None`: there is nothing more to do.
    fn next(&self, cancel: &Cancel) -> Option<usize> {
        let mut places = self.places();
        loop {
            if cancel.is_cancelled() {
                return None;
            }
            if let Some(job) = (0..places.len()).find(|&job| self.is_ready(&places, job)) {
                places[job] = Place::Running;
                return Some(job);
            }
            if !places.iter().any(|place| matches!(place, Place::Running)) {
                return None;
            }
            places = self.moved.wait(places).unwrap_or_else(|e| e.into_inner());
        }
    }

    fn is_ready(&self, places: &[Place<T, E>], job: usize) -> bool {
        let ended = |other: &usize| match (self.behind, places.get(*other)) {
            (_, None) => true,
            (Behind::Go, Some(place)) => matches!(place, Place::Ended(_)),
            (Behind::Skip, Some(place)) => {
                matches!(place, Place::Ended(Ended { ending: Ending::Done(_), .. }))
            }
        };
        matches!(places.get(job), Some(Place::Waiting))
            && self.after.get(job).is_some_and(|list| list.iter().all(ended))
    }

    /// Writes down how a job ended; gives those that are not to begin because of it.
    fn settle(&self, job: usize, ended: Ended<T, E>) -> Vec<usize> {
        let mut places = self.places();
        let failed = !matches!(ended.ending, Ending::Done(_));
        places[job] = Place::Ended(ended);
        let mut lost = Vec::new();
        if failed && self.behind == Behind::Skip {
            let mut gone = vec![job];
            while let Some(gone_one) = gone.pop() {
                for (other, after) in self.after.iter().enumerate() {
                    if after.contains(&gone_one) && matches!(places[other], Place::Waiting) {
                        let ending = Ending::Skipped(job);
                        places[other] = Place::Ended(Ended { ending, took: Duration::ZERO });
                        gone.push(other);
                        lost.push(other);
                    }
                }
            }
        }
        lost.sort_unstable();
        self.moved.notify_all();
        lost
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place<T, E>>> {
        self.places.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any sound run takes: only a test that would hang ends by it.
    const FOREVER: Duration = Duration::from_secs(60);

    /// A place where so many have to meet before any goes on.
    struct Meeting {
        size: usize,
        here: Mutex<usize>,
        moved: Condvar,
    }

    impl Meeting {
        fn of(size: usize) -> Meeting {
            Meeting { size, here: Mutex::new(0), moved: Condvar::new() }
        }

        fn wait(&self) {
            let mut here = self.here.lock().unwrap();
            *here += 1;
            self.moved.notify_all();
            let (_here, time) =
                self.moved.wait_timeout_while(here, FOREVER, |here| *here < self.size).unwrap();
            assert!(!time.timed_out(), "the others do not come");
        }
    }

    #[derive(Default)]
    struct Seen(Mutex<Vec<usize>>);

    impl Seen {
        fn saw(&self, job: usize) {
            self.0.lock().unwrap().push(job);
        }

        fn list(&self) -> Vec<usize> {
            self.0.lock().unwrap().clone()
        }
    }

    fn endings<T: Clone, E: Clone>(list: &[Ended<T, E>]) -> Vec<Ending<T, E>> {
        list.iter().map(|ended| ended.ending.clone()).collect()
    }

    fn nothing(_: usize, _: usize) {}

    #[test]
    fn one_after_the_other_in_the_order_of_their_needs() {
        let seen = Seen::default();
        // 0 waits for 2, 2 for 1; 3 is free.
        let after = [vec![2], vec![], vec![1], vec![]];
        let ended = run(&after, 1, Behind::Skip, &Cancel::new(), &nothing, &|job| {
            seen.saw(job);
            Ok::<_, ()>(job)
        });
        assert_eq!(seen.list(), [1, 2, 0, 3]);
        assert_eq!(endings(&ended), [0, 1, 2, 3].map(Ending::Done));
    }

    #[test]
    fn what_is_independent_runs_at_the_same_time_and_no_more_than_is_allowed() {
        let meeting = Meeting::of(3);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let after = vec![Vec::new(); 9];
        let ended = run(&after, 3, Behind::Skip, &Cancel::new(), &nothing, &|job| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // The first three can only go on together.
            if job < 3 {
                meeting.wait();
            }
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, ()>(())
        });
        assert_eq!(ended.len(), 9);
        assert!(ended.iter().all(|ended| ended.ending == Ending::Done(())));
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_job_begins_when_all_it_waits_for_are_done_and_not_before() {
        let seen = Seen::default();
        // A diamond: 3 waits for 1 and 2, both wait for 0.
        let after = [vec![], vec![0], vec![0], vec![1, 2]];
        let meeting = Meeting::of(2);
        run(&after, 4, Behind::Skip, &Cancel::new(), &nothing, &|job| {
            if job == 1 || job == 2 {
                meeting.wait();
            }
            seen.saw(job);
            Ok::<_, ()>(())
        });
        let list = seen.list();
        assert_eq!((list[0], list[3]), (0, 3));
    }

    #[test]
    fn a_failure_skips_what_needs_it_and_nothing_else() {
        let told = Mutex::new(Vec::new());
        // 1 and, through it, 2 need 0, which fails; 3 and 4 do not.
        let after = [vec![], vec![0], vec![1], vec![], vec![3]];
        let skipped = |job, because| told.lock().unwrap().push((job, because));
        let work = |job| if job == 0 { Err("broken") } else { Ok(job) };
        for parallel in [1, 4] {
            told.lock().unwrap().clear();
            let ended = run(&after, parallel, Behind::Skip, &Cancel::new(), &skipped, &work);
            assert_eq!(
                endings(&ended),
                [
                    Ending::Failed("broken"),
                    Ending::Skipped(0),
                    Ending::Skipped(0),
                    Ending::Done(3),
                    Ending::Done(4)
                ]
            );
            assert_eq!(*told.lock().unwrap(), [(1, 0), (2, 0)]);
        }
    }

    #[test]
    fn where_the_order_is_a_courtesy_a_failure_skips_nothing() {
        let after = [vec![], vec![0]];
        let work = |job| if job == 0 { Err(()) } else { Ok(job) };
        let ended = run(&after, 2, Behind::Go, &Cancel::new(), &nothing, &work);
        assert_eq!(endings(&ended), [Ending::Failed(()), Ending::Done(1)]);
    }

    #[test]
    fn nothing_begins_after_a_wish_to_stop() {
        let cancel = Cancel::new();
        let after = [vec![], vec![0], vec![]];
        let ended = run(&after, 1, Behind::Skip, &cancel, &nothing, &|job| {
            cancel.cancel();
            if job == 0 { Err("interrupted") } else { Ok(()) }
        });
        assert_eq!(endings(&ended), [Ending::Failed("interrupted"), Ending::Skipped(0), Ending::NotBegun]);
    }

    #[test]
    fn those_that_run_see_the_wish_to_stop_together() {
        let (cancel, meeting) = (Cancel::new(), Meeting::of(2));
        let after = vec![Vec::new(); 3];
        let ended = run(&after, 2, Behind::Skip, &cancel, &nothing, &|job| {
            meeting.wait();
            if job == 0 {
                cancel.cancel();
            }
            assert!(cancel.wait(FOREVER));
            Err::<(), _>(job)
        });
        assert_eq!(endings(&ended), [Ending::Failed(0), Ending::Failed(1), Ending::NotBegun]);
    }

    #[test]
    fn a_circle_never_begins_and_does_not_hang() {
        let after = [vec![1], vec![0], vec![]];
        let ended = run(&after, 2, Behind::Skip, &Cancel::new(), &nothing, &|job| Ok::<_, ()>(job));
        assert_eq!(endings(&ended), [Ending::NotBegun, Ending::NotBegun, Ending::Done(2)]);
    }

    #[test]
    fn a_panic_is_passed_on_and_nobody_waits_for_ever() {
        let after = [vec![], vec![0], vec![]];
        let result = catch_unwind(|| {
            run(&after, 2, Behind::Skip, &Cancel::new(), &nothing, &|job| {
                assert_ne!(job, 0, "on purpose");
                Ok::<_, ()>(())
            })
        });
        assert!(result.is_err());
    }

    #[test]
    fn questions_are_asked_at_the_same_time_and_answered_in_order() {
        let meeting = Meeting::of(20);
        let items: Vec<usize> = (0..20).collect();
        let answers = at_once(&items, |item| {
            meeting.wait();
            item * 2
        });
        assert_eq!(answers, (0..20).map(|item| item * 2).collect::<Vec<_>>());
        assert_eq!(at_once(&[7], |item| item + 1), [8]);
        assert_eq!(at_once(&Vec::<u8>::new(), |item| *item), Vec::<u8>::new());
        assert_eq!(at_once(&(0..200).collect::<Vec<_>>(), |item| *item).len(), 200);
    }
}
