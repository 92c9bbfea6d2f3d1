//! A Vagrantfile, an ENV file and a local layer as somebody wrote them.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::config;

use crate::rig;

/// Ends the Vagrantfile, and the ENV file that follows; then comes the local layer. No UTF-8 text
/// holds this byte.
const END: u8 = 0xff;

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let data = u.peek_bytes(u.len()).unwrap_or_default();
    let mut parts = data.splitn(3, |byte| *byte == END);
    let vagrantfile = rig::file("Vagrantfile", parts.next().unwrap_or_default());
    rig::file(".env", parts.next().unwrap_or_default());
    rig::file("Vagrantfile.local.toml", parts.next().unwrap_or_default());
    let env = |name: &str| (name.len() == 1).then(|| name.repeat(3));
    let host = Some(config::Host { cpus: 3, memory: 5 << 30 });
    match config::load_with(&vagrantfile, &config::Inputs { env: &env, vars: &[], host }) {
        Ok(project) => assert!(!project.machines.is_empty()),
        Err(error) => {
            assert!(!error.render(false).is_empty() && !error.render(true).is_empty());
            assert!(!error.problems().is_empty(), "{error}");
        }
    }
    Ok(())
}
