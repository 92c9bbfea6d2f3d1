//! Runs one step in the guest.

use std::collections::BTreeMap;

use super::content::{Content, EntryKind};
use super::guest::{Facts, Root};
use super::host::Host;
use super::lines::Lines;
use super::output::Output;
use super::shell::{Ended, Job, JobError, as_unix};
use super::upload::{self, Upload, UploadError};
use super::{Context, ProvisionError, ansible, docker, packages};
use crate::model::{Ansible, Docker, Event, FileCopy, Secret, Step, StepKind, Stream};
use crate::ssh::{ExecStatus, Input, SshError, quote};

/// Longest list of packages that is looked at, in bytes.
const MAX_LIST: usize = 8 << 20;

/// Most packages of one guest whose versions are looked at.
const MAX_PACKAGES: usize = 5000;

/// Runs steps; learns what it needs to know about the guest at the first one.
pub(super) struct Runner<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) facts: Option<Facts>,
    /// Root has been at work since the connection was made: the login user may be in other groups by now,
    /// which only a new login sees.
    pub(super) stale: bool,
    /// Packages that steps have installed since this was last emptied: names and versions.
    pub(super) installed: Vec<(String, String)>,
}

/// Why a try of a step did not succeed.
pub(super) enum Fault {
    /// It is clear why.
    Error(ProvisionError),
    /// Its time was up; it has ended.
    TimedOut,
    /// The connection is of no further use.
    Broken(SshError),
    /// It ended, and nothing says how.
    NoCode,
}

impl From<ProvisionError> for Fault {
    fn from(error: ProvisionError) -> Self {
        Fault::Error(error)
    }
}

impl<'a> Runner<'a> {
    pub fn new(context: &'a Context<'a>) -> Self {
        Runner { context, facts: None, stale: false, installed: Vec::new() }
    }

    /// Runs a step once.
    pub fn once(&mut self, step: &Step, content: &Content, output: &Output<'_>) -> Result<(), Fault> {
        match (&step.kind, content) {
            (StepKind::Shell { args, privileged, .. }, Content::Script(script)) => {
                let converted = as_unix(script);
                if converted.is_some() {
                    self.detail("the script was written on Windows: it is sent with Unix line ends, and without a byte order mark");
                }
                if !privileged && self.stale {
                    self.reconnect(step)?;
                }
                let sudo = *privileged && self.root(step)?;
                let script = converted.as_deref().unwrap_or(script);
                self.job(step, &Job { script, args, env: &step.env, sudo }, output)
            }
            (StepKind::Packages { names }, _) => self.packages(step, names, output),
            (StepKind::File(copy), content) => self.upload(step, copy, content, output),
            (StepKind::Ansible(playbook), _) => self.ansible(step, playbook, output),
            (StepKind::Docker(docker), Content::Archives(archives)) => {
                self.docker(step, docker, archives, output)
            }
            // What follows a step with `reboot` is all of it.
            (StepKind::Reboot, _) => Ok(()),
            // `content::load` makes the content that fits the kind.
            (StepKind::Shell { .. } | StepKind::Docker(_), _) => {
                Err(self.unable(step, "its script was not read".into(), None).into())
            }
        }
    }

    fn packages(&mut self, step: &Step, names: &[String], output: &Output<'_>) -> Result<(), Fault> {
        if names.is_empty() {
            return Ok(());
        }
        let facts = self.facts(step)?;
        let Some(manager) = packages::detect(&facts) else {
            let why = match packages::unserved(&facts) {
                Some(program) => format!("packages cannot be installed by `{program}` yet"),
                None => "the guest has no package manager".into(),
            };
            let hint = "install what it needs in a shell step, or use the box `debian/13`";
            return Err(self.unable(step, why, Some(hint.into())).into());
        };
        if let Some(name) = names.iter().find(|name| !manager.takes(name)) {
            let why =
                format!("`{}` is not a package name for `{}`", name.escape_default(), manager.program());
            return Err(self.unable(step, why, None).into());
        }
        let sudo = self.root(step)?;
        let before = self.versions(manager)?;
        let env = self.pins(manager, names);
        let job = Job { script: manager.script().as_bytes(), args: names, env: &env, sudo };
        let result = self.job(step, &job, output);
        if result.is_ok() {
            let after = self.versions(manager)?;
            self.installed
                .extend(after.into_iter().filter(|(name, version)| before.get(name) != Some(version)));
        }
        match result {
            Err(Fault::Error(ProvisionError::StepFailed { code: packages::NOT_AS_LOCKED, .. })) => {
                let why = "the mirror has not what Vagrantfile.lock holds (see its output)".to_owned();
                let hint = "`rvm lock --update` takes what there is today; a mirror that keeps old versions has the locked ones";
                Err(self.unable(step, why, Some(hint.into())).into())
            }
            Err(Fault::Error(ProvisionError::StepFailed { code: packages::NOT_LOCKED, .. })) => {
                let why = "it would install what Vagrantfile.lock does not hold (see its output)".to_owned();
                let hint = "`rvm up` without --locked installs and locks it; commit Vagrantfile.lock then";
                Err(self.unable(step, why, Some(hint.into())).into())
            }
            Err(Fault::Error(ProvisionError::StepFailed {
                code: packages::UNREACHABLE,
                machine,
                step,
                ..
            })) => {
                Err(ProvisionError::MirrorUnreachable { machine, step, manager: manager.program() }.into())
            }
            other => other,
        }
    }

