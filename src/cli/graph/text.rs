//! The graph for people.

use super::{Graph, size};
use crate::model::{HostCard, port_runs};
use crate::plan::{card_text, host_card_text};

/// Width of the words before what they are about.
const WORD: usize = 8;

/// Machines with what they need and lead to, then the networks with who is in them.
pub(super) fn text(graph: &Graph<'_>) -> String {
    let mut out = String::new();
    let stages = graph.stages();
    if stages.len() > 1 {
        let stages: Vec<String> = stages.iter().map(|names| names.join(", ")).collect();
        out.push_str(&format!("Order: {}\n\n", stages.join(" → ")));
    }
    for (machine, _) in &graph.machines {
        let mut head = format!("{}  {}, {}", machine.name, machine.box_name, size(machine));
        if machine.primary {
            head.push_str(", primary");
        }
        if !machine.autostart {
            head.push_str(", not started by itself");
        }
        let mut lines: Vec<(&str, String)> = Vec::new();
        let mut list = |word, names: &[String]| {
            if !names.is_empty() {
                lines.push((word, names.join(", ")));
            }
        };
        list("groups", &machine.groups);
        list("needs", &machine.depends_on);
        lines.extend(port_runs(&machine.ports).iter().map(|run| ("port", run.to_string())));
        let card = |card| ("network", format!("{}: {}", card_name(card), card_text(card)));
        lines.extend(machine.cards.iter().map(card));
        let host_card = |card: &HostCard| ("network", format!("{}: {}", card.to, host_card_text(card)));
        lines.extend(machine.host_cards.iter().map(host_card));
        branch(&mut out, &head, &lines);
    }
    for network in &graph.project.networks {
        let mut words: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
        words.extend(network.shared.then(|| "shared".to_owned()));
        words.extend((!network.dhcp).then(|| "no DHCP".to_owned()));
        words.extend((network.mtu != 1500).then(|| format!("MTU {}", network.mtu)));
        let head = format!("network {}  {}", network.name, words.join(", "));
        let members: Vec<(&str, String)> =
            graph.members(network).map(|(machine, card)| (machine.name.as_str(), card_text(card))).collect();
        out.push('\n');
        branch(&mut out, head.trim_end(), &members);
    }
    out
}

fn card_name(card: &crate::model::Card) -> &str {
    &card.network
}

/// A line and what hangs below it.
fn branch(out: &mut String, head: &str, lines: &[(&str, String)]) {
    out.push_str(head);
    out.push('\n');
    let width = lines.iter().map(|(word, _)| word.len()).max().unwrap_or(0).max(WORD);
    for (at, (word, text)) in lines.iter().enumerate() {
        let sign = if at + 1 == lines.len() { '└' } else { '├' };
        out.push_str(&format!("  {sign} {word:<width$} {text}\n"));
    }
}
