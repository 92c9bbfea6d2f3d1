//! Two looks at a machine → numbers a second.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::json::VERSION;
use crate::machine::{Sample, State, Status};
use crate::vmm::control::Traffic;

/// What is shown of one machine. What is not known, or not yet, is `None`.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub name: String,
    pub id: Option<String>,
    pub state: State,
    pub provider: Option<&'static str>,
    pub pid: Option<u32>,
    pub uptime: Option<u64>,
    /// In percent of one processor.
    pub cpu: Option<f64>,
    /// Bytes that the guest may use.
    pub given: Option<u64>,
    /// Bytes that it uses, as it says.
    pub used: Option<u64>,
    pub balloon: Option<u64>,
    pub pss: Option<u64>,
    pub rss: Option<u64>,
    /// Since the machine was started.
    pub disk: Option<Way>,
    pub net: Option<Way>,
}

/// Bytes there and back: of a disk read and written, of the network received and sent by the guest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Way {
    /// In all.
    pub bytes: [u64; 2],
    /// A second; `None` at the first look.
    pub rates: Option<[f64; 2]>,
}

impl Row {
    /// A machine as it is, with what it was before.
    pub fn new(status: &Status, before: Option<&Sample>, now: Option<&Sample>) -> Row {
        // Another process began anew, and so did its counters.
        let before = before.filter(|before| now.is_some_and(|now| now.pid == before.pid));
        let seconds = |now: &Sample| Some(now.at.checked_duration_since(before?.at)?.as_secs_f64());
        let seconds = now.and_then(seconds).filter(|seconds| *seconds > 0.0);
        let usage = now.and_then(|now| now.usage.as_ref());
        let guest = usage.and_then(|usage| usage.guest);
        let traffic = |get: fn(&Traffic) -> Option<[u64; 2]>| {
            let bytes = get(usage?.traffic.as_ref()?)?;
            let old = before.and_then(|before| get(before.usage.as_ref()?.traffic.as_ref()?));
            Some(Way { bytes, rates: old.zip(seconds).map(|(old, seconds)| rates(old, bytes, seconds)) })
        };
        let cpu = now.zip(before).zip(seconds).map(|((now, before), seconds)| {
            now.cpu.saturating_sub(before.cpu).as_secs_f64() * 100.0 / seconds
        });
        Row {
            name: status.name.clone(),
            id: status.id.clone(),
            state: status.state,
            provider: status.provider.map(|provider| provider.as_str()),
            pid: status.pid,
            uptime: status.uptime,
            cpu,
            given: usage.map(|usage| usage.memory),
            used: guest.and_then(|guest| Some(guest.total?.saturating_sub(guest.available?))),
            balloon: usage.and_then(|usage| usage.balloon),
            pss: now.and_then(|now| now.pss),
            rss: now.map(|now| now.rss),
            disk: traffic(|traffic| Some([traffic.disk_read?, traffic.disk_written?])),
            net: traffic(|traffic| Some([traffic.net_received?, traffic.net_sent?])),
        }
    }

    /// What the host holds for it.
    pub fn host(&self) -> Option<u64> {
        self.pss.or(self.rss)
    }
}

fn rates(old: [u64; 2], new: [u64; 2], seconds: f64) -> [f64; 2] {
    let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
    [rate(old[0], new[0]), rate(old[1], new[1])]
}

/// The document of `--json`.
pub(super) fn document(rows: &[Row], over: Duration) -> Value {
    let machine = |row: &Row| {
        let way = |way: Option<Way>, names: [&str; 2]| match way {
            None => Value::Null,
            Some(Way { bytes, rates }) => {
                let mut fields = serde_json::Map::new();
                for (at, name) in names.into_iter().enumerate() {
                    fields.insert(name.to_owned(), json!(bytes.get(at)));
                    let rate = rates.and_then(|rates| rates.get(at).map(|rate| rounded(*rate)));
                    fields.insert(format!("{name}_per_second"), json!(rate));
                }
                Value::Object(fields)
            }
        };
        let memory = row.rss.map(|rss| {
            json!({
                "given": row.given, "used": row.used, "balloon": row.balloon, "pss": row.pss, "rss": rss,
            })
        });
        json!({
            "id": row.id,
            "name": row.name,
            "provider": row.provider,
            "state": row.state.as_str(),
            "pid": row.pid,
            "uptime_seconds": row.uptime,
            "cpu_percent": row.cpu.map(rounded),
            "memory": memory,
            "disk": way(row.disk, ["read", "written"]),
            "net": way(row.net, ["received", "sent"]),
        })
    };
    json!({
        "version": VERSION,
        "seconds": over.as_secs_f64(),
        "machines": rows.iter().map(machine).collect::<Vec<_>>(),
    })
}

/// To a tenth: more is noise.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
