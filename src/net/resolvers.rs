//! The host's resolvers: which there are, when they change, and what a passt that begins under a guest which
//! runs is told of them.
//!
//! A guest learns its resolver by DHCP when it starts, and not again. So whom it asks stays what it was told
//! then, and passt leads that to whom the host asks now.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, WatchFlags};
use serde::{Deserialize, Serialize};

use crate::model::Nat;

/// Where systemd-resolved keeps the addresses that its own resolver asks.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Links from that file to another one that are followed.
const MOST_LINKS: usize = 8;

/// The first resolver of each family: the one that passt asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolvers {
    /// Over IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Over IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Resolvers {
    /// Those of the host now, for a machine with such a way out.
    pub fn of_host(way: Nat) -> Self {
        match way {
            Nat::Open => Self::first(&read(RESOLV_CONF)),
            Nat::NoHost => match beyond_loopback() {
                list if list.is_empty() => Self::first(&reachable(read(RESOLV_CONF))),
                list => Self::first(&list),
            },
            Nat::Closed | Nat::None => Self::default(),
        }
    }

    fn first(list: &[IpAddr]) -> Self {
        let v4 = list.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None });
        let v6 = list.iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None });
        Self { v4, v6 }
    }

    /// There are none: the host is offline, or its file is about to be written.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What a guest is told of them: one that only the host reaches it asks by way of its gateway.
    fn told(&self, gateway: Ipv4Addr) -> Self {
        let v4 = self.v4.map(|ip| if ip.is_loopback() { gateway } else { ip });
        Self { v4, v6: self.v6.filter(|ip| !ip.is_loopback()) }
    }
}

/// Whom a guest asks, and who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// What the guest was told when it started.
    told: Resolvers,
    /// Resolvers of the host that passt was begun with.
    pub asked: Resolvers,
}

impl Dns {
    /// For a guest that is about to start.
    pub fn new(way: Nat, gateway: Ipv4Addr) -> Self {
        let asked = Resolvers::of_host(way);
        let mut told = asked.told(gateway);
        // So that there is something to lead on once the host has one.
        if way == Nat::Open && asked.is_empty() {
            told.v4 = Some(gateway);
        }
        Self { told, asked }
    }

    /// Words for passt. `leads`: it can be told to whom it leads what the guest asks (`--dns-host`); one that
    /// cannot leads it to the first resolver of its own file.
    pub(super) fn words(&self, way: Nat, gateway: Ipv4Addr, leads: impl FnOnce() -> bool) -> Vec<String> {
        let (seen, asked) = (self.asked.told(gateway), self.asked);
        let moved: Vec<(IpAddr, IpAddr)> = [
            (self.told.v4.map(IpAddr::from), seen.v4.map(IpAddr::from), asked.v4.map(IpAddr::from)),
            (self.told.v6.map(IpAddr::from), seen.v6.map(IpAddr::from), asked.v6.map(IpAddr::from)),
        ]
        .into_iter()
        .filter(|(told, seen, _)| told != seen)
        .filter_map(|(told, _, asked)| Some((told?, asked?)))
        .collect();
        let word = |option: &str, ip: &IpAddr| [option.to_owned(), ip.to_string()];
        if moved.is_empty() || matches!(way, Nat::Closed | Nat::None) {
            let none = way == Nat::Open && asked.is_empty();
            let gateway = none.then_some(IpAddr::from(gateway));
            let list = if way == Nat::NoHost { beyond_loopback() } else { gateway.into_iter().collect() };
            return list.iter().flat_map(|ip| word("-D", ip)).collect();
        }
        if leads() {
            let words = |(told, asked): &(IpAddr, IpAddr)| {
                [word("-D", told), word("--dns-forward", told), word("--dns-host", asked)].concat()
            };
            return moved.iter().flat_map(words).collect();
        }
        // It would lead to the host's own resolver what is not to reach the host.
        let moved = moved.iter().filter(|_| way == Nat::Open);
        let list = if way == Nat::NoHost { beyond_loopback() } else { Vec::new() };
        let list = list.iter().flat_map(|ip| word("-D", ip));
        list.chain(moved.flat_map(|(told, _)| word("--dns-forward", told))).collect()
    }
}

