//! `docker = { … }` in a step.

use std::net::IpAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use crate::model::{Container, Docker, Restart, Secret, StepKind};

use super::keys::Place;
use super::report::brief;
use super::vars::{Text, is_name};
use super::walk::{Reader, Sp, Table};

const RESTART: [(&str, Restart); 4] = [
    ("no", Restart::No),
    ("on-failure", Restart::OnFailure),
    ("always", Restart::Always),
    ("unless-stopped", Restart::UnlessStopped),
];
/// Longest name of a container or network, longest reference of an image.
const LONGEST: usize = 255;

impl Reader<'_> {
    pub(super) fn docker(&mut self, table: &Table<'_>) -> Option<StepKind> {
        let value = table.raw("docker")?;
        let Some(entries) = value.get_ref().as_table() else {
            let help = "write `docker = { images = [\"redis:7\"] }`, or a table `[provision.docker]`";
            self.wrong(&value.span(), "`docker` says neither which images nor which containers", help);
            return None;
        };
        let docker = self.open(entries, value.span(), Place::Docker);
        let archives = self.archives(&docker);
        let images = self.checked(&docker, "images", "\"redis:7\"", is_image, "the name of an image");
        let remove = self.boolean(&docker, "remove").unwrap_or(false);
        let mut containers: Vec<Container> = Vec::new();
        let mut fine = true;
        for table in self.tables(&docker, "container", Place::Container) {
            match self.container(&table) {
                Some(container) if containers.iter().any(|other| other.name == container.name) => {
                    fine = false;
                    let message = format!("two containers are called `{}`", container.name);
                    self.wrong(&table.span, message, "give one of them another `name`");
                }
                Some(container) => containers.push(container),
                None => fine = false,
            }
        }
        let (archives, images) = (archives?, images?);
        if fine && archives.is_empty() && images.is_empty() && containers.is_empty() && !remove {
            self.wrong(&docker.span, "`docker` is empty", "name `images`, `archives` or a `container`");
            return None;
        }
        fine.then(|| StepKind::Docker(Box::new(Docker { archives, images, containers, remove })))
    }

    fn archives(&mut self, table: &Table<'_>) -> Option<Vec<PathBuf>> {
        if table.raw("archives").is_none() {
            return Some(Vec::new());
        }
        let given = self.texts(table, "archives", "[\"images/app.tar\"]")?;
        let mut paths = Vec::new();
        for text in &given {
            paths.extend(self.host_file(text, "archive", "name what `docker save` wrote"));
        }
        (paths.len() == given.len()).then_some(paths)
    }

    fn container(&mut self, table: &Table<'_>) -> Option<Container> {
        for (key, example) in [("name", "cache"), ("image", "redis:7")] {
            if table.raw(key).is_none() {
                let help = format!("add `{key} = \"{example}\"`");
                self.wrong(&table.span, format!("this container has no `{key}`"), help);
            }
        }
        let name = self.word(table, "name", "\"cache\"", is_container);
        let image = self.word(table, "image", "\"redis:7\"", is_image);
        let network = match table.raw("network") {
            Some(_) => self.word(table, "network", "\"backend\"", is_container).map(Some),
            None => Some(None),
        };
        let ports = self.checked(table, "ports", "\"8080:80\"", is_publication, "a port such as \"8080:80\"");
        let volumes =
            self.checked(table, "volumes", "\"/srv/data:/data\"", is_volume, "such as \"/srv/data:/data\"");
        let command = self.checked(table, "command", "\"redis-server\"", |_| true, "");
        let options = self.checked(table, "options", "\"--read-only\"", |_| true, "");
        let restart = self.choice(table, "restart", &RESTART).map(|word| word.value).unwrap_or_default();
        let env = self.container_env(table);
        Some(Container {
            name: name?,
            image: image?,
            ports: ports?,
            env: env?,
            volumes: volumes?,
            command: command?,
            restart,
            network: network?,
            options: options?,
        })
    }

    /// A string that goes on a command line in the guest.
    fn word(
        &mut self,
        table: &Table<'_>,
        key: &str,
        example: &str,
        fits: fn(&str) -> bool,
    ) -> Option<String> {
        let text = self.text(table, key, example)?;
        self.for_all_to_see(&text, key)?;
        if !fits(&text.value.value) {
            let message = format!("`{key}` cannot be {:?}", brief(&text.value.shown));
            self.wrong(&text.span, message, format!("write it as docker takes it, such as {example}"));
            return None;
        }
        Some(text.value.value)
    }

    /// Likewise a list; the list of a key that is not there is empty.
    fn checked(
        &mut self,
        table: &Table<'_>,
        key: &str,
        example: &str,
        fits: fn(&str) -> bool,
        what: &str,
    ) -> Option<Vec<String>> {
        if table.raw(key).is_none() {
            return Some(Vec::new());
        }
        let texts = self.texts(table, key, &format!("[{example}]"))?;
        let mut fine = true;
        for text in &texts {
            if self.for_all_to_see(text, key).is_none() {
                fine = false;
            } else if !fits(&text.value.value) {
                fine = false;
                let message = format!("{:?} is not {what}", brief(&text.value.shown));
                self.wrong(&text.span, message, format!("write it as docker takes it, such as {example}"));
            }
        }
        fine.then(|| texts.into_iter().map(|text| text.value.value).collect())
    }

    fn for_all_to_see(&mut self, text: &Sp<Text>, key: &str) -> Option<()> {
        let (message, help) = match &text.value.secret {
            Some(name) => (
                format!("`{name}` is from the ENV file, and `{key}` can be seen by all in the guest"),
                format!("hand it in by `env = {{ {name} = \"${{{name}}}\" }}`"),
            ),
            None if text.value.value.contains('\0') => {
                (format!("an entry of `{key}` holds a NUL character"), "remove it".to_owned())
            }
            None => return Some(()),
        };
        self.wrong(&text.span, message, help);
        None
    }

    /// `env = { NAME = "value" }`.
    fn container_env(&mut self, table: &Table<'_>) -> Option<Vec<(String, Secret)>> {
        let Some(value) = table.raw("env") else { return Some(Vec::new()) };
        let Some(entries) = value.get_ref().as_table() else {
            let help = "write `env = { NAME = \"value\", DB_PASSWORD = \"${DB_PASSWORD}\" }`";
            self.wrong(&value.span(), "`env` of a container is a table of names and values", help);
            return None;
        };
        let mut env = Vec::new();
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            // They would change what the client in the guest does.
            let taken = ["DOCKER_", "LD_"].iter().any(|begin| name.starts_with(begin));
            if !is_name(name) || taken {
                let message = format!("a container cannot have a variable {:?}", brief(name));
                let help = "names are words of letters, digits and `_`; `DOCKER_…` and `LD_…` are taken";
                self.wrong(&key.span(), message, help);
                continue;
            }
            let text = match value.get_ref() {
                DeValue::String(_) => self.fill(value).map(|text| text.value.value),
                DeValue::Boolean(is) => Some(is.to_string()),
                DeValue::Integer(number) => Some(number.as_str().to_owned()),
                DeValue::Float(number) => Some(number.as_str().to_owned()),
                _ => {
                    self.wrong(&value.span(), format!("`{name}` is not a string"), "write it in quotes");
                    None
                }
            };
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                self.wrong(&value.span(), format!("`{name}` holds a NUL character"), "remove it");
                continue;
            }
            env.extend(text.map(|text| (name.to_owned(), Secret::new(text))));
        }
        (env.len() == entries.len()).then_some(env)
    }
}

