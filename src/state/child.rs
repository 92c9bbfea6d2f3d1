//! Processes that end with the one that started them.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Has the kernel send that signal to the process which `command` will be, as soon as the thread that started it is
/// gone, however that came to its end.
pub fn ends_with_us(command: &mut Command, signal: Signal) {
    let parent = getpid();
    let hook = move || {
        set_parent_process_death_signal(Some(signal))?;
        // It may have ended before.
        alive(parent, getppid())
    };
    // SAFETY: the hook makes two system calls and allocates nothing, so it may run between fork and exec.
    unsafe { command.pre_exec(hook) };
}

fn alive(parent: Pid, now: Option<Pid>) -> io::Result<()> {
    if now == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    use std::io::Read;
    use std::process::Stdio;

    #[test]
    fn a_child_goes_with_the_thread_that_started_it() {
        let (tell, told) = std::sync::mpsc::channel();
        let (stay, gone) = std::sync::mpsc::channel::<()>();
        let starter = std::thread::spawn(move || {
            let mut command = Command::new("sh");
            command.args(["-c", "echo ready; exec sleep 600"]).stdout(Stdio::piped());
            ends_with_us(&mut command, Signal::KILL);
            tell.send(command.spawn().unwrap()).unwrap();
            assert!(gone.recv().is_err());
        });
        let mut child = told.recv().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it lives as long as its starter");
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        drop(stay);
        starter.join().unwrap();
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn one_that_comes_too_late_does_not_begin() {
        assert!(alive(getpid(), Some(getpid())).is_ok());
        assert!(alive(getpid(), getppid()).is_err());
    }
}
