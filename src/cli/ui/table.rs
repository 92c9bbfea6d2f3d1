//! Columns of text.

/// Lays out `rows` below `head` in columns as wide as their longest cell, two spaces apart, with
/// a rule below the head. No spaces at line ends; every line ends with a line feed.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| width(cell)).collect();
    for row in rows {
        for (at, cell) in widths.iter_mut().zip(row) {
            *at = (*at).max(width(cell));
        }
    }
    let mut out = String::new();
    push_row(&mut out, &widths, head.iter().copied());
    let rule = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
    out.push_str(&"-".repeat(rule));
    out.push('\n');
    for row in rows {
        push_row(&mut out, &widths, row.iter().map(String::as_str));
    }
    out
}

fn push_row<'a>(out: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let mut line = String::new();
    for (column, cell) in widths.iter().zip(cells) {
        line.push_str(cell);
        line.push_str(&" ".repeat(column.saturating_sub(width(cell)) + 2));
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

// Names, states and paths: one column a character is near enough.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// A number of bytes as a person reads it: `532 B`, `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 { format!("{count} {name}") } else { format!("{value:.1} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["web".into(), "running".into()], vec!["database".into(), "off".into()]];
        let text = table(&["name", "state"], &rows);
        assert_eq!(text, "name      state\n-----------------\nweb       running\ndatabase  off\n");
    }

    #[test]
    fn sizes_for_people() {
        let texts = [0, 1023, 1024, 1_572_864, 3 << 30, u64::MAX].map(bytes);
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "3.0 GiB", "16384.0 PiB"]);
    }
}
