//! Commands of Vagrant, Lima, Multipass and Compose that are called otherwise here, or are not there.

/// Words, and what serves instead.
const INSTEAD: &[(&[&str], &str)] = &[
    (
        &["suspend", "pause", "save"],
        "`rvm halt` stops a machine and keeps its disk; the memory of one cannot be kept",
    ),
    (&["resume", "unpause", "start", "launch", "create"], "`rvm up` makes a machine and starts it"),
    (&["snapshot", "snapshots", "restore"], "there are no snapshots of machines"),
    (&["stop", "down", "shutdown", "poweroff"], "`rvm halt` stops machines, `rvm destroy` removes them"),
    (&["restart", "reboot"], "`rvm reload` stops machines and starts them again"),
    (&["delete", "remove", "rm", "purge"], "`rvm destroy` removes machines"),
    (&["shell", "connect"], "`rvm ssh` logs in to a machine"),
    (&["run"], "`rvm exec NAME -- PROGRAM` runs a program in a machine"),
    (&["list", "ls", "ps", "info"], "`rvm status` shows this project's machines, `rvm global-status` all"),
    (&["scp", "transfer", "download"], "`rvm copy` copies files both ways"),
    (&["package"], "machines cannot be packed into boxes"),
    (&["plugin", "plugins"], "rvm has no plug-ins"),
    (&["autocomplete"], "`rvm completion` prints the script for a shell"),
    (&["provider", "providers"], "`rvm doctor` says what can run machines on this host"),
    (&["cloud", "login", "push", "share"], "rvm has no service behind it"),
    (&["cap"], "steps find out by themselves what a guest is"),
    (
        &["docker-exec", "docker-logs", "docker-run"],
        "`rvm exec NAME -- docker …` talks to an engine in a machine",
    ),
    (&["winrm", "winrm-config", "powershell", "rdp"], "guests are Linux: `rvm ssh` logs in to one"),
    (&["update", "upgrade"], "`rvm lock --update` builds boxes with the packages of today"),
    (&["prune"], "`rvm box remove` removes boxes, `rvm global-status --prune` what cut-off commands left"),
    (&["clone", "rename", "mv"], "the Vagrantfile names the machines; `rvm plan` says what a change does"),
    (&["config"], "`rvm validate` checks the Vagrantfile, `rvm plan` says what it comes to"),
];

/// The same below `box`.
const OF_BOXES: &[(&[&str], &str)] = &[
    (&["outdated", "update"], "`rvm lock --update` builds boxes with the packages of today"),
    (&["prune", "rm", "delete"], "`rvm box remove` removes a box that no machine uses"),
    (&["repackage"], "machines cannot be packed into boxes"),
    (&["ls"], "`rvm box list` shows them"),
];

/// What there is instead of a command, which is the last of these words; `None` for one that is nobody's.
pub fn instead(words: &[&str]) -> Option<&'static str> {
    let (list, word) = match words {
        [word] => (INSTEAD, word),
        ["box", word] => (OF_BOXES, word),
        _ => return None,
    };
    list.iter().find(|(words, _)| words.contains(word)).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn commands_that_there_are_lead_nowhere_else() {
        let tree = super::super::Cli::command();
        for command in tree.get_subcommands() {
            for name in command.get_name_and_visible_aliases() {
                assert_eq!(instead(&[name]), None, "{name}");
            }
            for below in command.get_subcommands() {
                assert_eq!(instead(&[command.get_name(), below.get_name()]), None, "{}", below.get_name());
            }
        }
    }
}
