//! `rvm lock`, and what `up` does with the lock file: `Vagrantfile.lock`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::app::{App, env};
use super::error::{CliError, Kind};
use super::json::VERSION;
use super::target::Target;
use super::ui::table::table;
use super::{DONE, Json, Outcome};
use crate::config::{lock_file, read_locks, render_locks};
use crate::machine::Machines;
use crate::model::{Code, KernelChoice, Locks, Machine, Project, StepKind, hex, timestamp};
use crate::state::{Lock, store};

/// Words of `rvm lock`.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// Lock the boxes anew, with the packages that the mirror has now
    #[arg(long)]
    update: bool,
    /// Boxes to lock anew (or `fast`, the kernel); all of the project without
    #[arg(value_name = "BOX", requires = "update")]
    boxes: Vec<String>,
    /// Change nothing: exit with 1 unless all that the project needs is locked and can be had
    #[arg(long, conflicts_with = "update")]
    check: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

/// `--locked`.
#[derive(Debug, Clone, Copy, Args)]
pub struct LockedFlag {
    /// Refuse what the lock file does not hold: boxes, kernels, packages of steps; RVM_LOCKED=1 is the same
    #[arg(long)]
    locked: bool,
}

impl LockedFlag {
    /// Whether it, or the variable, is given.
    pub fn is_set(self) -> bool {
        self.locked || env("RVM_LOCKED").is_some_and(|value| !matches!(value.as_str(), "0" | "false" | "no"))
    }
}

/// Shows the locks, after it has written what was missing.
pub fn run(app: &App, args: &LockArgs) -> Outcome {
    let machines = app.machines()?;
    let project = app.project()?;
    let path = lock_file(&project.file);
    if args.check {
        return check(app, &machines, &project, &path);
    }
    let needed = |name: &String| project.machines.iter().any(|machine| needs(machine, name));
    if let Some(unknown) = args.boxes.iter().find(|name| !needed(name)) {
        let names = names_of(&project);
        return Err(CliError::usage(format!("no machine of this project needs `{unknown}`"))
            .hint(format!("this project needs: {}", names.join(", "))));
    }
    let renew = |name: &str| args.update && (args.boxes.is_empty() || args.boxes.iter().any(|b| b == name));
    let all = names_of(&project).iter().all(|name| renew(name));
    // What is locked anew need not have been whole.
    let kept = if all { Locks::default() } else { read_locks(&path)?.unwrap_or_default() };
    let locks = machines.resolve(&project, &kept, &renew)?;
    write(app, &machines, &path, |_| locks.clone())?;
    tell_unlocked(app, &project);
    show(app, &machines, &path, &locks)
}

/// Steps that a message names.
const MOST_STEPS: usize = 5;

/// Says which steps install what no lock file holds.
fn tell_unlocked(app: &App, project: &Project) {
    let steps = project.machines.iter().flat_map(|machine| &machine.steps);
    let steps = steps.chain(project.after_all.iter().map(|after| &after.step));
    let mut names: Vec<&str> = Vec::new();
    for step in steps.filter(|step| matches!(step.kind, StepKind::Shell { .. } | StepKind::Ansible(_))) {
        if !names.contains(&step.name.as_str()) {
            names.push(&step.name);
        }
    }
    if names.is_empty() {
        return;
    }
    let more = if names.len() > MOST_STEPS { ", …" } else { "" };
    names.truncate(MOST_STEPS);
    app.ui.note(&format!("Not locked: what scripts and playbooks fetch ({}{more}).", names.join(", ")));
}

fn show(app: &App, machines: &Machines<'_>, path: &Path, locks: &Locks) -> Outcome {
    if app.json {
        app.ui.json(&document(machines, path, locks)?);
    } else {
        app.ui.result(text(machines, locks)?.trim_end());
    }
    Ok(DONE)
}

fn document(machines: &Machines<'_>, path: &Path, locks: &Locks) -> Result<Value, CliError> {
    let mut boxes = Vec::new();
    for locked in locks.boxes.values() {
        boxes.push(json!({
            "name": locked.name,
            "digest": locked.digest,
            "snapshot": timestamp(locked.snapshot),
            "kernel": locked.kernel,
            "packages": locked.packages.len(),
            "in_store": machines.images.find_exactly(&locked.name, &locked.digest)?.is_some(),
        }));
    }
    let fast = locks.fast.as_ref().map(|fast| json!({ "digest": fast.digest, "version": fast.version }));
    Ok(json!({ "version": VERSION, "file": path.display().to_string(), "boxes": boxes, "fast": fast }))
}

