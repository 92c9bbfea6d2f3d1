//! Answers to DNS queries (RFC 1035): addresses of the machines of a project, and nothing else. What is
//! not of the network is refused, upon which a resolver asks its next server.

use std::net::IpAddr;

use super::spec::Zone;

const HEADER: usize = 12;
/// Longest name (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 255;
/// Addresses of one name; an answer stays below 512 bytes, so that nothing is ever cut short.
const MOST_ANSWERS: usize = 8;
/// How long an answer may be kept, in seconds: addresses change only when machines start.
const TTL: u32 = 10;

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const ANY: u16 = 255;
const INTERNET: u16 = 1;

/// Response codes (RFC 1035, section 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    NoError = 0,
    FormErr = 1,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
}

/// Whose names are looked through, in this order.
pub(super) struct Names<'a> {
    /// Of the asker's own project.
    pub own: Option<&'a Zone>,
    /// Of other projects; they show only addresses of this network.
    pub others: &'a [&'a Zone],
    /// Whether an address is one of this network.
    pub local: &'a dyn Fn(IpAddr) -> bool,
}

/// What is known of a name.
enum Found {
    Addresses(Vec<IpAddr>),
    Name(String),
    /// It would be known if it existed.
    Nothing,
    /// Others may know.
    Unknown,
}

/// The answer to a query; `None` where there is to be none.
pub(super) fn answer(query: &[u8], names: &Names<'_>) -> Option<Vec<u8>> {
    let header = query.first_chunk::<HEADER>()?;
    let field = |at: usize| match header.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    };
    let flags = field(2);
    // Answers are not answered.
    if flags & 0x8000 != 0 {
        return None;
    }
    if flags & 0x7800 != 0 {
        return Some(response(header, &[], Code::NotImp, &[]));
    }
    let question = (field(4) == 1).then(|| question(query)).flatten();
    let Some((name, kind, class, end)) = question else {
        return Some(response(header, &[], Code::FormErr, &[]));
    };
    let asked = query.get(HEADER..end).unwrap_or_default();
    if class != INTERNET {
        return Some(response(header, asked, Code::Refused, &[]));
    }
    let (code, records) = match names.find(&name) {
        Found::Addresses(all) => {
            let of_kind = |ip: &&IpAddr| match ip {
                IpAddr::V4(_) => kind == A || kind == ANY,
                IpAddr::V6(_) => kind == AAAA || kind == ANY,
            };
            (Code::NoError, all.iter().filter(of_kind).take(MOST_ANSWERS).map(|ip| address(*ip)).collect())
        }
        Found::Name(target) if kind == PTR || kind == ANY => (Code::NoError, vec![(PTR, encode(&target))]),
        Found::Name(_) => (Code::NoError, vec![]),
        Found::Nothing => (Code::NxDomain, vec![]),
        Found::Unknown => (Code::Refused, vec![]),
    };
    Some(response(header, asked, code, &records))
}

impl Names<'_> {
    fn find(&self, name: &str) -> Found {
        if let Some(ip) = reversed(name) {
            let mut zones = self.own.iter().chain(self.others);
            return match zones.find_map(|zone| zone.reverse.get(&ip)) {
                Some(name) => Found::Name(name.clone()),
                None if (self.local)(ip) => Found::Nothing,
                None => Found::Unknown,
            };
        }
        if let Some(addresses) = self.own.and_then(|zone| zone.records.get(name)) {
            return Found::Addresses(addresses.clone());
        }
        for zone in self.others {
            let known = zone.records.get(name).into_iter().flatten();
            let local: Vec<IpAddr> = known.filter(|ip| (self.local)(**ip)).copied().collect();
            if !local.is_empty() {
                return Found::Addresses(local);
            }
        }
        let below =
            |domain: &String| name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
        match self.own.is_some_and(|zone| zone.domains.iter().any(|domain| below(domain) || domain == name)) {
            true => Found::Nothing,
            false => Found::Unknown,
        }
    }
}

/// Name in lower case, type, class, and where the question ends. Names are not compressed in a
/// question.
fn question(query: &[u8]) -> Option<(String, u16, u16, usize)> {
    let (mut at, mut name) = (HEADER, String::new());
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        let label = query.get(at..at + len).filter(|_| len < 64)?;
        at += len;
        if !name.is_empty() {
            name.push('.');
        }
        // Other bytes are in no name that we know.
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        if at - HEADER > LONGEST_NAME {
            return None;
        }
    }
    let [a, b, c, d] = *query.get(at..)?.first_chunk::<4>()?;
    Some((name, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), at + 4))
}

/// The address of which `name` is the reverse name (RFC 1035, section 3.5; RFC 3596, section 2.5).
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = digits.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels.next().is_none().then(|| octets.into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut octets = [0; 16];
    let mut labels = digits.split('.');
    for octet in octets.iter_mut().rev() {
        let mut digit =
            || labels.next().filter(|d| d.len() == 1).and_then(|d| u8::from_str_radix(d, 16).ok());
        let (low, high) = (digit()?, digit()?);
        *octet = high << 4 | low;
    }
    labels.next().is_none().then(|| octets.into())
}

fn address(ip: IpAddr) -> (u16, Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => (A, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AAAA, v6.octets().to_vec()),
    }
}

