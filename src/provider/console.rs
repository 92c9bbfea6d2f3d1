//! Carries the serial output of a QEMU child into the bounded console log.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use crate::vmm::{BoundedLog, sandbox};

/// Starts a thread that ends with the stream.
pub(super) fn pump(mut stream: UnixStream, mut log: BoundedLog) -> io::Result<JoinHandle<()>> {
    sandbox::spawn("console", move || {
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
