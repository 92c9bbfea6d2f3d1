//! Programs and files in a machine that runs: `exec`, `copy`, `upload`.

use std::io::Write;
use std::process::{Output, Stdio};
use std::thread;

use crate::common::Project;

/// Runs `rvm` with that on its standard input.
fn fed(project: &Project, words: &[&str], input: &[u8]) -> Output {
    let mut command = project.command(words);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that does not read on breaks the pipe.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

/// Every byte in every place, 1 MiB and a bit.
fn binary() -> Vec<u8> {
    (0..(1u32 << 20) + 13).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Exit codes, signals, words and 1 MiB of anything, there and back.
pub fn programs_are_as_if_they_ran_here(project: &Project) {
    let run = |words: &[&str]| fed(project, words, b"");
    let exits = |words: &[&str], code: i32| {
        let output = run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    };
    exits(&["exec", "--", "true"], 0);
    exits(&["exec", "--", "sh", "-c", "exit 77"], 77);
    // 128 and the number of the signal.
    exits(&["exec", "--", "sh", "-c", "kill -TERM $$"], 143);
    exits(&["exec", "--", "sh", "-c", "kill -9 $$"], 137);
    exits(&["exec", "--", "no-such-program"], 127);

    let words =
        run(&["exec", "-w", "/tmp", "default", "--", "printf", "%s|", "two words", "$HOME", "it's", ""]);
    assert_eq!(words.stdout, b"two words|$HOME|it's||");
    let apart = run(&["exec", "--", "sh", "-c", "echo out; echo err >&2; pwd"]);
    assert_eq!(
        (apart.stdout.as_slice(), apart.stderr.as_slice()),
        (&b"out\n/home/vagrant\n"[..], &b"err\n"[..])
    );

    let data = binary();
    let echoed = fed(project, &["exec", "--", "cat"], &data);
    assert!(
        echoed.status.success() && echoed.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&echoed.stderr)
    );
    assert!(echoed.stdout == data, "{} of {} bytes came back", echoed.stdout.len(), data.len());
    // A program that stops reading ends by itself.
    let head = fed(project, &["exec", "--", "head", "-c", "5"], &data);
    assert_eq!((head.status.code(), head.stdout.as_slice()), (Some(0), &data[..5]));
}

/// Files and folders both ways, by a pipe, as root, into a folder of the guest's own choice.
pub fn files_go_both_ways(project: &Project) {
    let data = binary();
    let path = |name: &str| project.root.join(name);
    std::fs::write(path("data.bin"), &data).unwrap();
    project.rvm(&["cp", "data.bin", "default:sub.bin"]).ok();
    project.rvm(&["copy", "default:sub.bin", "back.bin"]).ok();
    assert!(std::fs::read(path("back.bin")).unwrap() == data, "the file is another one");
    let piped = fed(project, &["cp", "-", "default:piped.bin"], &data);
    assert!(piped.status.success(), "{piped:?}");
    let out = fed(project, &["cp", "default:piped.bin", "-"], b"");
    assert!(out.status.success() && out.stdout == data, "{} bytes", out.stdout.len());

    project.write("tree/a", "a");
    project.write("tree/sub/b", "b");
    project.rvm(&["cp", "-r", "tree", "default:/tmp/there"]).ok();
    project.rvm(&["cp", "-r", "default:/tmp/there", "tree-back"]).ok();
    assert_eq!(std::fs::read_to_string(path("tree-back/sub/b")).unwrap(), "b");
    project.rvm(&["cp", "default:/etc/shadow", "shadow"]).code(1);
    project.rvm(&["cp", "--sudo", "default:/etc/shadow", "shadow"]).ok();
    assert!(std::fs::read_to_string(path("shadow")).unwrap().contains("vagrant:"));
    project.rvm(&["cp", "default:no/such/file", "."]).code(1).says("no/such/file");

    let folder = project.rvm(&["upload", "--temporary", "tree"]).ok().stdout;
    let listed = project.rvm(&["exec", "--", "find", folder.trim(), "-type", "f"]).ok().stdout;
    assert_eq!(listed.lines().count(), 2, "{folder}: {listed}");
    project.rvm(&["upload", "data.bin", "/tmp/uploaded"]).ok();
    assert_eq!(project.ssh("wc -c < /tmp/uploaded").trim(), data.len().to_string());
}
