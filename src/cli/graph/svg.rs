//! The graph as a picture: the machines in a row, in the order in which they come up; arcs above them to
//! what they need; networks as bars below, with a line from each card. It stands by itself: no script, no
//! font, no link, and every text in it is escaped. The same file gives the same picture.

use super::{Graph, size};
use crate::cli::ui::xml::escape;
use crate::model::{Card, Machine, port_runs};

/// Sizes in pixels. A character of the font is 7.2 wide (0.6 of 12).
const CHAR: f64 = 7.3;
const LINE: f64 = 17.0;
const PAD: f64 = 10.0;
const GAP: f64 = 36.0;
const TITLE: f64 = 34.0;
/// Rise of an arc over one machine, and how many of them at most.
const ARC: f64 = 16.0;
const HIGHEST: usize = 8;
/// Between one bar of a network and the next.
const BUS: f64 = 44.0;

const STYLE: &str = "text{font:12px monospace;fill:#222}.t{font-weight:bold;font-size:14px}.b{font-weight:bold}\
.s{fill:#555}.m{fill:#eef3fa;stroke:#4c78a8}.o{fill:#fff;stroke:#4c78a8;stroke-dasharray:4 3}\
.d{fill:none;stroke:#b279a2}.n{stroke:#54a24b;stroke-width:4}.c{stroke:#54a24b}.k{fill:#54a24b}.a{fill:#b279a2}";

/// Where things are.
struct Place {
    /// Left edge of a machine, and its width.
    x: f64,
    width: f64,
}

impl Place {
    fn middle(&self) -> f64 {
        self.x + self.width / 2.0
    }

    /// Where the line of a card leaves the machine.
    fn card(&self, at: usize, step: f64) -> f64 {
        self.x + PAD + at as f64 * step
    }
}

/// Draws it.
pub(super) fn draw(graph: &Graph<'_>) -> String {
    let networks = &graph.project.networks;
    let bus_names: Vec<String> = networks.iter().map(bus_name).collect();
    let left = PAD + if networks.is_empty() { 0.0 } else { wide(&bus_names) + GAP };
    let addresses: Vec<String> =
        graph.machines.iter().flat_map(|(m, _)| m.cards.iter().map(address)).collect();
    let step = wide(&addresses) + PAD;
    let texts: Vec<Vec<String>> = graph.machines.iter().map(|(machine, _)| lines(machine)).collect();
    let rows = texts.iter().map(Vec::len).max().unwrap_or(0);
    let mut places: Vec<Place> = Vec::new();
    let mut x = left;
    for ((machine, _), lines) in graph.machines.iter().zip(&texts) {
        let width = (wide(lines) + 2.0 * PAD).max(machine.cards.len() as f64 * step + PAD);
        places.push(Place { x, width });
        x += width + GAP;
    }
    let arcs = arcs(graph);
    let highest = arcs.iter().map(|(from, to)| rise(*from, *to)).fold(0.0, f64::max);
    let top = TITLE + highest + PAD;
    let bottom = top + rows as f64 * LINE + PAD;
    let width = (x - GAP + PAD).max(title(graph).chars().count() as f64 * 8.6 + 2.0 * PAD);
    let height = bottom + networks.len() as f64 * BUS + PAD * 2.0;

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\">\n<style>{STYLE}</style>\n\
         <rect width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#fff\"/>\n"
    );
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("<text class=\"t\" x=\"{PAD}\" y=\"22\">{}</text>", escape(&title(graph), usize::MAX)));
    // Bars first: the lines of cards end on them.
    for (at, name) in bus_names.iter().enumerate() {
        let y = bus_y(bottom, at);
        line(format!(
            "<text class=\"b\" x=\"{PAD}\" y=\"{:.1}\">{}</text>",
            y + 4.0,
            escape(name, usize::MAX)
        ));
        let end = width - PAD;
        line(format!(
            "<line class=\"n\" x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{end:.1}\" y2=\"{y:.1}\"/>",
            left - PAD
        ));
    }
    for (place, (machine, _)) in places.iter().zip(&graph.machines) {
        for (at, card) in machine.cards.iter().enumerate() {
            let Some(bus) = networks.iter().position(|network| network.name == card.network) else {
                continue;
            };
            let (x, y) = (place.card(at, step), bus_y(bottom, bus));
            line(format!("<line class=\"c\" x1=\"{x:.1}\" y1=\"{bottom:.1}\" x2=\"{x:.1}\" y2=\"{y:.1}\"/>"));
            line(format!("<circle class=\"k\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"));
            let text = escape(&address(card), usize::MAX);
            line(format!("<text class=\"s\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>", x + 6.0, y - 8.0));
        }
    }
    for (from, to) in &arcs {
        let (Some(from_at), Some(to_at)) = (places.get(*from), places.get(*to)) else { continue };
        // The arrow leads to what is needed, a little beside its middle: others may start there.
        let (x1, x2) = (from_at.middle(), to_at.middle() + 8.0);
        let peak = top - rise(*from, *to) * 4.0 / 3.0;
        line(format!(
            "<path class=\"d\" d=\"M{x1:.1} {top:.1} C{x1:.1} {peak:.1} {x2:.1} {peak:.1} {x2:.1} {top:.1}\"/>"
        ));
        let (l, r, y) = (x2 - 4.0, x2 + 4.0, top - 8.0);
        line(format!("<path class=\"a\" d=\"M{x2:.1} {top:.1} L{l:.1} {y:.1} L{r:.1} {y:.1} Z\"/>"));
    }
    for ((place, (machine, _)), lines) in places.iter().zip(&graph.machines).zip(&texts) {
        let class = if machine.autostart { "m" } else { "o" };
        line(format!(
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"4\"/>",
            place.x,
            place.width,
            bottom - top
        ));
        for (row, text) in lines.iter().enumerate() {
            let class = if row == 0 { "b" } else { "s" };
            let y = top + row as f64 * LINE + LINE;
            let text = escape(text, usize::MAX);
            line(format!("<text class=\"{class}\" x=\"{:.1}\" y=\"{y:.1}\">{text}</text>", place.x + PAD));
        }
    }
    line("</svg>".into());
    out
}

