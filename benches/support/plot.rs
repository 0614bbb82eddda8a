//! Bar charts as SVG.

use std::fmt::Write;

/// One chart: for each group a bar for each series, in that order.
pub struct Panel {
    pub title: String,
    pub bars: Vec<f64>,
}

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 220.0;
/// Of the space for bars: its height, and the margins around it.
const BARS: f64 = 130.0;
const LEFT: f64 = 20.0;
const TOP: f64 = 45.0;
const COLOURS: [&str; 4] = ["#9aa5b1", "#e0a458", "#3b7dd8", "#5aa469"];

/// Charts in two columns with the same groups and series. Each has its own scale; each bar its
/// figure.
pub fn bars(panels: &[Panel], groups: &[std::rc::Rc<str>], series: &[&str]) -> String {
    let rows = panels.len().div_ceil(2) as f64;
    let (width, height) = (2.0 * WIDTH, rows * HEIGHT + 30.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        let (left, top) = ((at % 2) as f64 * WIDTH, (at / 2) as f64 * HEIGHT);
        let _ = writeln!(svg, "<g transform=\"translate({left} {top})\">");
        draw(&mut svg, panel, groups, series.len());
        svg.push_str("</g>\n");
    }
    for (at, (name, colour)) in series.iter().zip(COLOURS).enumerate() {
        let (left, top) = (LEFT + at as f64 * 90.0, height - 20.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            left + 15.0,
            top + 9.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, panel: &Panel, groups: &[std::rc::Rc<str>], series: usize) {
    let most = panel.bars.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let group_width = (WIDTH - 2.0 * LEFT) / groups.len() as f64;
    let bar_width = (group_width - 14.0) / series as f64;
    let floor = TOP + BARS;
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{}</text>\
         <line x1=\"{LEFT}\" x2=\"{}\" y1=\"{floor}\" y2=\"{floor}\" stroke=\"black\"/>",
        panel.title,
        WIDTH - LEFT
    );
    for (at, value) in panel.bars.iter().enumerate() {
        let (group, place) = (at / series, at % series);
        let left = LEFT + group as f64 * group_width + 7.0 + place as f64 * bar_width;
        let height = value / most * BARS;
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"9\">{}</text>",
            floor - height,
            bar_width - 3.0,
            COLOURS[place % COLOURS.len()],
            left + bar_width / 2.0 - 1.5,
            floor - height - 4.0,
            short(*value),
        );
    }
    for (at, name) in groups.iter().enumerate() {
        let middle = LEFT + (at as f64 + 0.5) * group_width;
        let _ = writeln!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            floor + 16.0
        );
    }
}

/// Three digits at most.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}
