//! Builds the programs that guests run: `guest/agent`, for `src/image/recipe.rs` to put into boxes, and
//! `guest/relay`, for `src/machine/datagrams.rs` to send to them. Says how `rvm` itself is linked.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Folders in `guest`.
const PROGRAMS: [&str; 2] = ["agent", "relay"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=guest");
    pack_relocations();
    if PROGRAMS.into_iter().all(build) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Compiles one; false when that failed, which it has told.
fn build(name: &str) -> bool {
    let source = format!("guest/{name}/main.rs");
    let (Some(rustc), Some(target), Some(out)) =
        (env::var_os("RUSTC"), env::var_os("TARGET"), env::var_os("OUT_DIR"))
    else {
        println!("cargo::error=cargo did not set RUSTC, TARGET and OUT_DIR");
        return false;
    };
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "--crate-name", name, "--crate-type", "bin"]);
    command.arg("--target").arg(target);
    // No C library and no start files, so that it depends on nothing of the host's or the box's.
    command.args(["-C", "panic=abort", "-C", "opt-level=z", "-C", "strip=symbols"]);
    command.args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"]);
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,noexecstack"] {
        command.arg("-C").arg(format!("link-arg={argument}"));
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        command.arg("-C").arg(option);
    }
    command.arg("-o").arg(PathBuf::from(out).join(name)).arg(&source);
    match command.status() {
        Ok(status) if status.success() => true,
        Ok(status) => {
            println!("cargo::error=compiling {source} ended with {status}");
            false
        }
        Err(error) => {
            println!("cargo::error=cannot run rustc for {source}: {error}");
            false
        }
    }
}

/// Each virtual machine is a process of `rvm` and begins with tens of thousands of addresses to be
/// relocated. Packed they take a fortieth of the space. The loader knows them since glibc 2.36; other
/// linkers than GNU's and LLVM's warn and go on.
fn pack_relocations() {
    let version = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let text = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let number = text.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    if number.is_some_and(|minor| minor >= 36) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
