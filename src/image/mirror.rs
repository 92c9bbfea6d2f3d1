//! Which package mirror a box is built from.

use std::fs;
use std::path::Path;

use super::ImageError;

/// The public mirrors, for hosts that have none of their own.
const PUBLIC: &str = "http://deb.debian.org/debian";
const PUBLIC_SECURITY: &str = "http://deb.debian.org/debian-security";
/// On the host during the build, and in the guest.
pub(super) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from. No address ends in `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    /// Of the main archive.
    pub main: String,
    /// Of the security archive.
    pub security: Option<String>,
    /// Whether `security` is only a guess from `main`.
    pub guessed: bool,
}

impl Mirror {
    /// The mirror that was asked for, else that of the host's apt (`etc_apt` is `/etc/apt`),
    /// else the public one.
    pub(super) fn choose(wanted: Option<&str>, etc_apt: &Path) -> Result<Mirror, ImageError> {
        let host = of_host(&read_entries(etc_apt));
        let Some(wanted) = wanted else {
            let public =
                || Mirror { main: PUBLIC.into(), security: Some(PUBLIC_SECURITY.into()), guessed: false };
            return Ok(host.unwrap_or_else(public));
        };
        let main = wanted.trim().trim_end_matches('/').to_owned();
        if !is_mirror_url(&main) {
            // The value may hold a password: it is not repeated.
            return Err(ImageError::BadMirror);
        }
        match host {
            Some(host) if host.main == main => Ok(host),
            _ => Ok(Mirror { security: sibling(&main), guessed: true, main }),
        }
    }

    /// One line for each suite, as sources.list(5) has them.
    pub(super) fn lines(&self, suite: &str) -> Vec<String> {
        let line = |url: &str, suite: &str| format!("deb [signed-by={KEYRING}] {url} {suite} main");
        let mut lines = vec![line(&self.main, suite), line(&self.main, &format!("{suite}-updates"))];
        lines.extend(self.security.iter().map(|url| line(url, &format!("{suite}-security"))));
        lines
    }

    /// The same as a `.sources` file.
    pub(super) fn sources_file(&self, suite: &str) -> String {
        let part = |url: &str, suites: &str| {
            format!("Types: deb\nURIs: {url}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n")
        };
        let main = part(&self.main, &format!("{suite} {suite}-updates"));
        match &self.security {
            Some(url) => format!("{main}\n{}", part(url, &format!("{suite}-security"))),
            None => main,
        }
    }
}

/// `http://host/debian` → `http://host/debian-security`.
fn sibling(main: &str) -> Option<String> {
    main.ends_with("/debian").then(|| format!("{main}-security"))
}

/// Plain http(s) with a host and without user name, password or anything that apt would take
/// for something else.
fn is_mirror_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~:/%+,=".contains(c);
        !rest.is_empty() && !rest.starts_with(['/', ':']) && rest.chars().all(allowed)
    })
}

/// A source of packages: address, suites, components.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    url: String,
    suites: Vec<String>,
    components: Vec<String>,
}

/// All entries of the host in the order in which apt reads them. A host without apt has none;
/// a file that cannot be read is as good as none, since there is the public mirror.
fn read_entries(etc_apt: &Path) -> Vec<Entry> {
    let mut entries = parse_list(&fs::read_to_string(etc_apt.join("sources.list")).unwrap_or_default());
    let folder = etc_apt.join("sources.list.d");
    let mut files: Vec<_> =
        fs::read_dir(folder).map(|list| list.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => entries.extend(parse_list(&text)),
            Some("sources") => entries.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    entries
}

/// sources.list(5), "one-line-style format".
fn parse_list(text: &str) -> Vec<Entry> {
    let parse = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let rest = line.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        Some(Entry { url: words.next()?, suites: vec![words.next()?], components: words.collect() })
    };
    text.lines().filter_map(parse).collect()
}

/// sources.list(5), "deb822-style format".
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut stanzas: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(stanza) = stanzas.last_mut() else { continue };
        if line.trim().is_empty() {
            stanzas.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push(' ');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.trim().to_ascii_lowercase(), value.to_owned()));
        }
    }
    let mut entries = Vec::new();
    for stanza in stanzas {
        let words = |name: &str| -> Vec<String> {
            let value = stanza.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value);
            value.split_whitespace().map(str::to_owned).collect()
        };
        let is_off =
            words("enabled").first().is_some_and(|v| ["no", "false", "off", "0"].contains(&v.as_str()));
        if is_off || !words("types").iter().any(|t| t == "deb") {
            continue;
        }
        for url in words("uris") {
            entries.push(Entry { url, suites: words("suites"), components: words("components") });
        }
    }
    entries
}