fn needs(machine: &Machine, name: &str) -> bool {
    machine.box_name == name || (name == "fast" && machine.kernel == KernelChoice::Fast)
}

/// What a project has to lock, each once.
fn names_of(project: &Project) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for machine in &project.machines {
        names.push(machine.box_name.clone());
        names.extend((machine.kernel == KernelChoice::Fast).then(|| "fast".to_owned()));
    }
    names.sort();
    names.dedup();
    names
}

fn text(machines: &Machines<'_>, locks: &Locks) -> Result<String, CliError> {
    let mut rows = Vec::new();
    for locked in locks.boxes.values() {
        let is_here = machines.images.find_exactly(&locked.name, &locked.digest)?.is_some();
        rows.push(vec![
            locked.name.clone(),
            locked.digest.get(..12).unwrap_or(&locked.digest).to_owned(),
            timestamp(locked.snapshot),
            locked.kernel.clone(),
            locked.packages.len().to_string(),
            if is_here { "in the store" } else { "to be built" }.to_owned(),
        ]);
    }
    if let Some(fast) = &locks.fast {
        let blank = || "-".to_owned();
        rows.push(vec!["fast".into(), fast.digest.clone(), blank(), fast.version.clone(), blank(), blank()]);
    }
    Ok(table(&["box", "digest", "snapshot", "kernel", "packages", "here"], &rows))
}

/// Says all that stands between the lock file and the same machines here.
fn check(app: &App, machines: &Machines<'_>, project: &Project, path: &Path) -> Outcome {
    let locks = read_locks(path)?.ok_or_else(|| missing_file(path))?;
    let mut faults: Vec<String> = Vec::new();
    for name in names_of(project).into_iter().filter(|name| name != "fast") {
        match locks.boxes.get(&name) {
            None => faults.push(format!("box {name} is not locked")),
            Some(locked) if machines.images.find_exactly(&name, &locked.digest)?.is_some() => {}
            Some(locked) => {
                faults.extend(machines.images.check_recipe(locked).err().map(|error| error.to_string()));
            }
        }
    }
    let needs_fast = project.machines.iter().any(|machine| needs(machine, "fast"));
    match &locks.fast {
        None if needs_fast => faults.push("the kernel fast is not locked".into()),
        Some(fast) if needs_fast && fast.digest != machines.images.fast_digest() => {
            faults.push(format!("the kernel fast is locked as {}: this rvm builds another", fast.digest));
        }
        _ => {}
    }
    let stale: Vec<&str> = locks
        .boxes
        .keys()
        .map(String::as_str)
        .filter(|name| !names_of(project).iter().any(|n| n == name))
        .collect();
    if !stale.is_empty() {
        app.ui.note(&format!("No machine needs {} any more; `rvm lock` takes it out.", stale.join(", ")));
    }
    if faults.is_empty() && app.json {
        return show(app, machines, path, &locks);
    }
    if faults.is_empty() {
        tell_unlocked(app, project);
        app.ui.result(&format!("{} holds all that this project needs.", path.display()));
        return Ok(DONE);
    }
    Err(CliError::failed(
        Code::LockFileStale,
        format!("{} does not do: {}", path.display(), faults.join("; ")),
    )
    .hint("`rvm lock` locks what is missing, `rvm lock --update` locks all anew"))
}

fn missing_file(path: &Path) -> CliError {
    CliError::failed(Code::NotLocked, format!("there is no {}", path.display()))
        .hint("`rvm lock` writes it, and so does `rvm up` without --locked; commit it")
}

/// Tells `machines` what the projects of the targets pin, and whether that is all there may be. What a
/// command without the flag is about may be anything.
pub fn apply(
    machines: &mut Machines<'_>,
    targets: &[Target],
    flag: Option<LockedFlag>,
) -> Result<(), CliError> {
    machines.locked = flag.is_some_and(LockedFlag::is_set);
    machines.locks = read(targets, machines.locked)?;
    Ok(())
}