/// What the engine takes as the name of a container or a network.
fn is_container(name: &str) -> bool {
    (2..=LONGEST).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// `[registry[:port]/]path[:tag][@digest]`, roughly.
fn is_image(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-/:@".contains(c))
}

/// `[[ADDRESS:]HOST:]GUEST[/tcp|/udp]`, with ranges.
fn is_publication(text: &str) -> bool {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_range =
        |range: &str| range.split_once('-').map_or(is_port(range), |(a, b)| is_port(a) && is_port(b));
    let Some((before, guest)) = ports.rsplit_once(':') else {
        return is_range(ports) && matches!(protocol, "tcp" | "udp");
    };
    let fits = match before.rsplit_once(':') {
        None => is_range(before),
        Some((address, host)) => {
            let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
            address.parse::<IpAddr>().is_ok() && (host.is_empty() || is_range(host))
        }
    };
    fits && is_range(guest) && matches!(protocol, "tcp" | "udp")
}

/// `SOURCE:TARGET[:OPTIONS]`: a folder of the guest or the name of a volume, and a path in the container.
fn is_volume(text: &str) -> bool {
    let mut parts = text.split(':');
    let (source, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let options = parts.next();
    (source.starts_with('/') || is_container(source))
        && target.starts_with('/')
        && options.is_none_or(|options| !options.is_empty())
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for good in
            ["80", "8080:80", "127.0.0.1:8080:80", "[::1]:80:80/udp", "8000-8010:8000-8010", "53:53/udp"]
        {
            assert!(is_publication(good), "{good}");
        }
        for bad in ["", "0", "80:", ":80", "x:80:80", "80:80/sctp", "70000", "80:80:80", "-1", "80/tcp/x"] {
            assert!(!is_publication(bad), "{bad}");
        }
    }

    #[test]
    fn images_volumes_and_names() {
        for good in ["redis", "redis:7", "registry.example:5000/team/app:1.2", "app@sha256:00ff"] {
            assert!(is_image(good), "{good}");
        }
        for bad in ["", "-v", "a b", "a;b", "$(x)", ":latest"] {
            assert!(!is_image(bad), "{bad}");
        }
        for good in ["/srv:/data", "/srv:/data:ro", "data:/data", "/var/run/x.sock:/x.sock"] {
            assert!(is_volume(good), "{good}");
        }
        for bad in ["", "/srv", "srv", "./a:/b", "/a:b", "/a:/b:", "/a:/b:ro:x", "~/a:/b"] {
            assert!(!is_volume(bad), "{bad}");
        }
        assert!(is_container("web-1") && !is_container("-x") && !is_container("a b") && !is_container("x"));
    }
}
