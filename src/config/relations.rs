//! How the machines of a project belong together: groups, the primary one, and who waits
//! for whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use super::machines::is_label;
use super::report::brief;
use super::suggest::nearest;
use super::vars::Text;
use super::walk::{Reader, Sp, Table};

/// Groups of one machine.
const MOST_GROUPS: usize = 64;
/// Names that a help lists.
const MOST_LISTED: usize = 12;

/// What one machine says of its place among the others.
pub(super) struct Member {
    /// Its name.
    pub name: Text,
    /// Its groups; names may repeat.
    pub groups: Vec<Sp<Text>>,
    /// The name that it shares with the other copies of its `[[machine]]`: a group as well.
    pub family: Option<Sp<Text>>,
    /// The entries of its `depends_on`.
    pub waits: Vec<Sp<Text>>,
    /// Where it says that it is the primary one.
    pub primary: Option<Range<usize>>,
}

/// Names that `depends_on` can use, and the machines (by position) behind each.
type Names<'m> = HashMap<&'m str, Vec<usize>>;
/// Machines by position, each with the place that names it.
type Targets = BTreeMap<usize, Range<usize>>;

impl Reader<'_> {
    /// The groups that a table names.
    pub fn groups(&mut self, table: &Table<'_>) -> Vec<Sp<Text>> {
        let mut groups: Vec<Sp<Text>> = Vec::new();
        for group in self.texts(table, "groups", "[\"web\"]").unwrap_or_default() {
            if !is_label(&group.value.value) {
                let message = format!("a group cannot be called {:?}", brief(&group.value.shown));
                let help =
                    "use a to z, 0 to 9 and `-`, beginning and ending with a letter or digit, at most 63";
                self.wrong(&group.span, message, help);
            } else if groups.len() == MOST_GROUPS {
                self.wrong(
                    &group.span,
                    format!("a machine is in at most {MOST_GROUPS} groups"),
                    "name fewer",
                );
                break;
            } else {
                groups.push(group);
            }
        }
        groups
    }

    /// Checks what the machines say of each other. For each, in the same order, the names of
    /// those that it waits for. `empty`: groups without a machine. `complete`: no machine is
    /// missing because of another problem.
    pub fn relate(
        &mut self,
        members: &[Member],
        empty: &BTreeSet<String>,
        complete: bool,
    ) -> Vec<Vec<String>> {
        self.check_primary(members);
        let machines: HashMap<&str, usize> =
            members.iter().enumerate().map(|(at, member)| (member.name.value.as_str(), at)).collect();
        let mut names: Names<'_> = machines.iter().map(|(name, at)| (*name, vec![*at])).collect();
        let mut clashes = BTreeSet::new();
        for (at, member) in members.iter().enumerate() {
            for group in member.groups.iter().chain(&member.family) {
                let name = group.value.value.as_str();
                if !machines.contains_key(name) {
                    let list = names.entry(name).or_default();
                    if list.last() != Some(&at) {
                        list.push(at);
                    }
                } else if clashes.insert(name) {
                    let shown = brief(&group.value.shown);
                    let is_family = member.family.as_ref().is_some_and(|family| family.span == group.span);
                    let message = match is_family {
                        true => format!(
                            "another machine has the name {shown:?}, which all copies of this one share"
                        ),
                        false => format!("{shown:?} is the name of a machine, so it cannot be a group"),
                    };
                    self.wrong(&group.span, message, "commands take both: give one of them another name");
                }
            }
        }
        for name in empty {
            names.entry(name).or_default();
        }
        // What a variable stands for is not shown.
        let all = members.iter().flat_map(|member| {
            let groups = member.groups.iter().chain(&member.family);
            std::iter::once(&member.name).chain(groups.map(|group| &group.value))
        });
        let known = all.filter(|name| !name.is_filled()).map(|name| name.value.as_str()).collect();
        let mut edges = Vec::new();
        let mut told = BTreeSet::new();
        for (at, member) in members.iter().enumerate() {
            edges.push(self.targets(at, member, &names, complete.then_some(&known), &mut told));
        }
        self.check_circles(members, &edges);
        let named = |targets: &Targets| {
            targets.keys().filter_map(|at| members.get(*at)).map(|member| member.name.value.clone()).collect()
        };
        edges.iter().map(named).collect()
    }

    fn check_primary(&mut self, members: &[Member]) {
        let mut first: Option<&Member> = None;
        for member in members {
            let (Some(span), Some(earlier)) = (&member.primary, first) else {
                first = first.or(member.primary.as_ref().map(|_| member));
                continue;
            };
            let message =
                format!("the machines `{}` and `{}` are both primary", earlier.name.shown, member.name.shown);
            self.wrong(
                span,
                message,
                "only one can be meant where a command names none: remove one of the two",
            );
        }
    }

    /// The machines that one waits for, each with the entry that says so. `known`: the names
    /// that a help may show; `None` where some are missing, so that an unknown one is no news.
    fn targets(
        &mut self,
        own: usize,
        member: &Member,
        names: &Names<'_>,
        known: Option<&BTreeSet<&str>>,
        told: &mut BTreeSet<usize>,
    ) -> Targets {
        let mut targets = Targets::new();
        let mut seen = BTreeSet::new();
        for entry in &member.waits {
            let name = entry.value.value.as_str();
            if !seen.insert(name) {
                continue;
            }
            match names.get(name) {
                Some(list) if *list == [own] => {
                    self.wrong(
                        &entry.span,
                        "this machine waits for itself",
                        "name the machines that must be ready before this one",
                    );
                }
                // A group stands for its other machines.
                Some(list) => {
                    for at in list.iter().filter(|at| **at != own) {
                        targets.entry(*at).or_insert_with(|| entry.span.clone());
                    }
                }
                None => {
                    // What is wrong in one copy is wrong in the others.
                    let Some(known) = known.filter(|_| told.insert(entry.span.start)) else { continue };
                    let shown = brief(&entry.value.shown);
                    let message = format!("no machine and no group of this file is called {shown:?}");
                    let known = known.iter().copied().filter(|name| *name != member.name.value);
                    let help = match nearest(name, known.clone()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => listed(known),
                    };
                    self.wrong(&entry.span, message, help);
                }
            }
        }
        targets
    }

    /// Tells each circle of machines that wait for each other, once.
    fn check_circles(&mut self, members: &[Member], edges: &[Targets]) {
        let mut told = BTreeSet::new();
        let mut done = vec![false; members.len()];
        for start in 0..members.len() {
            let mut path: Vec<usize> = Vec::new();
            let mut open: Vec<Vec<usize>> = vec![vec![start]];
            while let Some(next) = open.last_mut() {
                let Some(at) = next.pop() else {
                    open.pop();
                    if let Some(left) = path.pop() {
                        mark(&mut done, left);
                    }
                    continue;
                };
                if done.get(at).copied().unwrap_or(true) {
                    continue;
                }
                if let Some(from) = path.iter().position(|other| *other == at) {
                    self.tell_circle(members, edges, path.get(from..).unwrap_or_default(), &mut told);
                    // One of its machines is enough to end the search in this circle.
                    mark(&mut done, at);
                    continue;
                }
                path.push(at);
                open.push(
                    edges.get(at).map(|edges| edges.keys().rev().copied().collect()).unwrap_or_default(),
                );
            }
        }
    }

    /// `told`: places (bytes) of which a circle has been told; copies have theirs in common.
    fn tell_circle(
        &mut self,
        members: &[Member],
        edges: &[Targets],
        circle: &[usize],
        told: &mut BTreeSet<usize>,
    ) {
        let (Some(first), Some(last)) = (circle.first(), circle.last()) else { return };
        let Some(span) = edges.get(*last).and_then(|edges| edges.get(first)) else { return };
        if !told.insert(span.start) {
            return;
        }
        let name = |at: &usize| members.get(*at).map_or("", |member| member.name.shown.as_str());
        let mut chain: Vec<String> =
            circle.iter().take(MOST_LISTED).map(|at| format!("`{}`", name(at))).collect();
        if circle.len() > MOST_LISTED {
            chain.push("…".into());
        }
        chain.push(format!("`{}`", name(first)));
        let message = format!("machines wait for each other in a circle: {}", chain.join(" → "));
        self.wrong(
            span,
            message,
            "a machine starts after those it depends on: remove one of these `depends_on`",
        );
    }
}

fn mark(done: &mut [bool], at: usize) {
    if let Some(slot) = done.get_mut(at) {
        *slot = true;
    }
}

/// A few of the names there are.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: BTreeSet<&str> = names.collect();
    if names.is_empty() {
        return "there is no other machine: remove it".into();
    }
    let more = if names.len() > MOST_LISTED { ", …" } else { "" };
    let few: Vec<String> = names.into_iter().take(MOST_LISTED).map(|name| format!("`{name}`")).collect();
    format!("known here: {}{more}", few.join(", "))
}
