//! The `rvm` command: everything is in the library.

fn main() -> std::process::ExitCode {
    rvm::cli::main()
}
