//! What a user relies on, as cases that run on either provider.

pub mod bridges;
pub mod console;
mod events;
pub mod faults;
pub mod hardware;
pub mod kept;
pub mod life;
pub mod logins;
pub mod many;
pub mod networks;
pub mod plan;
pub mod programs;
pub mod routed;
pub mod shares;
pub mod steps;
pub mod systems;
pub mod walls;

use std::process::Command;

use crate::common::Project;

/// The small box with little memory: most cases need no more.
pub const MICRO: &str = "box = \"micro\"\nmemory = \"128MiB\"\n";

/// Puts a program that is compiled from `tests/common/NAME.c` into the project's folder, which guests have as `/vagrant`.
fn compile(project: &Project, name: &str) {
    let source = format!("{}/tests/common/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let mut compiler = Command::new("gcc");
    compiler.args(["-Wall", "-Wextra", "-Werror", "-o"]).arg(project.root.join(name)).arg(source);
    let output = compiler.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes one test of each case for that provider.
#[macro_export]
macro_rules! cases {
    ($provider:literal: $($room:ident :: $case:ident),+ $(,)?) => {
        $(#[test]
        fn $case() {
            common::cases::$room::$case($provider);
        })+
    };
}
