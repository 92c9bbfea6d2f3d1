//! `docker` steps: the engine, images, containers. What runs in the guest is `docker.sh`, with a call for each
//! thing that is to be; it travels over standard input, so that values of the ENV file are on no command line.

mod archive;

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::content::open;
use super::guest::Guest;
use super::lines::Lines;
use super::upload::{Exactly, UploadError};
use crate::model::{Cancel, Container, Docker, hex};
use crate::ssh::{ExecStatus, Input, SshError, in_guest, quote};

pub(super) use archive::{Archive, read};

const FUNCTIONS: &str = include_str!("docker.sh");
const LOAD: &str = include_str!("load.sh");
/// Exit code of `load.sh` when all is well.
const DONE: i32 = 223;

/// Networks that the engine has by itself.
const NETWORKS: [&str; 3] = ["bridge", "host", "none"];

/// The script that makes the engine run.
pub(super) fn engine_script() -> String {
    format!("{FUNCTIONS}\nengine\n")
}

/// The script that brings images and containers about. It holds secrets.
pub(super) fn script(step: &str, docker: &Docker) -> String {
    let mut script = engine_script();
    for image in &docker.images {
        script.push_str(&format!("image {}\n", quote(image)));
    }
    let networks = docker.containers.iter().filter_map(|container| container.network.as_deref());
    for network in networks.filter(|name| !NETWORKS.contains(name) && !name.starts_with("container:")) {
        script.push_str(&format!("network {}\n", quote(network)));
    }
    for container in &docker.containers {
        script.push_str(&call(step, container));
    }
    if docker.remove {
        let names: Vec<String> = docker.containers.iter().map(|container| quote(&container.name)).collect();
        script.push_str(&format!("keep_only {} {}\n", quote(step), names.join(" ")));
    }
    script
}

/// In a shell of its own, which has the variables in its environment: `docker run -e NAME` takes them from there.
fn call(step: &str, container: &Container) -> String {
    let mut text = "(\ntrap - EXIT\n".to_owned();
    for (name, value) in &container.env {
        // Names are words; see `config`.
        text.push_str(&format!("export {name}={}\n", quote(value.expose())));
    }
    let digest = digest(container);
    let words = [step, &digest, &container.name, &container.image].map(quote);
    text.push_str(&format!("container {}", words.join(" ")));
    let options = options(container);
    for word in options.iter().map(String::as_str).chain(["--"]) {
        text.push_str(&format!(" {}", quote(word)));
    }
    for word in &container.command {
        text.push_str(&format!(" {}", quote(word)));
    }
    text.push_str("\n) || exit\n");
    text
}

fn options(container: &Container) -> Vec<String> {
    let mut words = vec!["--restart".to_owned(), container.restart.as_str().to_owned()];
    let mut add = |option: &str, list: &mut dyn Iterator<Item = &str>| {
        for word in list {
            words.extend([option.to_owned(), word.to_owned()]);
        }
    };
    add("-p", &mut container.ports.iter().map(String::as_str));
    add("-v", &mut container.volumes.iter().map(String::as_str));
    add("-e", &mut container.env.iter().map(|(name, _)| name.as_str()));
    add("--network", &mut container.network.iter().map(String::as_str));
    words.extend(container.options.iter().cloned());
    words
}

/// The digest of all that a container is made of but its image's content. It stands in the container's labels,
/// which whoever may read them could compare with its variables beside them.
pub(super) fn digest(container: &Container) -> String {
    let mut hash = Sha256::new();
    let mut field = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    field("rvm container, version 1");
    for word in [&container.name, &container.image] {
        field(word);
    }
    for list in [&options(container), &container.command] {
        field(&list.len().to_string());
        list.iter().for_each(|word| field(word));
    }
    container.env.iter().for_each(|(_, value)| field(value.expose()));
    hex(&hash.finalize())
}

/// Loads an archive into the engine that runs, unless it has the images in it.
pub(super) fn load(
    guest: &dyn Guest,
    path: &Path,
    archive: &Archive,
    sudo: bool,
    lines: &mut Lines<'_>,
    cancel: &Cancel,
    timeout: Option<std::time::Duration>,
) -> Result<ExecStatus, UploadError> {
    let images = archive.images.iter().map(|(name, id)| format!("{name}={id}"));
    let words: Vec<String> = ["ask".to_owned()].into_iter().chain(images).collect();
    let mut nothing = |_, _: &[u8]| ();
    let asked = guest.exec(&in_guest(LOAD, &words, sudo), Input::None, &mut nothing, cancel, timeout)?;
    if asked.code == DONE {
        return Ok(ExecStatus::of_code(0));
    }
    let (file, meta) = open(path).map_err(UploadError::Source)?;
    let mut reader = Exactly::new(file, meta.len());
    let mut out = |stream, data: &[u8]| lines.take(stream, data);
    let command = in_guest(LOAD, &["load".to_owned()], sudo);
    let result = guest.exec(&command, Input::Reader(&mut reader), &mut out, cancel, timeout);
    lines.flush();
    Ok(match result? {
        ExecStatus { code: DONE, .. } => ExecStatus::of_code(0),
        // The script has no way to end with 0.
        ExecStatus { code: 0, signal, .. } => ExecStatus { signal, ..ExecStatus::of_code(1) },
        status => status,
    })
}

/// Whether the guest has the client.
pub(super) fn is_installed(guest: &dyn Guest, cancel: &Cancel) -> Result<bool, SshError> {
    let command = "sh -c 'command -v docker >/dev/null && exit 223; exit 1'";
    let mut nothing = |_, _: &[u8]| ();
    Ok(guest.exec(command, Input::None, &mut nothing, cancel, None)?.code == DONE)
}