/// Resolvers to be told to a machine that does not reach this host's loopback addresses, where all those of
/// `resolv.conf` are such: the ones that systemd-resolved asks itself. None: passt finds some by itself,
/// or there are none.
fn beyond_loopback() -> Vec<IpAddr> {
    match reachable(read(RESOLV_CONF)).is_empty() {
        true => reachable(read(UPSTREAM)),
        false => Vec::new(),
    }
}

fn reachable(list: Vec<IpAddr>) -> Vec<IpAddr> {
    list.into_iter().filter(|ip| !ip.is_loopback()).collect()
}

fn read(path: &str) -> Vec<IpAddr> {
    nameservers(&fs::read_to_string(path).unwrap_or_default())
}

/// The addresses after `nameserver` (resolv.conf(5)); those with a zone mean nothing to a guest.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.trim_start().strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().filter_map(address).collect()
}

/// Tells when the host's resolvers may have changed: its descriptor can be read from then on. Other files beside
/// theirs make it say so, too.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    path: PathBuf,
}

impl Watch {
    const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE.union(WatchFlags::MODIFY);
    const NAMES: WatchFlags = WatchFlags::CREATE
        .union(WatchFlags::MOVED_TO)
        .union(WatchFlags::MOVED_FROM)
        .union(WatchFlags::DELETE);

    /// Watches the host's files.
    pub fn new() -> io::Result<Self> {
        let watch = Self::of(Path::new(RESOLV_CONF))?;
        if let Some(folder) = Path::new(UPSTREAM).parent() {
            watch.add(folder, Self::CHANGES | Self::NAMES);
        }
        Ok(watch)
    }

