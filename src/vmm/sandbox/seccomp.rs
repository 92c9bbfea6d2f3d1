//! Filters of system calls, made from the [tables](super::tables) and put on threads.
//!
//! The whole process gets one that lets through what any kind of thread needs; each thread puts the
//! one of its kind on top. The kernel takes the stricter answer, and neither can be taken off.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::tables::{Arg, Rule, START, TABLES};

/// The filters of a process.
#[derive(Debug)]
pub(super) struct Filters {
    /// Says that there is no `clone3`.
    no_clone3: BpfProgram,
    /// What all kinds of threads may do, and starting them.
    process: BpfProgram,
    /// By kind.
    threads: BTreeMap<&'static str, BpfProgram>,
}

impl Filters {
    /// Compiles them.
    pub(super) fn compile() -> Result<Self, BackendError> {
        let all = TABLES.iter().flat_map(|table| table.parts).copied().flatten().chain(START);
        let threads = TABLES.iter().map(|table| {
            let rules = table.parts.iter().copied().flatten();
            allow(rules).map(|program| (table.thread, program))
        });
        Ok(Self {
            no_clone3: deny_clone3()?,
            process: allow(all)?,
            threads: threads.collect::<Result<_, _>>()?,
        })
    }

    /// Puts the common filter on all threads that there are.
    pub(super) fn enter_process(&self) -> io::Result<()> {
        for program in [&self.no_clone3, &self.process] {
            seccompiler::apply_filter_all_threads(program).map_err(cause)?;
        }
        Ok(())
    }

    /// Puts the filter of `kind` on the calling thread.
    pub(super) fn enter_thread(&self, kind: &str) -> io::Result<()> {
        let program = self.threads.get(kind).ok_or(io::ErrorKind::NotFound)?;
        seccompiler::apply_filter(program).map_err(cause)
    }
}

/// The error of the system, which is what tells a kernel without filters from others.
fn cause(error: seccompiler::Error) -> io::Error {
    match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
        other => io::Error::other(other),
    }
}

fn allow<'r>(rules: impl Iterator<Item = &'r Rule>) -> Result<BpfProgram, BackendError> {
    // `None`: whatever the arguments are.
    let mut calls: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for rule in rules {
        let cases = calls.entry(rule.call).or_insert_with(|| Some(Vec::new()));
        if rule.cases.is_empty() {
            *cases = None;
        }
        if let Some(cases) = cases {
            for case in rule.cases {
                let conditions = case.iter().copied().map(condition).collect::<Result<_, _>>()?;
                let case = SeccompRule::new(conditions)?;
                if !cases.contains(&case) {
                    cases.push(case);
                }
            }
        }
    }
    let calls = calls.into_iter().map(|(call, cases)| (call, cases.unwrap_or_default())).collect();
    SeccompFilter::new(calls, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

fn deny_clone3() -> Result<BpfProgram, BackendError> {
    let calls = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(calls, SeccompAction::Allow, absent, TargetArch::x86_64)?.try_into()
}

fn condition(arg: Arg) -> Result<SeccompCondition, BackendError> {
    let (index, operator, value) = match arg {
        Arg::Is(index, value) => (index, SeccompCmpOp::Eq, value),
        Arg::Has(index, bits) => (index, SeccompCmpOp::MaskedEq(bits.into()), bits),
        Arg::Lacks(index, bits) => (index, SeccompCmpOp::MaskedEq(bits.into()), 0),
        Arg::Own(index) => (index, SeccompCmpOp::Eq, std::process::id()),
    };
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_fits_a_filter() {
        let filters = Filters::compile().unwrap();
        assert_eq!(filters.threads.len(), TABLES.len());
        assert!(filters.process.len() > filters.threads["vcpu"].len());
    }
}