    /// What is installed in the guest, where versions are locked.
    fn versions(&self, manager: &dyn packages::PackageManager) -> Result<BTreeMap<String, String>, Fault> {
        let Some(list) = manager.list() else { return Ok(BTreeMap::new()) };
        let mut answer = Vec::new();
        let mut out = |stream, data: &[u8]| {
            if stream == Stream::Stdout && answer.len() < MAX_LIST {
                answer.extend_from_slice(data);
            }
        };
        let command = format!("sh -c {}", quote(list));
        self.context
            .guest
            .exec(&command, Input::None, &mut out, self.context.cancel, None)
            .map_err(Fault::Broken)?;
        let answer = String::from_utf8_lossy(&answer);
        // The guest says so; what is no package's name and version has no place in a lock file.
        let pairs = answer.lines().filter_map(|line| line.split_once(' '));
        let pairs = pairs.filter(|(name, version)| packages::is_version(name, version)).take(MAX_PACKAGES);
        Ok(pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect())
    }

    /// What the script is told of versions. What the file itself says of one counts more.
    fn pins(&self, manager: &dyn packages::PackageManager, names: &[String]) -> Vec<(String, Secret)> {
        let Context { pins, locked, machine, report, .. } = *self.context;
        if manager.list().is_none() {
            if locked {
                let text = format!("versions of packages are not locked with `{}`", manager.program());
                report.event(Event::Warning { machine: Some(machine.to_owned()), text });
            }
            return Vec::new();
        }
        let said: Vec<&str> = names.iter().filter_map(|name| Some(name.split_once(['=', '/'])?.0)).collect();
        let kept = pins.into_iter().flatten().filter(|(name, _)| !said.contains(&name.as_str()));
        let lines: Vec<String> = kept.map(|(name, version)| format!("{name} {version}")).collect();
        let mut env = vec![("RVM_PINS", lines.join("\n"))];
        env.extend(locked.then(|| ("RVM_LOCKED", format!(" {} ", said.join(" ")))));
        env.retain(|(_, value)| !value.is_empty());
        env.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value))).collect()
    }

    fn docker(
        &mut self,
        step: &Step,
        docker: &Docker,
        archives: &[docker::Archive],
        output: &Output<'_>,
    ) -> Result<(), Fault> {
        let Context { guest, masker, cancel, .. } = *self.context;
        if !docker::is_installed(guest, cancel).map_err(Fault::Broken)? {
            let facts = self.facts(step)?;
            let engine = packages::detect(&facts).map(packages::PackageManager::engine).unwrap_or_default();
            if engine.is_empty() {
                let why = "the guest has neither `docker` nor a package manager that has it".into();
                return Err(self.unable(step, why, Some("use the box `debian/13`".into())).into());
            }
            self.detail(&format!("The guest has no `docker`: installing {}.", engine.join(" ")));
            let names: Vec<String> = engine.iter().map(|name| (*name).to_owned()).collect();
            self.packages(step, &names, output)?;
        }
        let sudo = self.root(step)?;
        let run = |script: String| {
            self.job(step, &Job { script: script.as_bytes(), args: &[], env: &step.env, sudo }, output)
        };
        if !docker.archives.is_empty() {
            run(docker::engine_script())?;
        }
        let show = |stream: Stream, line| output.line(stream, line);
        for (path, archive) in docker.archives.iter().zip(archives) {
            let mut lines = Lines::new(masker, &show);
            match docker::load(guest, path, archive, sudo, &mut lines, cancel, step.timeout) {
                Ok(status) => self.ended(step, status)?,
                Err(UploadError::Source(source)) => {
                    let (step, path) = (step.name.clone(), path.clone());
                    return Err(ProvisionError::Source { step, path, source }.into());
                }
                Err(UploadError::Ssh(error)) => return Err(Fault::Broken(error)),
            }
        }
        run(docker::script(&step.name, docker))
    }

    fn ansible(&self, step: &Step, playbook: &Ansible, output: &Output<'_>) -> Result<(), Fault> {
        let Context { machine, report, masker, cancel, host: side, .. } = self.context;
        let host = Host { machine, report: *report, masker, cancel, logs: None, dir: side.dir, vars: &[] };
        Ok(ansible::run(&host, side, step, playbook, Some(machine), output)?)
    }

    fn job(&self, step: &Step, job: &Job<'_>, output: &Output<'_>) -> Result<(), Fault> {
        let context = self.context;
        let show = |stream: Stream, line| output.line(stream, line);
        let mut lines = Lines::new(context.masker, &show);
        match job.run(context.guest, &mut lines, context.cancel, step.timeout) {
            Ok(Ended::Code(status)) => Ok(self.ended(step, status)?),
            Ok(Ended::TimedOut) => Err(Fault::TimedOut),
            Ok(Ended::NotStarted) => {
                Err(self.unable(step, "the guest could not start it (see its output)".into(), None).into())
            }
            Ok(Ended::Unknown) => Err(Fault::NoCode),
            Err(JobError::Unfit(why)) => Err(self.unable(step, why, None).into()),
            Err(JobError::Ssh(error)) => Err(Fault::Broken(error)),
        }
    }

    fn upload(
        &mut self,
        step: &Step,
        copy: &FileCopy,
        content: &Content,
        output: &Output<'_>,
    ) -> Result<(), Fault> {
        let destination = copy.destination.as_str();
        if destination.is_empty() || destination.contains('\0') {
            return Err(self.unable(step, "its destination is no path".into(), None).into());
        }
        let given = copy.owner.is_some() || copy.group.is_some();
        let sudo = given && self.root(step)?;
        let context = self.context;
        let show = |stream: Stream, line| output.line(stream, line);
        let mut lines = Lines::new(context.masker, &show);
        let mut upload = Upload {
            guest: context.guest,
            copy,
            sudo,
            lines: &mut lines,
            cancel: context.cancel,
            timeout: step.timeout,
        };
        let result = match content {
            Content::Folder(entries) => {
                for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Other) {
                    let text =
                        format!("{} is neither file nor folder nor link: left out", entry.path.display());
                    let machine = Some(context.machine.to_owned());
                    context.report.event(Event::Warning { machine, text: context.masker.mask(&text) });
                }
                upload.folder(entries)
            }
            Content::File { mode } => upload.file(*mode),
            _ => Err(UploadError::Source(std::io::ErrorKind::InvalidInput.into())),
        };
        match result {
            Ok(upload::Ended::Code(status)) => Ok(self.ended(step, status)?),
            Ok(upload::Ended::Denied) if given => {
                Err(self.unable(step, format!("not even root may write to {destination}"), None).into())
            }
            Ok(upload::Ended::Denied) => {
                let user = self.facts(step)?.user;
                let why = format!("`{user}` may not write to {destination}");
                let hint = "`owner = \"root\"` writes it as root; the user's home needs no leave";
                Err(self.unable(step, why, Some(hint.into())).into())
            }
            Ok(upload::Ended::Nobody(why)) => {
                let hint = "an earlier step can make it: `adduser`, `addgroup`".to_owned();
                Err(self.unable(step, format!("in the guest {why}"), Some(hint)).into())
            }
            Err(UploadError::Source(error)) => {
                let (step, path) = (step.name.clone(), copy.source.clone());
                Err(ProvisionError::Source { step, path, source: error }.into())
            }
            Err(UploadError::Ssh(error)) => Err(Fault::Broken(error)),
        }
    }

    /// What the guest is like; asked once.
    pub(super) fn facts(&mut self, step: &Step) -> Result<Facts, ProvisionError> {
        if let Some(facts) = &self.facts {
            return Ok(facts.clone());
        }
        let facts = Facts::gather(self.context.guest, self.context.cancel)
            .map_err(|error| self.cut(step, error))?
            .map_err(|why| self.unable(step, format!("the guest cannot be asked: {why}"), None))?;
        self.facts = Some(facts.clone());
        Ok(facts)
    }

    /// Whether `sudo` is needed to be root; an error when it does not help.
    pub(super) fn root(&mut self, step: &Step) -> Result<bool, ProvisionError> {
        let facts = self.facts(step)?;
        let hint = "`privileged = false` runs a shell step as the login user".to_owned();
        match facts.root {
            Root::Already => Ok(false),
            Root::Sudo => {
                self.stale = true;
                Ok(true)
            }
            Root::Missing => {
                let why = format!("it needs root, but `{}` has no `sudo` in the guest", facts.user);
                Err(self.unable(step, why, Some(hint)))
            }
            Root::Refused(said) => {
                let why = format!("it needs root, but `sudo` refuses `{}`: {said}", facts.user);
                Err(self.unable(step, why, Some(format!("let the user run sudo without a password; {hint}"))))
            }
        }
    }

    fn ended(&self, step: &Step, status: ExecStatus) -> Result<(), ProvisionError> {
        if status.code == 0 {
            return Ok(());
        }
        Err(ProvisionError::StepFailed {
            machine: self.context.machine.to_owned(),
            step: step.name.clone(),
            code: status.code,
            signal: status.signal,
        })
    }

    pub(super) fn unable(&self, step: &Step, why: String, hint: Option<String>) -> ProvisionError {
        let (machine, step) = (self.context.machine.to_owned(), step.name.clone());
        ProvisionError::StepUnable { machine, step, why: self.context.masker.mask(&why), hint }
    }

    pub(super) fn cut(&self, step: &Step, error: SshError) -> ProvisionError {
        let (machine, step) = (self.context.machine.to_owned(), step.name.clone());
        ProvisionError::StepCut { machine, step, source: Box::new(error) }
    }

    pub(super) fn detail(&self, text: &str) {
        let machine = Some(self.context.machine.to_owned());
        self.context.report.event(Event::Detail { machine, text: text.to_owned() });
    }
}
