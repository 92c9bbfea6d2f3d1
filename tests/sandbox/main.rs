//! The walls around a machine's process, each tried from inside. What is tried runs in a process of
//! its own: this program, started again with the name of the test.

mod calls;
mod files;
mod inside;
mod rights;
