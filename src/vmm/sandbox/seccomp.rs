//! Filters of system calls, made from the [tables](super::tables) and put on threads.
//!
//! The whole process gets one that lets through what any kind of thread needs; each thread puts the
//! one of its kind on top. The kernel takes the stricter answer, and neither can be taken off.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Role;
use super::tables::{self, Arg, Rule, START, Table};

/// A filter, compiled.
#[derive(Debug, Clone)]
pub(super) struct Filter(Arc<BpfProgram>);

impl Filter {
    /// For one kind of thread.
    pub(super) fn of(table: &Table) -> Result<Self, BackendError> {
        allow(table.parts.iter().copied().flatten())
    }

    /// For a whole process: what any kind of its threads may do, and starting them.
    pub(super) fn of_process(role: Role) -> Result<Self, BackendError> {
        allow(tables::of(role).iter().flat_map(|table| table.parts).copied().flatten().chain(START))
    }

    /// Says that there is no `clone3`.
    pub(super) fn no_clone3() -> Result<Self, BackendError> {
        let calls = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        compile(calls, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
    }

    /// Puts it on all threads that there are.
    pub(super) fn enter_process(&self) -> io::Result<()> {
        seccompiler::apply_filter_all_threads(&self.0).map_err(cause)
    }

    /// Puts it on the calling thread.
    pub(super) fn enter_thread(&self) -> io::Result<()> {
        seccompiler::apply_filter(&self.0).map_err(cause)
    }
}

/// The error of the system, which is what tells a kernel without filters from others.
fn cause(error: seccompiler::Error) -> io::Error {
    match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
        other => io::Error::other(other),
    }
}

fn allow<'r>(rules: impl Iterator<Item = &'r Rule>) -> Result<Filter, BackendError> {
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
    compile(calls, SeccompAction::Trap, SeccompAction::Allow)
}

fn compile(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<Filter, BackendError> {
    let program = SeccompFilter::new(calls, others, these, TargetArch::x86_64)?.try_into()?;
    Ok(Filter(Arc::new(program)))
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
        Filter::no_clone3().unwrap();
        for role in Role::ALL {
            let process = Filter::of_process(role).unwrap();
            for table in tables::of(role) {
                assert!(process.0.len() >= Filter::of(table).unwrap().0.len(), "{table:?}");
            }
        }
    }
}
