//! The command line: words in, calls to the rooms below, text and exit codes out.
//!
//! The only room that prints, reads the environment and knows the working folder. One file a
//! verb; [`ui`] is the only writer to standard output and error.

mod after;
mod app;
mod attach;
mod boot;
mod boxes;
mod completion;
mod console;
mod copy;
mod destroy;
mod doctor;
mod edited;
mod error;
mod exec;
mod explain;
mod forward;
mod global_status;
mod graph;
mod halt;
mod hooks;
mod import;
mod init;
mod instead;
mod inventory;
mod json;
mod left;
mod lock;
mod logs;
mod many;
mod network;
mod pages;
mod plan;
mod port;
mod prompt;
mod provision;
mod reload;
mod rsync;
mod schema;
mod signals;
mod ssh;
mod ssh_config;
mod ssh_hosts;
mod status;
mod steps;
mod target;
mod timings;
mod top;
mod trace;
pub mod ui;
mod up;
mod validate;
mod volume;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::model::{Cancel, Code};
use app::App;
pub use error::{CliError, Kind};
use ui::sink::{Sink, To};
use ui::{Color, Style, Ui};

/// What a verb ends with: an exit code, or why it failed.
pub type Outcome = Result<u8, CliError>;

/// The exit code of success.
pub const DONE: u8 = 0;

/// Virtual machines declared in one Vagrantfile (TOML), on a KVM hypervisor of its own.
#[derive(Debug, Parser)]
#[command(name = "rvm", version, disable_help_subcommand = false, max_term_width = 100)]
#[command(after_help = "NAME is a machine of the project, a group of machines, a /regular expression/ for \
    their names, or (from any folder) the beginning of an id that `rvm global-status` shows.\n\
    Scripts read --json, or --machine-readable with any command: lines in Vagrant's format (docs/json.md).\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Use colours: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    #[arg(hide_possible_values = true, hide_default_value = true, overrides_with = "no_color")]
    color: Color,
    /// The same as --color never
    #[arg(long, global = true)]
    no_color: bool,
    /// Print results, warnings and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print lines for scripts, in Vagrant's format, and ask nothing (docs/json.md lists the types)
    // The help of `rvm` names it; that of each command is wide enough.
    #[arg(long, global = true, hide = true)]
    machine_readable: bool,
    /// Say on standard error what happens inside; RVM_LOG=FILTER chooses more finely
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// The same as -vv, as Vagrant calls it
    #[arg(long, global = true, hide = true)]
    debug: bool,
    /// Set a variable of the Vagrantfile for this once, NAME=VALUE; may be repeated
    #[arg(long = "var", global = true, value_name = "N=V", value_parser = assignment)]
    vars: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".into()),
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a Vagrantfile to start from
    Init(init::InitArgs),
    /// Write the TOML for a Ruby Vagrantfile, and say what it lacks
    Import(import::ImportArgs),
    /// Check the Vagrantfile
    Validate(validate::ValidateArgs),
    /// Print the JSON schema of the Vagrantfile, for editors
    Schema,
    /// Create, start and provision machines
    Up(up::UpArgs),
    /// Show what `up` would do, and how machines differ from the Vagrantfile
    Plan(plan::PlanArgs),
    /// Draw machines, networks, ports and dependencies, as text or SVG
    Graph(graph::GraphArgs),
    /// Show what Vagrantfile.lock pins, and lock what is missing
    Lock(lock::LockArgs),
    /// Stop machines
    Halt(halt::HaltArgs),
    /// Stop machines and start them with the Vagrantfile as it is now
    Reload(reload::ReloadArgs),
    /// Log in to a machine, or run one command in it
    Ssh(ssh::SshArgs),
    /// Run a program in a machine: exit code, input and output are its own
    Exec(exec::ExecArgs),
    /// Copy files between this host and a machine
    #[command(visible_alias = "cp")]
    Copy(copy::CopyArgs),
    /// Copy a file or folder into a machine
    Upload(copy::UploadArgs),
    /// Copy folders of type `rsync` into running machines once more
    Rsync(rsync::RsyncArgs),
    /// Copy folders of type `rsync` whenever they change, until Ctrl-C
    RsyncAuto(rsync::RsyncAutoArgs),
    /// Attach this terminal to the console of a machine
    Console(console::ConsoleArgs),
    /// Print configuration for the ssh client
    SshConfig(ssh_config::SshConfigArgs),
    /// Run provision steps on running machines
    Provision(provision::ProvisionArgs),
    /// Show the machines of this project
    Status(status::StatusArgs),
    /// Show what machines take from the host, again and again
    Top(top::TopArgs),
    /// Show all machines of this user
    GlobalStatus(global_status::GlobalStatusArgs),
    /// Stop machines and remove their disks
    Destroy(destroy::DestroyArgs),
    /// Show the forwarded ports of a machine
    Port(port::PortArgs),
    /// Show the private networks
    #[command(subcommand)]
    Network(network::NetworkVerb),
    /// Lead a SOCKS5 proxy of this host into the networks of a machine, until Ctrl-C
    Proxy(forward::ProxyArgs),
    /// Lead a port of this host to another machine by way of this one, until Ctrl-C
    Forward(forward::ForwardArgs),
    /// Print the running machines as an inventory of Ansible
    Inventory(inventory::InventoryArgs),
    /// Manage volumes, which outlive machines
    #[command(subcommand)]
    Volume(volume::VolumeVerb),
    /// Manage boxes, which machines are made from
    #[command(subcommand)]
    Box(boxes::BoxVerb),
    /// Print the serial console of a machine
    Logs(logs::LogsArgs),
    /// Boot a bare kernel, its serial console on this terminal
    Boot(boot::BootArgs),
    /// Say what this host can do, what it lacks and how to mend it
    Doctor(doctor::DoctorArgs),
    /// Say what is behind the code of an error
    Explain(explain::ExplainArgs),
    /// Print a script that completes commands, options and names in a shell
    Completion(completion::CompletionArgs),
    /// Write man pages
    Man(pages::ManArgs),
    /// Print all commands, one a line
    ListCommands(pages::ListArgs),
    /// Print the version
    Version(pages::VersionArgs),
}