/// What the projects of the targets pin. Where all has to be, a box that is not is an error.
fn read(targets: &[Target], is_locked: bool) -> Result<BTreeMap<PathBuf, Locks>, CliError> {
    let mut all = BTreeMap::new();
    for target in targets {
        // One that is declared no more says so when its turn comes.
        let Ok((project, machine)) = target.declaration() else { continue };
        let path = lock_file(&project.file);
        if !all.contains_key(&project.root) {
            let locks = read_locks(&path)?;
            if locks.is_none() && is_locked {
                return Err(missing_file(&path));
            }
            all.insert(project.root.clone(), locks.unwrap_or_default());
        }
        let locks = all.get(&project.root);
        let has_box = locks.is_some_and(|locks| locks.boxes.contains_key(&machine.box_name));
        let has_kernel = machine.kernel != KernelChoice::Fast || locks.is_some_and(|l| l.fast.is_some());
        if is_locked && !(has_box && has_kernel) {
            let what = if has_box { "the kernel fast" } else { &machine.box_name };
            return Err(CliError::failed(
                Code::NotLocked,
                format!("{} does not lock {what}", path.display()),
            )
            .hint("`rvm lock` locks what is missing"));
        }
    }
    Ok(all)
}

/// Locks what the machines of the targets' projects were made from and what is not locked yet. That a
/// file cannot be written does not undo what was done. With `--locked` nothing is written.
pub fn keep(app: &App, machines: &Machines<'_>, targets: &[Target]) {
    if machines.locked {
        return;
    }
    let mut done: Vec<&Path> = Vec::new();
    for target in targets {
        let Ok((project, _)) = target.declaration() else { continue };
        if done.contains(&project.root.as_path()) {
            continue;
        }
        done.push(&project.root);
        if let Err(error) = keep_one(app, machines, project) {
            app.ui.warn(&format!("what was made is not locked: {}", error.one_line()));
        }
    }
}

fn keep_one(app: &App, machines: &Machines<'_>, project: &Project) -> Result<(), CliError> {
    let resolved = machines.resolved(project)?;
    let path = lock_file(&project.file);
    let locks = read_locks(&path)?.unwrap_or_default();
    let merged = merge(&locks, &resolved);
    if merged == locks {
        return Ok(());
    }
    if env("CI").is_some() {
        app.ui.note(&format!("{} is not written, because CI is set.", path.display()));
        return Ok(());
    }
    write(app, machines, &path, |now| merge(now, &resolved))
}

/// `locks` with what only `found` has.
fn merge(locks: &Locks, found: &Locks) -> Locks {
    let mut merged = locks.clone();
    for (name, locked) in &found.boxes {
        merged.boxes.entry(name.clone()).or_insert_with(|| locked.clone());
    }
    merged.fast = merged.fast.or_else(|| found.fast.clone());
    for (name, packages) in &found.packages {
        let locked = merged.packages.entry(name.clone()).or_default();
        for (package, version) in packages {
            locked.entry(package.clone()).or_insert_with(|| version.clone());
        }
    }
    merged
}

/// Replaces the lock file by what `change` makes of it, one command at a time.
fn write(
    app: &App,
    machines: &Machines<'_>,
    path: &Path,
    change: impl Fn(&Locks) -> Locks,
) -> Result<(), CliError> {
    let guard = machines.layout.lock_file(&format!("lock-{}", digest_of(path)));
    let owner = format!("the command that writes {}", path.display());
    let _guard = Lock::acquire(&guard, &owner, &app.cancel, |_| ())
        .map_err(|error| CliError::from_error(Kind::Failed, error.code(), &error, error.hint()))?;
    let now = read_locks(path);
    let is_new = matches!(now, Ok(None));
    let before = now.as_ref().ok().cloned().flatten();
    let after = change(&before.clone().unwrap_or_default());
    if before.as_ref() == Some(&after) {
        return Ok(());
    }
    let text = render_locks(&after, env!("CARGO_PKG_VERSION"));
    store::write_shared(path, text.as_bytes())
        .map_err(|error| CliError::file("cannot write", path, &error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    app.ui.note(&match is_new {
        true => format!("Wrote {name}. Commit it: it brings the same boxes to every desk."),
        false => format!("Changed {name}."),
    });
    Ok(())
}

fn digest_of(path: &Path) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    hex(&digest[..8])
}