/// A name of ours as it travels.
fn encode(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let label = label.as_bytes().get(..63).unwrap_or(label.as_bytes());
        out.push(u8::try_from(label.len()).unwrap_or_default());
        out.extend_from_slice(label);
    }
    out.push(0);
    out
}

fn response(header: &[u8; HEADER], question: &[u8], code: Code, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let [id_high, id_low, flags, ..] = *header;
    // An answer, with authority, recursion as it was desired and (for the sake of stubs) available.
    let mut out = vec![id_high, id_low, 0x84 | (flags & 1), 0x80 | code as u8];
    let count = u16::try_from(records.len()).unwrap_or_default();
    for number in [u16::from(!question.is_empty()), count, 0, 0] {
        out.extend(number.to_be_bytes());
    }
    out.extend_from_slice(question);
    for (kind, data) in records {
        // The name is the one of the question, at byte 12.
        out.extend([0xc0, HEADER as u8]);
        out.extend(kind.to_be_bytes());
        out.extend(INTERNET.to_be_bytes());
        out.extend(TTL.to_be_bytes());
        out.extend(u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
        out.extend_from_slice(data);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let mut zone = Zone { owner: "p".into(), domains: vec!["backend".into()], ..Zone::default() };
        let all = vec!["10.10.0.5".parse().unwrap(), "fd10::5".parse().unwrap()];
        for name in ["db", "db.backend", "shop.example"] {
            zone.records.insert(name.into(), all.clone());
        }
        zone.reverse.insert(all[0], "db.backend".into());
        zone.reverse.insert(all[1], "db.backend".into());
        zone
    }

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(encode(name));
        query.extend(kind.to_be_bytes());
        query.extend(INTERNET.to_be_bytes());
        query
    }

    /// Code, number of answers, and the data of the last one.
    fn asked(query: &[u8]) -> Option<(u8, u8, Vec<u8>)> {
        let (own, other) = (zone(), Zone { owner: "q".into(), ..far() });
        let local = |ip: IpAddr| ip.to_string().starts_with("10.10.0.");
        let names = Names { own: Some(&own), others: &[&other], local: &local };
        let answer = answer(query, &names)?;
        assert_eq!(answer[..2], query[..2]);
        assert_eq!(answer[2] & 0x80, 0x80);
        let data = |len: usize| answer[answer.len() - len..].to_vec();
        let len = match answer[7] {
            0 => 0,
            _ => [4, 16, 12].into_iter().find(|len| data(len + 2)[..2] == [0, *len as u8]).unwrap(),
        };
        Some((answer[3] & 15, answer[7], data(len)))
    }

    fn far() -> Zone {
        let records = [("web", "10.10.0.9"), ("hidden", "10.99.0.9")];
        let records = records.map(|(name, ip)| (name.to_owned(), vec![ip.parse().unwrap()]));
        Zone { records: records.into(), ..Zone::default() }
    }

    #[test]
    fn names_of_the_network_have_addresses() {
        for name in ["db", "DB.Backend", "shop.example"] {
            assert_eq!(asked(&query(name, A)), Some((0, 1, vec![10, 10, 0, 5])), "{name}");
            assert_eq!(asked(&query(name, AAAA)).unwrap().2[15], 5);
        }
        assert_eq!(asked(&query("db", 15)), Some((0, 0, vec![])), "it exists and has no mail exchanger");
        assert_eq!(asked(&query("5.0.10.10.in-addr.arpa", PTR)).unwrap().2, encode("db.backend"));
        let nibbles = format!("5{}.0.1.d.f.ip6.arpa", ".0".repeat(27));
        assert_eq!(asked(&query(&nibbles, PTR)).unwrap().2, encode("db.backend"));
    }

    #[test]
    fn what_is_not_of_the_network_is_left_to_others() {
        for name in ["example.org", "nobody", "com", "backendx", "1.0.0.127.in-addr.arpa", "x.in-addr.arpa"] {
            assert_eq!(asked(&query(name, A)), Some((5, 0, vec![])), "{name}");
        }
        for name in ["nobody.backend", "backend", "7.0.10.10.in-addr.arpa"] {
            assert_eq!(asked(&query(name, A)), Some((3, 0, vec![])), "{name}");
        }
    }

    #[test]
    fn other_projects_show_only_this_network() {
        assert_eq!(asked(&query("web", A)), Some((0, 1, vec![10, 10, 0, 9])));
        assert_eq!(asked(&query("hidden", A)), Some((5, 0, vec![])));
    }

    #[test]
    fn malformed_queries_are_said_so_or_dropped() {
        let good = query("db.backend", A);
        for len in 0..good.len() {
            match asked(&good[..len]) {
                None => assert!(len < HEADER),
                Some((code, ..)) => assert_eq!(code, 1, "cut to {len} bytes"),
            }
        }
        let pointer = [&good[..HEADER], &[0xc0, 12, 0, 1, 0, 1]].concat();
        assert_eq!(asked(&pointer).unwrap().0, 1);
        let long = query(&["a"; 130].join("."), A);
        assert_eq!(asked(&long).unwrap().0, 1);
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(asked(&two).unwrap().0, 1);
        let mut reply = good.clone();
        reply[2] |= 0x80;
        assert_eq!(asked(&reply), None);
        let mut update = good;
        update[2] = 5 << 3;
        assert_eq!(asked(&update).unwrap().0, 4);
    }
}
