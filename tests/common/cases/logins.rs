//! Credentials from `.env`, right and wrong.

use super::MICRO;
use crate::common::Project;

fn keygen(project: &Project, name: &str) {
    let path = project.root.join(name);
    project.run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", path.to_str().unwrap()]).ok();
}

/// A password and a key of the user's own let in; wrong ones are named, and nothing is lost.
pub fn wrong_credentials_are_named(provider: &str) {
    let project = Project::new(provider, MICRO);
    project.write(".env", "RVM_SSH_PASSWORD=correct-horse-4711\n");
    project.rvm(&["up"]).ok().says_not("correct-horse-4711");
    assert_eq!(project.ssh("id -un"), "vagrant");

    project.write(".env", "RVM_SSH_PASSWORD=wrong-horse-0815\n");
    project.rvm(&["ssh", "-c", "true"]).code(1).says("password").says_not("wrong-horse-0815");
    project.rvm(&["provision"]).code(1).says("password").says_not("wrong-horse-0815");

    keygen(&project, "stranger");
    project.write(".env", "RVM_SSH_KEY=stranger\n");
    project.rvm(&["ssh", "-c", "true"]).code(1).says("key").says("stranger");
    // The next start hands the key to the guest.
    project.rvm(&["reload"]).ok();
    assert_eq!(project.ssh("id -un"), "vagrant");

    project.write(".env", "");
    assert_eq!(project.ssh("id -un"), "vagrant", "without credentials the machine's own key serves");
}

/// Key files that cannot serve are refused before a machine is made.
pub fn bad_key_files_are_refused_early(provider: &str) {
    use std::os::unix::fs::PermissionsExt;
    let project = Project::new(provider, MICRO);
    project.write(".env", "RVM_SSH_KEY=missing\n");
    project.rvm(&["up"]).code(2).says("missing");
    project.write("garbage", "this is no key\n");
    project.write(".env", "RVM_SSH_KEY=garbage\n");
    let mode = |name: &str, mode: u32| {
        let path = project.root.join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("garbage", 0o600);
    assert_ne!(project.rvm(&["up"]).says("garbage").code, 0);
    keygen(&project, "open");
    mode("open", 0o644);
    project.write(".env", "RVM_SSH_KEY=open\n");
    assert_ne!(project.rvm(&["up"]).says("open").says("chmod 600").code, 0);
    mode("open", 0o600);
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("id -un"), "vagrant");
}