impl Verb {
    /// Whether it may read the project's files.
    fn reads_project(&self) -> bool {
        !matches!(
            self,
            Verb::Init(_)
                | Verb::Import(_)
                | Verb::Explain(_)
                | Verb::GlobalStatus(_)
                | Verb::Box(_)
                | Verb::Boot(_)
                | Verb::Doctor(_)
                | Verb::Schema
                | Verb::Version(_)
        )
    }

    fn json(&self) -> bool {
        match self {
            Verb::Validate(args) => args.json.json,
            Verb::SshConfig(args) => args.json.json,
            Verb::Status(args) => args.json.json,
            Verb::GlobalStatus(args) => args.json.json,
            Verb::Plan(args) => args.json.json,
            Verb::Graph(args) => args.json.json,
            Verb::Lock(args) => args.json.json,
            Verb::Top(args) => args.json.json,
            Verb::Port(args) => args.json.json,
            Verb::Inventory(args) => args.json,
            Verb::Box(boxes::BoxVerb::List(args)) => args.json.json,
            Verb::Network(network::NetworkVerb::List(args)) => args.json.json,
            Verb::Volume(volume::VolumeVerb::List(args)) => args.json.json,
            Verb::Doctor(args) => args.json.json,
            Verb::Explain(args) => args.json.json,
            Verb::Logs(args) => args.json.json,
            Verb::ListCommands(args) => args.json.json,
            Verb::Version(args) => args.json.json,
            _ => false,
        }
    }

    /// Where messages go: verbs whose result is the point keep standard output for it.
    fn messages(&self) -> To {
        match self {
            Verb::Up(_) | Verb::Halt(_) | Verb::Reload(_) | Verb::Provision(_) | Verb::Destroy(_) => {
                To::Stdout
            }
            Verb::Init(_)
            | Verb::Upload(_)
            | Verb::Rsync(_)
            | Verb::RsyncAuto(_)
            | Verb::Volume(volume::VolumeVerb::Remove(_))
            | Verb::Box(boxes::BoxVerb::Add(_) | boxes::BoxVerb::Remove(_)) => To::Stdout,
            _ => To::Stderr,
        }
    }

