//! What every command needs: the environment, the project, the store, the screen.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::{CliError, Kind};
use super::signals::Signals;
use super::ui::Ui;
use crate::config;
use crate::image::{Settings, Store};
use crate::machine::Machines;
use crate::model::{Cancel, Code, Project, ProviderKind};
use crate::state::Layout;

/// A variable of the environment; `None` where it is unset, empty or not UTF-8.
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What rvm is told by its environment has to be text: one that is not would count as not set.
pub fn check_environment(
    variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Result<(), CliError> {
    let is_ours = |name: &str| name.starts_with("RVM_") || ["HOME", "XDG_DATA_HOME"].contains(&name);
    for (name, value) in variables {
        if let Some(name) = name.to_str().filter(|name| is_ours(name))
            && value.to_str().is_none()
        {
            let message = format!("the value of {name} is no UTF-8 text");
            return Err(CliError::new(Kind::Config, Code::Variable, message)
                .hint("rename what it names, or set it to something else"));
        }
    }
    Ok(())
}

/// What shares such as `cpus = "half"` are shares of.
fn host() -> Option<config::Host> {
    let cpus = std::thread::available_parallelism().ok()?;
    let info = rustix::system::sysinfo();
    Some(config::Host {
        cpus: u32::try_from(cpus.get()).unwrap_or(u32::MAX),
        memory: (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)),
    })
}

/// `RVM_DEFAULT_PROVIDER`.
fn default_provider() -> Result<Option<ProviderKind>, CliError> {
    let Some(word) = env("RVM_DEFAULT_PROVIDER") else { return Ok(None) };
    let known = [ProviderKind::Kvm, ProviderKind::Qemu].into_iter().find(|kind| kind.as_str() == word);
    known.map(Some).ok_or_else(|| {
        CliError::new(Kind::Config, Code::Variable, format!("RVM_DEFAULT_PROVIDER is `{word}`"))
            .hint("it is `kvm` or `qemu`, or not set: then what suits this host runs machines")
    })
}

/// What the store is told by the environment.
pub fn settings() -> Settings {
    Settings { mirror: env("RVM_MIRROR"), snapshots: env("RVM_SNAPSHOTS"), scratch: None }
}

/// The surroundings of one command.
pub struct App {
    /// The screen.
    pub ui: Arc<Ui>,
    /// Set by Ctrl-C.
    pub cancel: Cancel,
    /// Where Ctrl-C and SIGTERM go.
    pub signals: Signals,
    /// Results and errors as JSON.
    pub json: bool,
    /// `--var`: names and values.
    pub vars: Vec<(String, String)>,
}

impl App {
    /// The folder that the command works from: `RVM_CWD`, else the current one.
    pub fn cwd(&self) -> Result<PathBuf, CliError> {
        let here = std::env::current_dir().map_err(|e| {
            CliError::new(Kind::Config, Code::WorkingFolder, "cannot tell the current folder")
                .because(&e)
                .hint("it may have been removed: cd to one that exists")
        })?;
        match env("RVM_CWD") {
            None => Ok(here),
            Some(dir) => {
                let path = here.join(&dir);
                if path.is_dir() {
                    Ok(path)
                } else {
                    Err(CliError::new(
                        Kind::Config,
                        Code::WorkingFolder,
                        format!("RVM_CWD names `{dir}`, which is no folder"),
                    ))
                }
            }
        }
    }

    /// The store.
    pub fn layout(&self) -> Result<Layout, CliError> {
        Ok(Layout::from_env(env)?)
    }

    /// The project that the working folder belongs to. From here on its secrets are masked.
    pub fn project(&self) -> Result<Project, CliError> {
        self.project_at(self.cwd()?)
    }

    /// The project found from `start` upward.
    pub fn project_at(&self, start: PathBuf) -> Result<Project, CliError> {
        let file = config::find(&start, env("RVM_VAGRANTFILE").as_deref())?;
        let inputs = config::Inputs { env: &env, vars: &self.vars, host: host() };
        let project = config::load_with(&file, &inputs)?;
        if project.root.to_str().is_none() {
            let folder = project.root.display();
            let message = format!("the name of the folder {folder} is no UTF-8 text");
            return Err(CliError::new(Kind::Config, Code::WorkingFolder, message).hint("rename it"));
        }
        self.ui.add_masker(project.masker.clone());
        let machines = project.machines.len();
        tracing::debug!(file = %project.file.display(), machines, "read the project");
        Ok(project)
    }

    /// The machines of this user.
    pub fn machines(&self) -> Result<Machines<'_>, CliError> {
        let exe = std::env::current_exe()
            .map_err(|e| CliError::failed(Code::Host, "cannot tell where the rvm program is").because(&e))?;
        let layout = self.layout()?;
        tracing::debug!(home = %layout.home().display(), "the store");
        Ok(Machines {
            images: Store::new(layout.clone(), settings()),
            layout,
            report: &*self.ui,
            cancel: self.cancel.clone(),
            exe,
            path: env("PATH").unwrap_or_default(),
            locks: Default::default(),
            locked: false,
            default_provider: default_provider()?,
            lock_timeout: None,
            dot_dir: env("RVM_DOTFILE_PATH").map(|dir| self.cwd().map(|cwd| cwd.join(dir))).transpose()?,
        })
    }

    /// Makes a failure of `error` if the user has asked to stop.
    pub fn check_cancelled(&self) -> Result<(), CliError> {
        if self.cancel.is_cancelled() {
            return Err(CliError::interrupted("interrupted"));
        }
        Ok(())
    }
}
