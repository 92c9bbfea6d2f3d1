//! Rows as a table, and as lines for a log.

use super::rates::{Row, Way};
use crate::cli::status::{duration, word};

/// Stands for what is not known.
const UNKNOWN: &str = "-";

const HEAD: [&str; 10] =
    ["MACHINE", "STATE", "CPU %", "MEMORY", "HOST", "READ/s", "WRITE/s", "IN/s", "OUT/s", "UP"];
/// Columns whose cells stand at the left.
const LEFT: usize = 2;

/// A table of all rows, numbers to the right; each line ends with a line feed.
pub(super) fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 10]> = rows.iter().map(cells).collect();
    let mut widths = HEAD.map(str::len);
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head = HEAD.map(str::to_owned);
    let mut out = String::new();
    for row in std::iter::once(&head).chain(&cells) {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            let gap = if at == 0 { "" } else { "  " };
            match at < LEFT {
                true => line.push_str(&format!("{gap}{cell}{pad}")),
                false => line.push_str(&format!("{gap}{pad}{cell}")),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// One line for a pipe or a log.
pub(super) fn line(row: &Row) -> String {
    let [name, state, cpu, memory, host, read, written, received, sent, up] = cells(row);
    format!(
        "{name}: {state}, cpu {cpu} %, memory {memory}, host {host}, disk {read}/s read {written}/s written, \
         net {received}/s in {sent}/s out, up {up}"
    )
}

fn cells(row: &Row) -> [String; 10] {
    let rate = |way: Option<Way>, at: usize| {
        let rate = way.and_then(|way| way.rates).and_then(|rates| rates.get(at).copied());
        rate.map_or_else(|| UNKNOWN.to_owned(), |rate| short(rate.round() as u64))
    };
    let memory = match (row.used, row.given) {
        (Some(used), Some(given)) => format!("{}/{}", short(used), short(given)),
        (None, Some(given)) => format!("{UNKNOWN}/{}", short(given)),
        _ => UNKNOWN.to_owned(),
    };
    [
        row.name.clone(),
        word(row.state).to_owned(),
        row.cpu.map_or_else(|| UNKNOWN.to_owned(), |cpu| format!("{cpu:.1}")),
        memory,
        row.host().map_or_else(|| UNKNOWN.to_owned(), short),
        rate(row.disk, 0),
        rate(row.disk, 1),
        rate(row.net, 0),
        rate(row.net, 1),
        row.uptime.map_or_else(|| UNKNOWN.to_owned(), duration),
    ]
}

/// A number of bytes in few characters: `0`, `512`, `1.5K`, `212M`.
fn short(count: u64) -> String {
    const UNITS: [&str; 6] = ["", "K", "M", "G", "T", "P"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 || value >= 99.95 { format!("{value:.0}{name}") } else { format!("{value:.1}{name}") }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn few_characters() {
        let texts = [0, 7, 999, 1000, 1024, 1_572_864, 212 << 20, 1 << 30, u64::MAX].map(short);
        assert_eq!(texts, ["0", "7", "999", "1.0K", "1.0K", "1.5M", "212M", "1.0G", "16384P"]);
    }
}