    fn run(self, app: &App) -> Outcome {
        match self {
            Verb::Init(args) => init::run(app, &args),
            Verb::Import(args) => import::run(app, &args),
            Verb::Validate(_) => validate::run(app),
            Verb::Schema => schema::run(app),
            Verb::Up(args) => up::run(app, &args),
            Verb::Plan(args) => plan::run(app, &args),
            Verb::Graph(args) => graph::run(app, &args),
            Verb::Lock(args) => lock::run(app, &args),
            Verb::Halt(args) => halt::run(app, &args),
            Verb::Reload(args) => reload::run(app, &args),
            Verb::Ssh(args) => ssh::run(app, &args),
            Verb::Exec(args) => exec::run(app, &args),
            Verb::Copy(args) => copy::run(app, &args),
            Verb::Upload(args) => copy::upload(app, &args),
            Verb::Rsync(args) => rsync::run(app, &args),
            Verb::RsyncAuto(args) => rsync::auto(app, &args),
            Verb::Console(args) => console::run(app, &args),
            Verb::SshConfig(args) => ssh_config::run(app, &args),
            Verb::Provision(args) => provision::run(app, &args),
            Verb::Status(args) => status::run(app, &args),
            Verb::GlobalStatus(args) => global_status::run(app, &args),
            Verb::Top(args) => top::run(app, &args),
            Verb::Destroy(args) => destroy::run(app, &args),
            Verb::Port(args) => port::run(app, &args),
            Verb::Network(verb) => network::run(app, &verb),
            Verb::Proxy(args) => forward::proxy(app, &args),
            Verb::Forward(args) => forward::forward(app, &args),
            Verb::Inventory(args) => inventory::run(app, &args),
            Verb::Volume(verb) => volume::run(app, &verb),
            Verb::Box(verb) => boxes::run(app, &verb),
            Verb::Logs(args) => logs::run(app, &args),
            Verb::Boot(args) => boot::run(app, &args),
            Verb::Doctor(_) => doctor::run(app),
            Verb::Explain(args) => explain::run(app, &args),
            Verb::Completion(args) => completion::run(app, &args, Cli::command()),
            Verb::Man(args) => pages::man(app, &args, Cli::command()),
            Verb::ListCommands(_) => pages::list(app, &Cli::command()),
            Verb::Version(_) => pages::version(app),
        }
    }
}

/// `--json`.
#[derive(Debug, Clone, Copy, Args)]
struct Json {
    /// Print one JSON document (docs/json.md describes it)
    #[arg(long)]
    json: bool,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    crate::state::inherited::keep_to_ourselves();
    let words: Vec<OsString> = std::env::args_os().collect();
    // What `up` starts for each machine: no terminal, no options, no threads of ours.
    if let [_, verb, dir] = words.as_slice() {
        let dir = std::path::Path::new(dir);
        match verb.to_str() {
            Some("__vm") => {
                trace::to_log();
                return crate::provider::process::main(dir);
            }
            Some(crate::provider::walls::PROCESS) => return crate::provider::walls::main(),
            // The same for a private network.
            Some("__switch") => return crate::net::switch::process::watch(dir),
            // And for a port that is forwarded while a machine runs.
            Some("__forward") => return crate::machine::forwards::process(dir),
            // And for a machine's passt.
            Some("__nat") => return crate::machine::way_out::process(dir),
            Some("__follow") => return crate::machine::follow::process(dir),
            // And for the shared folders of a machine that QEMU runs.
            Some(word @ (crate::provider::share::PROCESS | crate::provider::share::NEXT_PROCESS)) => {
                trace::to_log();
                return crate::provider::share::main(dir, word == crate::provider::share::NEXT_PROCESS);
            }
            Some(crate::net::switch::process::PORTS) => return crate::net::switch::process::ports(dir),
            _ => {}
        }
        if verb == completion::NAMES {
            return completion::names(&dir.to_string_lossy());
        }
    }
    ExitCode::from(run(&words))
}

fn run(words: &[OsString]) -> u8 {
    let matches = match lean(words) {
        Some(matches) => matches,
        None => match Cli::command().try_get_matches_from(words) {
            Ok(matches) => matches,
            Err(error) => return usage(&error, words),
        },
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error.format(&mut Cli::command()), words),
    };
    let json = cli.verb.json();
    let messages = if json { To::Stderr } else { cli.verb.messages() };
    let ui = Arc::new(Ui::new(style(&cli.global), messages, Sink::of_process()));
    if json && cli.global.machine_readable {
        let error = CliError::usage("--json and --machine-readable are two formats: give one of them");
        ui.error(&error, true);
        return error.kind.exit_code();
    }
    if !cli.global.vars.is_empty() && !cli.verb.reads_project() {
        let error = CliError::usage("this command reads no Vagrantfile: it has no use for --var");
        ui.error(&error, json);
        return error.kind.exit_code();
    }
    let app = App {
        ui: Arc::clone(&ui),
        cancel: Cancel::new(),
        signals: signals::Signals::default(),
        json,
        vars: cli.global.vars,
    };
    let verbose = cli.global.verbose.max(if cli.global.debug { 2 } else { 0 });
    let outcome = app::check_environment(std::env::vars_os())
        .and_then(|()| trace::start(verbose, Arc::clone(&ui)))
        .and_then(|()| {
            signals::watch(app.cancel.clone(), app.signals.clone(), Arc::clone(&ui))
                .map_err(|e| CliError::failed(Code::Host, "cannot watch for Ctrl-C").because(&e))
        })
        .and_then(|()| cli.verb.run(&app));
    ui.clear();
    match (outcome, ui.stdout_error()) {
        (Err(error), _) => {
            ui.error(&error, json);
            error.kind.exit_code()
        }
        (Ok(_), Some(error)) => {
            let error = CliError::failed(Code::Output, format!("cannot write to standard output: {error}"));
            ui.error(&error, false);
            error.kind.exit_code()
        }
        (Ok(code), None) => code,
    }
}

