//! Whatever the files hold: a project or an error that can be shown, never a panic.

mod schema_support;

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use rvm::config::{self, Host, Inputs};
use schema_support::Validator;

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| Validator::new(config::schema()));

fn try_load(vagrantfile: &[u8], env_file: &[u8]) {
    try_layers(vagrantfile, env_file, None);
}

fn try_layers(vagrantfile: &[u8], env_file: &[u8], local: Option<&[u8]>) {
    let dir = tempfile::tempdir().unwrap();
    if let Some(local) = local {
        std::fs::write(dir.path().join("Vagrantfile.local.toml"), local).unwrap();
    }
    std::fs::write(dir.path().join("Vagrantfile"), vagrantfile).unwrap();
    std::fs::write(dir.path().join(".env"), env_file).unwrap();
    let env = |name: &str| (name.len() == 1).then(|| name.repeat(3));
    let host = Some(Host { cpus: 3, memory: 5 << 30 });
    match config::load_with(&dir.path().join("Vagrantfile"), &Inputs { env: &env, vars: &[], host }) {
        Ok(project) => {
            assert!(!project.machines.is_empty());
            // An editor must find no fault with what the reader takes.
            if local.is_none() {
                let tree: serde_json::Value = toml::from_slice(vagrantfile).unwrap();
                let faults = SCHEMA.faults(&tree);
                assert!(faults.is_empty(), "{faults:?}\n{}", String::from_utf8_lossy(vagrantfile));
            }
        }
        Err(error) => {
            assert!(!error.render(false).is_empty() && !error.render(true).is_empty());
            assert!(!error.problems().is_empty(), "{error}");
            assert!(!error.render(false).contains("hunter2"), "{error}");
        }
    }
}

/// Values of every kind, right and wrong.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?[0-9]{1,20}",
        "\"[a-zA-Z0-9 ./$\\{\\}:\\-_é]{0,16}\"",
        Just("\"${S}\"".to_owned()),
        Just("\"x${S:-}${\"".to_owned()),
        "'[a-c]{0,2}\\{[i0-9+*/%():-]{1,8}\\}'",
        Just("'half'".to_owned()),
        Just("['Vagrantfile.local.toml', 'Vagrantfile']".to_owned()),
        Just("'a{i}'".to_owned()),
        Just("'{i}'".to_owned()),
        Just("'micro'".to_owned()),
        Just("true".to_owned()),
        Just("1.5".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("['a', '${A}', 3]".to_owned()),
        Just("['S', 'A']".to_owned()),
        Just("{ source = 'Vagrantfile', destination = 'x' }".to_owned()),
        Just("[[[]]]".to_owned()),
        Just("'''\nlines\n'''".to_owned()),
    ]
}

