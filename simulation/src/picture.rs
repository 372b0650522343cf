//! The picture: TTFT P90 of each policy at each load, as SVG for light and dark pages.

use std::fmt::Write as _;

use crate::experiment::{Comparison, Purpose};
use crate::scenario::{OURS, OURS_SPREAD, is_rival};
use crate::score::Score;

const WIDTH: usize = 900;
const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = WIDTH / COLUMNS;
const ROW_HEIGHT: usize = 20;
const TITLE_HEIGHT: usize = 44;
const HEAD_HEIGHT: usize = 62;
/// Where bars begin and how long the longest is.
const BAR_LEFT: usize = 112;
const BAR_LENGTH: f64 = 205.0;

const STYLE: &str = "\
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 15px; font-weight: 600 }
    .panel { font-weight: 600 }
    .note, .figure { fill: #59636e; font-size: 12px }
    .other { fill: #a8b1bb }
    .ours { fill: #0969da }
    .oracle { fill: none; stroke: #a8b1bb; stroke-dasharray: 3 2 }
    .worst { stroke: #59636e; stroke-width: 1.5 }
    .bold { font-weight: 600 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .note, .figure { fill: #9198a1 }
      .other { fill: #656c76 }
      .ours { fill: #4493f8 }
      .oracle { stroke: #656c76 }
      .worst { stroke: #9198a1 }
    }
";

/// A panel for each experiment with a load.
pub(crate) fn picture(results: &[Comparison]) -> String {
    let panels: Vec<&Comparison> = results.iter().filter(|result| result.experiment.purpose == Purpose::Load).collect();
    let rows = panels.iter().map(|result| result.scores.len()).max().unwrap_or(0);
    let panel_height = TITLE_HEIGHT + rows * ROW_HEIGHT;
    let height = HEAD_HEIGHT + panels.len().div_ceil(COLUMNS) * panel_height + 12;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"Time to the first token by policy and load\">\n  <style>\n{STYLE}  </style>\n\
         \x20 <text class=\"title\" x=\"12\" y=\"24\">Time to the first token, 90th percentile: less is better</text>\n\
         \x20 <text class=\"note\" x=\"12\" y=\"44\">Bar: mean of the seeds; line: to the worst seed. Oracle: knows the engines' times and caches.</text>\n"
    );
    for (index, result) in panels.into_iter().enumerate() {
        let left = index % COLUMNS * PANEL_WIDTH;
        let top = HEAD_HEIGHT + index / COLUMNS * panel_height;
        panel(&mut svg, result, left, top);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, result: &Comparison, left: usize, top: usize) {
    let name = result.experiment.name.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "  <text class=\"panel\" x=\"{}\" y=\"{}\">{name}</text>", left + 12, top + 26);
    let longest = result.scores.iter().map(|scores| Score::worst(scores).first_token[1]).fold(1.0, f64::max);
    for (row, (contender, scores)) in result.experiment.contenders.iter().zip(&result.scores).enumerate() {
        let (mean, worst) = (Score::mean(scores), Score::worst(scores));
        let length = |millis: f64| millis / longest * BAR_LENGTH;
        let (bar, whisker) = (length(mean.first_token[1]), length(worst.first_token[1]));
        let y = top + TITLE_HEIGHT - 8 + row * ROW_HEIGHT;
        let is_ours = contender.name == OURS || contender.name == OURS_SPREAD;
        let class = match (is_ours, is_rival(&contender.name)) {
            (true, _) => "ours",
            (false, true) => "other",
            (false, false) => "oracle",
        };
        let label = if is_ours { " class=\"bold\"" } else { "" };
        let x = left + BAR_LEFT;
        let middle = y + ROW_HEIGHT / 2 - 3;
        let (start, end) = (x as f64 + bar, x as f64 + whisker);
        let _ = writeln!(
            svg,
            "  <text{label} x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             \x20 <rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{bar:.1}\" height=\"{}\" rx=\"2\"/>\n\
             \x20 <line class=\"worst\" x1=\"{start:.1}\" y1=\"{middle}\" x2=\"{end:.1}\" y2=\"{middle}\"/>\n\
             \x20 <text class=\"figure\" x=\"{:.1}\" y=\"{}\">{:.0} ms, hits {:.2}</text>",
            x - 6,
            y + 11,
            contender.name,
            ROW_HEIGHT - 6,
            end + 5.0,
            y + 11,
            mean.first_token[1],
            mean.hits
        );
    }
}