/// What was typed, read by the command that it begins with alone: the global options are copied into each
/// command that there is, which takes longer than all other reading. `None` for help and for what is wrong, which
/// the whole tree has to answer.
fn lean(words: &[OsString]) -> Option<ArgMatches> {
    let verb = words.iter().skip(1).find_map(|word| word.to_str().filter(|word| !word.starts_with('-')))?;
    let mut tree = Cli::command();
    let found = tree.get_subcommands_mut().find(|command| command.get_name() == verb)?;
    let command = std::mem::take(found);
    // Nor is the rest of the tree taken apart: the process ends soon.
    std::mem::forget(tree);
    Global::augment_args(Command::new("rvm")).subcommand(command).try_get_matches_from(words).ok()
}

fn style(global: &Global) -> Style {
    let dumb = app::env("TERM").is_some_and(|term| term == "dumb");
    Style {
        color: if global.no_color { Color::Never } else { global.color },
        quiet: global.quiet,
        plain_terminal: dumb || app::env("NO_COLOR").is_some(),
        ci: app::env("CI").is_some(),
        machine_readable: global.machine_readable,
    }
}

/// Help, version and wrong words, all said by clap.
fn usage(error: &clap::Error, words: &[OsString]) -> u8 {
    let machine_readable = words.iter().any(|word| word == "--machine-readable");
    let ui = Ui::new(Style { machine_readable, ..Style::default() }, To::Stderr, Sink::of_process());
    let plain = app::env("NO_COLOR").is_some() || app::env("TERM").is_some_and(|term| term == "dumb");
    let text = |to| {
        let styled = error.render();
        if ui.color(to) && !plain { styled.ansi().to_string() } else { styled.to_string() }
    };
    let foreign = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => {
            let typed = words.iter().skip(1).filter_map(|word| word.to_str());
            let verbs = typed.filter(|word| !word.starts_with('-'));
            let until = verbs.clone().position(|verb| verb == word).unwrap_or_default();
            instead::instead(&verbs.take(until + 1).collect::<Vec<_>>()).map(|instead| (word, instead))
        }
        _ => None,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            ui.result(text(To::Stdout).trim_end());
            DONE
        }
        ErrorKind::InvalidSubcommand if let Some((word, instead)) = foreign => {
            let error = CliError::usage(format!("there is no command `{word}`")).hint(instead);
            ui.error(&error, !machine_readable && words.iter().any(|word| word == "--json"));
            Kind::Usage.exit_code()
        }
        _ if machine_readable || words.iter().any(|word| word == "--json") => {
            let text = error.render().to_string();
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let rest: Vec<&str> = lines.collect();
            ui.error(&CliError::usage(first).hint(rest.join("; ")), !machine_readable);
            Kind::Usage.exit_code()
        }
        _ => {
            // The first word is clap's; the code behind it is ours.
            ui.diagnostic(&text(To::Stderr).replacen("error:", &format!("error[{}]:", Code::Usage), 1));
            Kind::Usage.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// One command alone reads what is right as the whole tree does, and nothing else.
    #[test]
    fn the_quick_way_reads_the_same() {
        let read = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        for line in [
            "rvm status",
            "rvm -v status web --json -q",
            "rvm up web db --color never --var A=1 --var B=2 --parallel 3",
            "rvm box add micro --kernel fast",
            "rvm ssh web -c id -- -v",
            "rvm exec web -- ls -l",
            "rvm port add web 8080:80",
        ] {
            let words = read(line);
            let quick = Cli::from_arg_matches(&lean(&words).expect(line)).unwrap();
            let whole = Cli::from_arg_matches(&Cli::command().try_get_matches_from(&words).unwrap()).unwrap();
            assert_eq!(format!("{quick:?}"), format!("{whole:?}"), "{line}");
        }
        for line in [
            "rvm",
            "rvm --help",
            "rvm -V",
            "rvm up --help",
            "rvm help up",
            "rvm upp",
            "rvm up --frob",
            "rvm cp a b",
        ] {
            let words = read(line);
            assert!(lean(&words).is_none(), "{line}");
        }
    }
}
