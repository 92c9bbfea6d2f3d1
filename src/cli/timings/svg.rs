//! The chart as a picture: one bar a phase on an axis of time. It stands by itself: no script, no
//! font, no link, and every text in it is escaped.

use std::fmt::Write;

use super::Chart;
use crate::cli::ui::xml::escape;

/// Sizes in pixels.
const LABELS: f64 = 240.0;
const BARS: f64 = 640.0;
const VALUES: f64 = 100.0;
const ROW: f64 = 22.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 28.0;

/// Characters of a label that fit beside the bars.
const LABEL_CHARS: usize = 34;

/// Colours by who spends the time: rvm and the host, the guest, SSH, the user's steps.
const HOST: &str = "#4c78a8";
const GUEST: &str = "#f58518";
const SSH: &str = "#54a24b";
const STEP: &str = "#b279a2";

const STYLE: &str = "text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:14px}\
.v{fill:#555}.a{text-anchor:middle;fill:#555}.l{text-anchor:end}.g{stroke:#ddd}";

/// Draws it.
pub(super) fn draw(chart: &Chart) -> String {
    let rows = chart.phases.len() as f64;
    let (width, height) = (LABELS + BARS + VALUES, TOP + rows * ROW + BOTTOM);
    let scale = BARS / chart.total_ms.max(0.001);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("<text class=\"t\" x=\"8\" y=\"22\">{}</text>", escape(&title(chart), usize::MAX)));
    let floor = TOP + rows * ROW;
    let step = tick(chart.total_ms);
    for at in (0..).map(|n| f64::from(n) * step).take_while(|at| *at <= chart.total_ms) {
        let x = LABELS + at * scale;
        line(format!("<line class=\"g\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{floor}\"/>"));
        line(format!("<text class=\"a\" x=\"{x:.1}\" y=\"{}\">{}</text>", floor + 16.0, time(at)));
    }
    for (row, bar) in chart.phases.iter().enumerate() {
        let y = TOP + row as f64 * ROW;
        let x = LABELS + bar.start_ms * scale;
        // Thinner than this it cannot be seen.
        let wide = (bar.duration_ms * scale).max(1.0);
        let (label, whole) = (bar.label(), escape(&bar.label(), usize::MAX));
        let (text, took, fill) = (escape(&label, LABEL_CHARS), time(bar.duration_ms), colour(bar.phase));
        line(format!("<g><title>{whole}: {took}</title>"));
        line(format!("<text class=\"l\" x=\"{}\" y=\"{}\">{text}</text>", LABELS - 8.0, y + 15.0));
        line(format!(
            "<rect x=\"{x:.1}\" y=\"{}\" width=\"{wide:.1}\" height=\"{}\" fill=\"{fill}\"/>",
            y + 3.0,
            ROW - 6.0
        ));
        line(format!("<text class=\"v\" x=\"{:.1}\" y=\"{}\">{took}</text></g>", x + wide + 5.0, y + 15.0));
    }
    line("</svg>".into());
    out
}

fn title(chart: &Chart) -> String {
    let mut text = format!("{}: {}", chart.machine, time(chart.total_ms));
    for word in chart.box_name.as_deref().into_iter().chain(chart.provider) {
        let _ = write!(text, ", {word}");
    }
    if !chart.completed {
        text.push_str(", not completed");
    }
    text
}

fn colour(phase: &str) -> &'static str {
    match phase {
        "boot" | "kernel" | "user_space" => GUEST,
        "ssh" => SSH,
        "step" | "ready" => STEP,
        _ => HOST,
    }
}

/// Milliseconds as a person reads them.
fn time(ms: f64) -> String {
    if ms == 0.0 {
        "0".into()
    } else if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.2} s", ms / 1000.0)
    }
}

/// Distance of the marks on the axis: 1, 2 or 5 times a power of ten, 4 to 10 marks.
fn tick(total_ms: f64) -> f64 {
    let rough = (total_ms / 10.0).max(0.001);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    factor * power
}
