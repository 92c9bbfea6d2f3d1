//! A client of the control socket that says what it likes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::control::{self, Server, State, Status, Target, Usage};

use crate::rig;

struct Machine;

impl Target for Machine {
    fn status(&self) -> Status {
        Status { state: State::Running, pid: 1, uptime_ms: 2, cpus: 3, memory: 4 }
    }

    fn power_button(&self) -> io::Result<()> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn stop(&self) -> io::Result<()> {
        Ok(())
    }

    fn usage(&self) -> io::Result<Usage> {
        Ok(Usage { memory: 4, ..Usage::default() })
    }

    fn set_balloon(&self, bytes: u64) -> io::Result<()> {
        if bytes > 4 { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }
}

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    static SERVER: OnceLock<(Server, PathBuf)> = OnceLock::new();
    let (_, path) = SERVER.get_or_init(|| {
        let path = rig::folder().join("control.sock");
        (control::serve(control::bind(&path).unwrap(), Arc::new(Machine)).unwrap(), path)
    });
    let said = u.peek_bytes(u.len()).unwrap_or_default();
    let mut stream = control::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may have had enough before all is said.
    let _ = stream.write_all(said);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answers = Vec::new();
    match stream.read_to_end(&mut answers) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
    for line in answers.split_inclusive(|byte| *byte == b'\n') {
        let answer = std::str::from_utf8(line).unwrap();
        assert!(answer.starts_with("{\"ok\":") && answer.ends_with("}\n"), "{answer}");
    }
    Ok(())
}
