//! What the end-to-end tests share: a project in a folder of its own, and the `rvm` binary
//! run in it as a user would.
//!
//! | variable | means |
//! |---|---|
//! | `RVM_TEST_BIN` | the binary under test (default: the one that cargo built) |
//! | `RVM_TEST_STORE` | boxes and kernels, built once and kept (default: `rvm-test/store` in the cache) |
//! | `RVM_TEST_TMP` | everything else, removed afterwards (default: `rvm-test/tmp` in the cache) |

pub mod cases;
#[path = "../json_support/mod.rs"]
pub mod shapes;

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that one command may take, in an emulated host under load: boxes and kernels are there.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Run {
    /// The command, for messages.
    pub command: String,
    /// Exit code; 128 + signal for one that was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Everything printed.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    fn show(&self) -> String {
        format!(
            "$ {}\n{}--- standard error\n{}--- exit code {}",
            self.command, self.stdout, self.stderr, self.code
        )
    }

    /// It must have ended with that code.
    #[track_caller]
    pub fn code(self, code: i32) -> Run {
        assert_eq!(self.code, code, "wrong exit code\n{}", self.show());
        self
    }

    /// It must have ended well.
    #[track_caller]
    pub fn ok(self) -> Run {
        self.code(0)
    }

    /// It must have printed that, on either stream, in either case.
    #[track_caller]
    pub fn says(self, part: &str) -> Run {
        let said = self.text().to_lowercase().contains(&part.to_lowercase());
        assert!(said, "`{part}` was not printed\n{}", self.show());
        self
    }

    /// It must not have printed that.
    #[track_caller]
    pub fn says_not(self, part: &str) -> Run {
        assert!(!self.text().contains(part), "`{part}` was printed\n{}", self.show());
        self
    }
}

/// A command that runs.
pub struct Running {
    child: Child,
    command: String,
    stdout: thread::JoinHandle<String>,
    stderr: thread::JoinHandle<String>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let shown = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {shown}: {e}"));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Running { child, command: shown, stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Run {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + LONGEST;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("still running after {} s: {}", LONGEST.as_secs(), self.command);
            }
            thread::sleep(Duration::from_millis(20));
        };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let run = Run {
            command: self.command,
            code,
            stdout: self.stdout.join().unwrap(),
            stderr: self.stderr.join().unwrap(),
        };
        println!("{}\n", run.show());
        run
    }
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn cache(name: &str) -> PathBuf {
    let cache = variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .expect("neither XDG_CACHE_HOME nor HOME is set");
    cache.join("rvm-test").join(name)
}

/// The binary under test.
pub fn binary() -> PathBuf {
    variable("RVM_TEST_BIN").unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_rvm")))
}

/// A project in a folder of its own, with an `$RVM_HOME` of its own that shares only boxes and
/// kernels with others. Its machines are destroyed when it goes; when the test failed, their
/// consoles are printed first.
pub struct Project {
    folder: tempfile::TempDir,
    /// Where the `Vagrantfile` is.
    pub root: PathBuf,
    /// Its `$RVM_HOME`.
    pub home: PathBuf,
    /// A program, and its words, that is to start `rvm`; empty: none.
    pub before: Vec<String>,
}