fn line() -> impl Strategy<Value = String> {
    const KEYS: [&str; 46] = [
        "box",
        "cpus",
        "memory",
        "disk",
        "hostname",
        "provider",
        "kernel",
        "boot_timeout",
        "halt_timeout",
        "name",
        "rvm_version",
        "env_file",
        "machine",
        "port",
        "provision",
        "guest",
        "host",
        "host_ip",
        "protocol",
        "auto_correct",
        "run",
        "env",
        "shell",
        "path",
        "args",
        "privileged",
        "packages",
        "file",
        "count",
        "include",
        "vars",
        "profile",
        "profiles.a.box",
        "vars.S",
        "groups",
        "primary",
        "autostart",
        "depends_on",
        "message",
        "ready",
        "command",
        "timeout",
        "bx",
        "a.b",
        "\"é\u{7}\"",
        "''",
    ];
    let headers = [
        "[[machine]]",
        "[[port]]",
        "[[ready]]",
        "[[provision]]",
        "[[machine.port]]",
        "[[machine.ready]]",
        "[[machine.provision]]",
        "[vars]",
        "[profiles.a]",
        "[x]",
    ];
    prop_oneof![
        8 => (prop::sample::select(KEYS.to_vec()), value()).prop_map(|(key, value)| format!("{key} = {value}")),
        3 => prop::sample::select(headers.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(vagrantfile in prop::collection::vec(any::<u8>(), 0..300), env in prop::collection::vec(any::<u8>(), 0..100)) {
        try_load(&vagrantfile, &env);
    }

    #[test]
    fn any_text(vagrantfile in "\\PC{0,200}", env in "\\PC{0,80}") {
        try_load(vagrantfile.as_bytes(), env.as_bytes());
    }

    #[test]
    fn any_mix_of_keys(lines in prop::collection::vec(line(), 0..24)) {
        let text = format!("box = 'micro'\n{}\n", lines.join("\n"));
        try_load(text.as_bytes(), b"S=hunter2\nRVM_SSH_USER=-hunter2\n");
        try_load(lines.join("\n").as_bytes(), b"S=hunter2\n");
    }

    #[test]
    fn any_mix_of_layers(lines in prop::collection::vec(line(), 0..16), local in prop::collection::vec(line(), 0..16)) {
        let text = format!("box = 'micro'\n{}\n", lines.join("\n"));
        try_layers(text.as_bytes(), b"S=hunter2\n", Some(local.join("\n").as_bytes()));
    }
}

/// What this thread has used of a processor: the same on a busy machine.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Large files of the worst kinds are told about within a time that a user would wait.
#[test]
fn large_files_take_no_time() {
    let repeat = |text: &str| text.repeat(1_000_000 / text.len());
    let numbered = |count: usize, make: &dyn Fn(usize) -> String| (0..count).map(make).collect::<String>();
    let files = [
        repeat("[[machine]]\n"),
        repeat("[[port]]\n"),
        numbered(70_000, &|n| format!("k{n} = {n}\n")),
        format!("box = \"{}\"", repeat("${")),
        format!("box = \"{}\"", repeat("${A-}")),
        format!("box = \"{}\"", repeat("${AB}")),
        format!("x = {}", repeat("[")),
        repeat("a."),
        repeat("\""),
        format!("box = 'micro'\n{}", repeat("[[provision]]\nshell = 'x'\n")),
        format!(
            "box = 'micro'\n{}{}",
            numbered(1000, &|n| format!(
                "[[port]]\nguest = 1\nhost = 80\nhost_ip = '127.1.{}.{}'\n",
                n / 250,
                n % 250
            )),
            numbered(256, &|n| format!("[[machine]]\nname = 'm{n}'\n"))
        ),
        format!(
            "box = 'micro'\n[[machine]]\nname = 'a'\ncount = 256\n{}",
            numbered(1000, &|n| format!(
                "[[machine.provision]]\nname = 'x{n}'\npath = 'Vagrantfile'\nargs = ['{{i+{n}}}']\n"
            ))
        ),
        format!(
            "box = 'micro'\nmessage = '{}'\n[[machine]]\nname = 'a'\ncount = 256\n",
            "{i}".repeat(300_000)
        ),
        format!("box = 'micro'\nmessage = '{}'\n", "${LONG}".repeat(100_000)),
        format!(
            "box = 'micro'\n[vars]\n{}",
            numbered(1000, &|n| format!("V{n} = '${{V{}}}${{V{}}}'\n", n + 1, n * 7 % 1000))
        ),
        format!("box = 'micro'\n{}", numbered(30_000, &|n| format!("[profiles.p{n}]\ncpus = 0\n"))),
        // Everyone waits for everyone, by name and by group.
        format!(
            "box = 'micro'\ngroups = [{0}]\n{1}",
            numbered(64, &|n| format!("'g{n}', ")),
            numbered(256, &|n| format!(
                "[[machine]]\nname = 'm{n}'\ndepends_on = [{}]\n",
                numbered(250, &|n| format!("'{}{n}', ", if n < 64 { 'g' } else { 'm' }))
            ))
        ),
    ];
    for file in files {
        let start = processor_time();
        let env = if file.contains("${LONG}") {
            format!("LONG={}\n", "x".repeat(1_000_000))
        } else {
            repeat("A='x\n")
        };
        try_load(file.as_bytes(), env.as_bytes());
        let took = processor_time() - start;
        assert!(took < Duration::from_secs(20), "{took:?} for {}…", &file[..40]);
    }
}
