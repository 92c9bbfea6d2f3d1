//! The few words of QMP (QEMU Machine Protocol) that a supervisor needs.
//!
//! Source: QEMU documentation, "QEMU Machine Protocol Specification": JSON objects, one a line;
//! a greeting, `qmp_capabilities`, then commands answered by `return` or `error`, with `event`
//! objects in between.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

/// QEMU answers a command at once; one that is busy for this long is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest line taken from QEMU, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// A connection past the greeting.
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Takes a connected socket, reads the greeting and leaves negotiation mode.
    pub(super) fn negotiate(stream: UnixStream) -> io::Result<Qmp> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let writer = stream.try_clone()?;
        let mut qmp = Qmp { reader: BufReader::new(stream), writer };
        qmp.read_object()?;
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Runs a command without arguments; its answer's `return` member.
    pub(super) fn execute(&mut self, command: &str) -> io::Result<Value> {
        writeln!(self.writer, "{}", json!({ "execute": command }))?;
        loop {
            let mut object = self.read_object()?;
            if let Some(error) = object.get("error") {
                return Err(io::Error::other(format!("QEMU refuses {command}: {error}")));
            }
            if let Some(value) = object.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn read_object(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_slice(&line).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_between_are_passed_over() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs
            .write_all(b"{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"RESET\"}\n{\"return\":{\"running\":true}}\n{\"error\":{\"desc\":\"no\"}}\n")
            .unwrap();
        let mut qmp = Qmp::negotiate(ours).unwrap();
        assert_eq!(qmp.execute("query-status").unwrap()["running"], json!(true));
        assert!(qmp.execute("system_powerdown").unwrap_err().to_string().contains("system_powerdown"));
    }

    #[test]
    fn a_closed_or_garbled_stream_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(Qmp::negotiate(ours).is_err());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"hello\n").unwrap();
        assert!(Qmp::negotiate(ours).is_err());
    }
}