impl Project {
    /// A project with that `Vagrantfile`; `provider` is written at its top.
    pub fn new(provider: &str, vagrantfile: &str) -> Project {
        let tmp = variable("RVM_TEST_TMP").unwrap_or_else(|| cache("tmp"));
        fs::create_dir_all(&tmp).unwrap();
        // Short names: paths of UNIX sockets end at 107 bytes.
        let folder = tempfile::Builder::new().prefix("t").rand_bytes(5).tempdir_in(&tmp).unwrap();
        let base = folder.path().canonicalize().unwrap();
        let (root, home) = (base.join("project"), base.join("home"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&home).unwrap();
        let store = variable("RVM_TEST_STORE").unwrap_or_else(|| cache("store"));
        for shared in ["boxes", "kernels"] {
            fs::create_dir_all(store.join(shared)).unwrap();
            symlink(store.join(shared), home.join(shared)).unwrap();
        }
        let project = Project { folder, root, home, before: Vec::new() };
        project.vagrantfile(provider, vagrantfile);
        project
    }

    /// Writes the `Vagrantfile` anew. Unless it says how long a boot may take, it may take twice as
    /// long as usual: four emulated processors on two busy ones need it.
    pub fn vagrantfile(&self, provider: &str, text: &str) {
        let patience = if text.contains("boot_timeout") { "" } else { "boot_timeout = \"600s\"\n" };
        self.write("Vagrantfile", &format!("provider = \"{provider}\"\n{patience}{text}"));
    }

    /// Writes a file of the project.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `rvm` in the project's folder. Where the tests run makes no difference: what `rvm` itself asks of its
    /// environment is not handed on, but for the mirror.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.before.split_first() {
            None => Command::new(binary()),
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(binary());
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            let own = name.to_string_lossy();
            if own.starts_with("RVM_") && own != "RVM_MIRROR" || own == "CI" || own == "NO_COLOR" {
                command.env_remove(name);
            }
        }
        command.args(args).current_dir(&self.root).env("RVM_HOME", &self.home);
        command
    }

    /// Starts `rvm`.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }

    /// Runs `rvm` to its end.
    #[track_caller]
    pub fn rvm(&self, args: &[&str]) -> Run {
        self.start(args).wait()
    }

    /// Runs another program to its end, in the project's folder.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> Run {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.root).env("RVM_HOME", &self.home);
        Running::start(command).wait()
    }

    /// What a command in the guest of the only machine prints; it must succeed.
    #[track_caller]
    pub fn ssh(&self, command: &str) -> String {
        self.rvm(&["ssh", "-c", command]).ok().stdout.trim_end().to_owned()
    }

    /// The document that `rvm … --json` prints, of the shape that docs/json.md gives that name.
    #[track_caller]
    pub fn json(&self, shape: &str, args: &[&str]) -> Value {
        let run = self.rvm(&[args, &["--json"]].concat()).ok();
        let document: Value =
            serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.stdout));
        shapes::check(shape, &document);
        document
    }

    /// The machines as `rvm status --json` has them.
    #[track_caller]
    pub fn status(&self) -> Vec<Value> {
        machines(&self.rvm(&["status", "--json"]).ok())
    }

    /// That machine as `rvm status --json` has it.
    #[track_caller]
    pub fn machine(&self, name: &str) -> Value {
        let found = self.status().into_iter().find(|machine| machine["name"] == name);
        found.unwrap_or_else(|| panic!("no machine `{name}` in the project"))
    }

    /// State of that machine.
    #[track_caller]
    pub fn state(&self, name: &str) -> String {
        self.machine(name)["state"].as_str().unwrap().to_owned()
    }

    /// Waits until that machine is in that state.
    #[track_caller]
    pub fn wait_state(&self, name: &str, state: &str) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.state(name) != state {
            assert!(Instant::now() < deadline, "machine `{name}` does not come to be {state}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Folder of that machine.
    #[track_caller]
    pub fn machine_dir(&self, name: &str) -> PathBuf {
        let id = self.machine(name)["id"].as_str().expect("it was created").to_owned();
        self.home.join("machines").join(id)
    }

    fn print_logs(&self) {
        for file in files(&self.home.join("machines")) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.contains("console") || name.ends_with(".log") {
                let text = fs::read(&file).unwrap_or_default();
                let tail = text.len().saturating_sub(6000);
                println!("--- {}\n{}", file.display(), String::from_utf8_lossy(&text[tail..]));
            }
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_logs();
        }
        let pids: Vec<i32> = self.pids();
        let destroyed = self.command(&["destroy", "-f"]).stdin(Stdio::null()).output();
        if !destroyed.is_ok_and(|output| output.status.success()) {
            // The file may be broken on purpose: end what is left of its machines.
            for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = fs::remove_dir_all(self.folder.path());
    }
}

impl Project {
    /// Processes of this project's machines.
    pub fn pids(&self) -> Vec<i32> {
        self.pids_of("__vm", "machines")
    }

    /// Kills the passt of a machine that runs.
    pub fn kill_passt(&self, machine: &str) {
        let port = self.machine(machine)["ssh"]["port"].as_u64().unwrap();
        let word = format!("127.0.0.1/{port}:22");
        let words = |pid: i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Another test may have a network of its own, where the same port is another one.
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let is_it = |pid: &i32| {
            let line = words(*pid);
            let line: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            line.first() == Some(&&b"passt"[..])
                && line.contains(&word.as_bytes())
                && network(&pid.to_string()) == network("self")
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let mut numbers = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
        let pid: i32 = numbers.find(is_it).expect("the machine has no passt");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        // One that is dead and not buried has no words.
        while !words(pid).is_empty() {
            assert!(Instant::now() < deadline, "passt lives on");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills those processes, of which there must be one.
    #[track_caller]
    pub fn kill(&self, word: &str, folder: &str) {
        let pids = self.pids_of(word, folder);
        assert!(!pids.is_empty(), "no process {word}");
        for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
            // One that watches takes along what it watches over.
            let killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            assert!(matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)), "{killed:?}");
        }
    }

    /// Processes that were started with such a word and a folder below that one of the store.
    pub fn pids_of(&self, word: &str, folder: &str) -> Vec<i32> {
        let mine = self.home.join(folder).to_string_lossy().into_owned();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
        numbers
            .filter(|pid: &i32| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let words = String::from_utf8_lossy(&line).into_owned();
                words.contains(word) && words.contains(&mine)
            })
            .collect()
    }
}

/// The list in a `--json` document.
#[track_caller]
pub fn machines(run: &Run) -> Vec<Value> {
    let document: Value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("no JSON ({e}):\n{}", run.show()));
    document["machines"].as_array().expect("a list of machines").clone()
}

/// All regular files below a folder, links not followed.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

/// The answer to an HTTP request for `/` at that port of this host; tries until one comes.
#[track_caller]
pub fn fetch(port: u16) -> String {
    use std::io::Write;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        match answer {
            Ok(text) if !text.is_empty() => return text,
            other => assert!(Instant::now() < deadline, "no answer at port {port}: {other:?}"),
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// A port of this host that nobody listens on at the moment.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// UDP ports of this host that follow each other and that nobody listens on at the moment.
pub fn free_udp_ports() -> [u16; 3] {
    loop {
        let first = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let Some(last) = port.checked_add(2) else { continue };
        if (port + 1..=last).all(|port| std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok()) {
            return [port, port + 1, last];
        }
    }
}
