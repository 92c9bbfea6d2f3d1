//! Vectored I/O on guest memory.
