//! Carries the serial output of a QEMU child into the bounded console log.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use super::CONSOLE_LIMIT;
use crate::vmm::BoundedLog;

/// Starts a thread that ends with the stream.
pub(super) fn pump(mut stream: UnixStream, path: &Path) -> io::Result<JoinHandle<()>> {
    let mut log = BoundedLog::open(path, CONSOLE_LIMIT)?;
    thread::Builder::new().name("console".into()).spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    // A full disk must not stop the guest: what does not fit is dropped.
                    if let Err(error) = log.write_all(buffer.get(..n).unwrap_or_default()) {
                        tracing::warn!(%error, "console output lost");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
        }
    })
}