fn title(graph: &Graph<'_>) -> String {
    let root = &graph.project.root;
    root.file_name().map_or_else(|| root.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// What stands in the box of a machine.
fn lines(machine: &Machine) -> Vec<String> {
    let star = if machine.primary { " *" } else { "" };
    let mut lines = vec![format!("{}{star}", machine.name), machine.box_name.clone(), size(machine)];
    // The usual address goes without saying.
    let short = |text: String| text.strip_prefix("127.0.0.1:").map_or(text.clone(), str::to_owned);
    lines.extend(port_runs(&machine.ports).iter().map(|run| short(run.to_string())));
    lines.extend(machine.host_cards.iter().map(|card| card.to.to_string()));
    lines
}

fn bus_name(network: &crate::model::Network) -> String {
    let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
    [vec![network.name.clone()], subnets].concat().join(" ")
}

/// Nothing where the network gives it one.
fn address(card: &Card) -> String {
    let mut words: Vec<String> = card.addresses.iter().map(ToString::to_string).collect();
    words.extend(card.dhcp.then(|| "dhcp".to_owned()));
    words.join(" ")
}

/// From each machine to what it needs, by their places in the row.
fn arcs(graph: &Graph<'_>) -> Vec<(usize, usize)> {
    let place = |name: &String| graph.machines.iter().position(|(machine, _)| machine.name == *name);
    let from = |(at, (machine, _)): (usize, &(&Machine, usize))| {
        machine.depends_on.iter().filter_map(place).map(|to| (at, to)).collect::<Vec<_>>()
    };
    graph.machines.iter().enumerate().flat_map(from).collect()
}

fn rise(from: usize, to: usize) -> f64 {
    from.abs_diff(to).min(HIGHEST) as f64 * ARC + ARC
}

fn bus_y(bottom: f64, at: usize) -> f64 {
    bottom + (at + 1) as f64 * BUS - PAD
}

/// Of the widest of these texts.
fn wide(texts: &[String]) -> f64 {
    texts.iter().map(|text| text.chars().count()).max().unwrap_or(0) as f64 * CHAR
}
