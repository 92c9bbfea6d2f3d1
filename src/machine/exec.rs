//! Commands and files over SSH, in a machine that runs.

use super::{MachineError, Machines};
use crate::model::{Project, Stream};
use crate::ssh::{Input, Program, Session};

impl Machines<'_> {
    /// A connection to a running machine.
    pub fn session(&self, project: &Project, name: &str) -> Result<Session, MachineError> {
        let record = self.running(&project.root, name)?;
        self.connect(&project.login_for(name), &record)
    }

    /// Runs one line of shell without a terminal: output goes to `out` as it comes, the guest's exit
    /// code comes back.
    pub fn exec(
        &self,
        project: &Project,
        name: &str,
        command: &str,
        out: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<i32, MachineError> {
        let session = self.session(project, name)?;
        Ok(session.exec(command, Input::None, out, &self.cancel, None)?.code)
    }

    /// Runs a program as [`Session::run`] does. That the machine ended meanwhile is told from a connection
    /// that broke for another reason.
    pub fn run_program(
        &self,
        project: &Project,
        name: &str,
        program: Program<'_>,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        started: &mut dyn FnMut(u32),
    ) -> Result<i32, MachineError> {
        let session = self.session(project, name)?;
        let result = session.run(program, input, out, started, &self.cancel);
        result.map_err(|error| self.lost(project, name, error.into()))
    }

    /// What a lost connection means: the machine may have ended.
    pub(super) fn lost(&self, project: &Project, name: &str, error: MachineError) -> MachineError {
        if !matches!(&error, MachineError::Ssh(crate::ssh::SshError::Lost { .. })) {
            return error;
        }
        match self.status(project, name) {
            Ok(status) if self.has_ended(&status).unwrap_or(false) => {
                let cause = self.status(project, name).ok().and_then(|status| status.cause);
                MachineError::Ended { name: name.into(), cause: cause.unwrap_or_default() }
            }
            _ => error,
        }
    }
}
