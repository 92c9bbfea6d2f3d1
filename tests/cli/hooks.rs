//! Hooks on the host: none of these needs a machine.

use super::Place;

const FILE: &str = r#"
box = "micro"

[[machine]]
name = "web"
groups = ["front"]

[[machine]]
name = "db"

[[hook]]
before = "provision"
machines = ["front"]
name = "note"
env = ["TOKEN"]
shell = "echo \"$RVM_HOOK of $RVM_MACHINE in $RVM_PROJECT with $TOKEN\"; echo \"pw <$RVM_SSH_PASSWORD>\""

[[hook]]
before = ["up", "provision"]
on_error = "continue"
shell = "exit 3"

[[hook]]
before = "provision"
name = "gate"
shell = "[ -e open ] || { echo closed; exit 4; }"

[[hook]]
after = "provision"
shell = "echo not here"

[[hook]]
before = "provision"
on = "guest"
shell = "echo not here either"
"#;

fn place() -> Place {
    let place = Place::with(FILE);
    place.write(".env", "TOKEN=s3cr3t-token\n");
    place
}

#[test]
fn a_hook_that_fails_before_a_command_keeps_it_from_beginning() {
    let place = place();
    let ran = place.run(&["provision", "web"]);
    let text = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, 1, "{text}");
    assert!(
        text.contains("web: before provision of web in [DIR]/project") && text.contains(" with ***"),
        "{text}"
    );
    assert!(text.contains("pw <>") && !text.contains("s3cr3t"), "{text}");
    // The one that may fail is told and passed over.
    assert!(text.contains("warning: ") && text.contains("hook-2") && text.contains("exit code 3"), "{text}");
    assert!(text.contains("web: closed") && text.contains("hook `gate` before provision"), "{text}");
    assert!(text.contains("was not begun"), "{text}");
    assert!(!text.contains("not here"), "{text}");
}

#[test]
fn a_hook_is_for_its_machines_and_commands_alone() {
    let place = place();
    place.write("open", "");
    let ran = place.run(&["provision", "db"]);
    let text = format!("{}{}", ran.stdout, ran.stderr);
    // Every hook before has run, but for the one in a guest that there is not; then the command fails.
    assert!(!text.contains("of web") && !text.contains("of db"), "{text}");
    assert!(text.contains("not run, the machine is not running"), "{text}");
    assert!(text.contains("`db` is not created") && !text.contains("not here"), "{text}");
    let text = place.run(&["halt"]).stdout;
    assert!(!text.contains("hook"), "{text}");
}

#[test]
fn what_a_hook_calls_has_no_hooks_of_its_own() {
    let vagrantfile = format!(
        "box = 'micro'\n[[hook]]\nbefore = 'provision'\nshell = '''\necho round; {} provision\n'''\n",
        env!("CARGO_BIN_EXE_rvm")
    );
    let place = Place::with(vagrantfile);
    let ran = place.run(&["provision"]);
    assert_eq!(ran.stdout.matches("round").count(), 1, "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn a_hook_that_hangs_is_ended_when_its_time_is_up() {
    let place = Place::with(
        "box = 'micro'\n[[hook]]\nbefore = 'provision'\nname = 'wait'\ntimeout = '1s'\n\
         shell = 'echo begun; sleep 4243'\n",
    );
    let ran = place.run(&["provision"]);
    let text = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, 1, "{text}");
    for part in ["begun", "hook `wait` before provision", "within 1 s", "was not begun"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let left = std::process::Command::new("pgrep").args(["-f", "slee[p] 4243"]).output().unwrap();
    assert_eq!(left.stdout, b"", "its processes are ended too");
}

/// A lock or a pipe of the caller's would be held by the processes of a machine as long as that runs.
#[test]
fn files_that_the_caller_left_open_are_nobodys_else() {
    let hook = "[[hook]]\nbefore = \"up\"\nshell = \"ls -l /proc/$$/fd; exit 1\"\n";
    let place = Place::with(format!("box = \"micro\"\n{hook}"));
    place.write("mine", "");
    let mut command = std::process::Command::new("sh");
    let rvm = place.command(&[]);
    command.args(["-c", "exec 7<mine; exec \"$1\" up", "sh"]).arg(rvm.get_program());
    command.env_clear().current_dir(place.project());
    command.envs(rvm.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = place.finish(command.output().unwrap());
    assert_eq!(ran.code, 1);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains(" 1 -> ") && !said.contains("project/mine"), "{said}");
}