/// The Debian archive among `entries`. Other archives use Debian's suite names too, so that an
/// address counts when it carries a release together with its `-updates`, or when its path is
/// plainly `/debian`.
fn of_host(entries: &[Entry]) -> Option<Mirror> {
    let usable = |entry: &&Entry| {
        is_mirror_url(entry.url.trim_end_matches('/')) && entry.components.iter().any(|c| c == "main")
    };
    let has = |url: &str, suite: &str| {
        entries.iter().filter(usable).any(|e| e.url == url && e.suites.iter().any(|s| s == suite))
    };
    let is_archive = |entry: &&Entry| {
        let path = entry.url.split('/').skip(3).collect::<Vec<_>>().join("/");
        entry.suites.iter().filter(|s| is_debian_suite(s)).any(|suite| {
            has(&entry.url, &format!("{suite}-updates")) || path.trim_end_matches('/') == "debian"
        })
    };
    let main = entries.iter().filter(usable).find(is_archive)?.url.trim_end_matches('/').to_owned();
    let is_security = |entry: &&Entry| {
        entry.suites.iter().any(|s| s.strip_suffix("-security").is_some_and(is_debian_suite))
    };
    let security = entries.iter().filter(usable).find(is_security);
    let security = security.map(|entry| entry.url.trim_end_matches('/').to_owned());
    let guessed = security.is_none();
    Some(Mirror { security: security.or_else(|| sibling(&main)), guessed, main })
}

fn is_debian_suite(suite: &str) -> bool {
    const SUITES: &[&str] = &[
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "duke",
        "sid",
        "oldstable",
        "stable",
        "testing",
        "unstable",
    ];
    SUITES.contains(&suite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn chosen(wanted: Option<&str>, files: &[(&str, &str)]) -> (String, Option<String>) {
        let mirror = Mirror::choose(wanted, host(files).path()).unwrap();
        (mirror.main, mirror.security)
    }

    const ONE_LINE: (&str, &str) = (
        "sources.list",
        "# deb http://no.example/debian bookworm main\n\
         deb http://user:pw@secret.example/debian bookworm main\n\
         deb cdrom:[Debian]/ bookworm main\n\
         deb-src http://src.example/debian bookworm main\n\
         deb [arch=amd64 signed-by=/x] https://mirror.example/os/debian/ bookworm main contrib # ours\n\
         deb https://mirror.example/os/debian/ bookworm-updates main\n\
         deb http://security.example/debian-security bookworm-security main\n",
    );

    #[test]
    fn one_line_style() {
        let found = chosen(None, &[ONE_LINE]);
        assert_eq!(found.0, "https://mirror.example/os/debian");
        assert_eq!(found.1.as_deref(), Some("http://security.example/debian-security"));
    }

    #[test]
    fn deb822_style_among_others() {
        let files = [
            ("sources.list.d/a.list", "deb https://db.example/repo/debian bookworm main\n"),
            (
                "sources.list.d/b.sources",
                "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: sid\nComponents: main\n",
            ),
            (
                "sources.list.d/debian.sources",
                "Types: deb deb-src\n# comment\nURIs: http://m.example/debian\nSuites: trixie\n trixie-updates\n\
                 Components: main non-free-firmware\n\nTypes: deb\nURIs: http://m.example/debian-security/\n\
                 Suites: trixie-security\nComponents: main\n",
            ),
        ];
        let found = chosen(None, &files);
        assert_eq!(found.0, "http://m.example/debian");
        assert_eq!(found.1.as_deref(), Some("http://m.example/debian-security"));
    }

    #[test]
    fn other_distributions_get_the_public_mirror() {
        let ubuntu = ("sources.list", "deb http://archive.example/ubuntu noble main\n");
        assert_eq!(chosen(None, &[ubuntu]), (PUBLIC.into(), Some(PUBLIC_SECURITY.into())));
        assert_eq!(chosen(None, &[]), (PUBLIC.into(), Some(PUBLIC_SECURITY.into())));
        let mirror = Mirror::choose(None, Path::new("/nonexistent")).unwrap();
        assert_eq!(mirror.main, PUBLIC);
    }

    #[test]
    fn the_wanted_mirror_wins() {
        let found = chosen(Some("http://mine.example/debian/"), &[ONE_LINE]);
        assert_eq!(
            found,
            ("http://mine.example/debian".into(), Some("http://mine.example/debian-security".into()))
        );
        // What the host says about the same mirror is better than a guess.
        let found = chosen(Some("https://mirror.example/os/debian"), &[ONE_LINE]);
        assert_eq!(found.1.as_deref(), Some("http://security.example/debian-security"));
        assert_eq!(chosen(Some("http://mine.example/d"), &[]).1, None);
        for bad in [
            "",
            "ftp://x",
            "http://",
            "http://a b",
            "http://u:p@h/debian",
            "http://h/]",
            "file:///x",
            "http://h/\n",
        ] {
            let result = Mirror::choose(Some(bad), Path::new("/nonexistent"));
            // A trailing newline is trimmed, all others are refused.
            assert_eq!(result.is_err(), bad != "http://h/\n", "{bad}");
        }
    }

    #[test]
    fn files_for_apt() {
        let mirror = Mirror { main: "http://m/debian".into(), security: None, guessed: false };
        assert_eq!(mirror.lines("trixie").len(), 2);
        assert!(!mirror.sources_file("trixie").contains("security"));
        let mirror = Mirror { security: Some("http://m/s".into()), ..mirror };
        let file = mirror.sources_file("trixie");
        let read = parse_deb822(&file);
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].suites, ["trixie", "trixie-updates"]);
        assert_eq!((read[1].url.as_str(), read[1].suites.len()), ("http://m/s", 1));
        assert_eq!(parse_list(&mirror.lines("trixie").join("\n")).len(), 3);
    }
}