    /// Watches `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watch = Self { inotify: inotify::init(flags)?, path: path.to_owned() };
        watch.follow();
        Ok(watch)
    }

    /// Forgets what it has told. Links that lead elsewhere by now are followed from here on.
    pub fn again(&self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut space);
        while reader.next().is_ok() {}
        self.follow();
    }

    /// The file may be written to, replaced, or be a link to one that is, in a folder that is not there yet.
    fn follow(&self) {
        let mut at = self.path.clone();
        for _ in 0..MOST_LINKS {
            let folder = at.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
            let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(&folder);
            self.add(there, Self::CHANGES | Self::NAMES);
            match fs::read_link(&at) {
                Ok(next) => at = folder.join(next),
                Err(_) => break,
            }
        }
        // One that is mounted there has another folder.
        self.add(&self.path, Self::CHANGES);
    }

    /// What is not there has a folder in which it would appear, which is watched.
    fn add(&self, path: &Path, flags: WatchFlags) {
        let _ = inotify::add_watch(&self.inotify, path, flags);
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

    #[test]
    fn resolvers_of_a_file() {
        let text = "# nameserver 1.1.1.1\nnameserver 127.0.0.53\n nameserver  ::1 \nnameserver fe80::1%eth0\nsearch x\n";
        let list = nameservers(text);
        assert_eq!(list, ["127.0.0.53".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        let first = Resolvers::first(&list);
        assert_eq!(first.told(GATEWAY), Resolvers { v4: Some(GATEWAY), v6: None });
        assert!(Resolvers::first(&[]).is_empty());
    }

    fn resolvers(list: &[&str]) -> Resolvers {
        Resolvers::first(&list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn what_a_guest_was_told_leads_to_whom_the_host_asks_now() {
        let words = |told: &[&str], asked: &[&str], leads| {
            let dns = Dns { told: resolvers(told), asked: resolvers(asked) };
            dns.words(Nat::Open, GATEWAY, || leads).join(" ")
        };
        for leads in [false, true] {
            assert_eq!(words(&["192.0.2.1", "2001:db8::1"], &["192.0.2.1", "2001:db8::1"], leads), "");
            assert_eq!(words(&["10.0.2.2"], &["127.0.0.53"], leads), "", "by way of the gateway");
            assert_eq!(words(&["10.0.2.2"], &[], leads), "-D 10.0.2.2", "the host has none yet");
            assert_eq!(words(&["2001:db8::1"], &["192.0.2.1"], leads), "", "the guest has no such resolver");
        }
        let (old, new) = (["192.0.2.1", "2001:db8::1"], ["198.51.100.1", "2001:db8::1"]);
        assert_eq!(words(&old, &new, false), "--dns-forward 192.0.2.1");
        let both = "-D 192.0.2.1 --dns-forward 192.0.2.1 --dns-host 198.51.100.1";
        assert_eq!(words(&old, &new, true), both);
        assert_eq!(words(&["10.0.2.2"], &["192.0.2.1"], false), "--dns-forward 10.0.2.2", "no stub any more");
        let stub = "-D 192.0.2.1 --dns-forward 192.0.2.1 --dns-host 127.0.0.53";
        assert_eq!(words(&["192.0.2.1"], &["127.0.0.53"], true), stub);
        let six = "-D 2001:db8::1 --dns-forward 2001:db8::1 --dns-host 2001:db8::2";
        assert_eq!(words(&["2001:db8::1"], &["2001:db8::2"], true), six);
    }

    #[test]
    fn nothing_leads_to_the_host_that_is_not_to_reach_it() {
        let dns = Dns { told: resolvers(&["192.0.2.1"]), asked: resolvers(&["198.51.100.1"]) };
        let words = |way, leads| dns.words(way, GATEWAY, || leads).join(" ");
        assert!(words(Nat::NoHost, true).contains("--dns-host 198.51.100.1"));
        assert!(!words(Nat::NoHost, false).contains("--dns-forward"));
        assert_eq!(words(Nat::Closed, true), "");
        assert!(Resolvers::of_host(Nat::Closed).is_empty());
    }

    /// Whether there is something to be told, now or within a while.
    fn tells(watch: &Watch, patience: i64) -> bool {
        let timeout = Timespec { tv_sec: patience, tv_nsec: 0 };
        let told = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)).unwrap() > 0;
        watch.again();
        told
    }

    #[test]
    fn a_file_that_changes_in_any_way_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, run) = (dir.path().join("etc"), dir.path().join("run"));
        fs::create_dir(&etc).unwrap();
        let path = etc.join("resolv.conf");
        std::os::unix::fs::symlink("../run/resolve/stub", &path).unwrap();
        let watch = Watch::of(&path).unwrap();
        assert!(!tells(&watch, 0), "nothing happened");
        fs::create_dir_all(run.join("resolve")).unwrap();
        assert!(tells(&watch, 20), "the folder that the link leads to");
        watch.again();
        fs::write(run.join("resolve/stub"), "nameserver 192.0.2.1\n").unwrap();
        assert!(tells(&watch, 20), "the file there");
        fs::write(run.join("resolve/new"), "nameserver 192.0.2.2\n").unwrap();
        watch.again();
        fs::rename(run.join("resolve/new"), run.join("resolve/stub")).unwrap();
        assert!(tells(&watch, 20), "replaced behind the link");
        fs::write(etc.join("new"), "nameserver 192.0.2.3\n").unwrap();
        watch.again();
        fs::rename(etc.join("new"), &path).unwrap();
        assert!(tells(&watch, 20), "the link is replaced by a file");
        fs::write(&path, "nameserver 192.0.2.4\n").unwrap();
        assert!(tells(&watch, 20), "written to");
        assert!(!tells(&watch, 0), "told twice");
    }
}
