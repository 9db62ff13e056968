//! The measurements as a picture: CPU over connections, a line for each tool.

use std::time::Duration;

use anyhow::{Result, anyhow};
use vms_plot::plotters::prelude::*;
use vms_plot::{Chart, Line, paint};

use crate::measure::Findings;
use crate::peers::{Cost, PEERS};
use crate::report::thousands;

const SIZE: (u32, u32) = (900, 520);
/// Pixels to the right of the last points, for the names of the lines.
const NAMES_WIDTH: u32 = 180;

/// The agent's own color, and those of the others.
const OWN: RGBColor = RGBColor(200, 30, 30);
const COLORS: [RGBColor; 9] = [
    RGBColor(31, 119, 180),
    RGBColor(23, 130, 140),
    RGBColor(44, 140, 44),
    RGBColor(148, 103, 189),
    RGBColor(230, 140, 20),
    RGBColor(60, 60, 60),
    RGBColor(140, 86, 75),
    RGBColor(210, 100, 180),
    RGBColor(120, 130, 30),
];

/// An SVG; none if there is no line to draw.
pub(crate) fn draw(findings: &[Findings]) -> Result<Option<String>> {
    let lines = lines(findings);
    let points: Vec<(f64, f64)> = lines.iter().flat_map(|line| line.points.iter().copied()).collect();
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let values = points.iter().map(of);
        (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max))
    };
    let ((left, right), (bottom, top)) = (bounds(|point| point.0), bounds(|point| point.1));
    if left >= right || bottom <= 0.0 {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw_chart(&root, &lines, left..right, decade_below(bottom)..top * 1.5)
            .map_err(|error| anyhow!("the plot: {error}"))?;
    }
    Ok(Some(svg))
}

fn lines(findings: &[Findings]) -> Vec<Line> {
    // A logarithm has no place for an empty host.
    let axis: Vec<_> = findings
        .iter()
        .filter(|one| one.on_axis)
        .filter_map(|one| {
            let connections = u32::try_from(one.host.connections).ok().filter(|&number| number > 0)?;
            Some((f64::from(connections), one.cycle().cycle, one.peers.as_deref().unwrap_or_default()))
        })
        .collect();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let others = PEERS.iter().zip(COLORS).enumerate().map(|(index, (peer, color))| Line {
        name: peer.name,
        color,
        width: 2,
        dots: true,
        points: axis
            .iter()
            .filter_map(|(connections, _, costs)| match costs.get(index)? {
                Cost::Cpu(time) => Some((*connections, milliseconds(*time))),
                _ => None,
            })
            .collect(),
    });
    let own = Line {
        name: "vms-agent, a steady cycle",
        color: OWN,
        width: 4,
        dots: true,
        points: axis.iter().map(|(connections, cycle, _)| (*connections, milliseconds(*cycle))).collect(),
    };
    // The last is drawn above the others.
    others.chain([own]).filter(|line| !line.points.is_empty()).collect()
}

fn draw_chart(
    root: &vms_plot::Area<'_>,
    lines: &[Line],
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let chart = Chart {
        caption: "CPU of one cycle, beside one call of other tools",
        x: "established connections on the host",
        y: "user and system time",
        x_label: &|value| format_connections(*value),
        y_label: &|value| format_milliseconds(*value),
        names_width: NAMES_WIDTH,
    };
    paint(root, &chart, lines, x.log_scale(), y.log_scale())?;
    root.present()?;
    Ok(())
}

fn decade_below(value: f64) -> f64 {
    10_f64.powf(value.log10().floor())
}

fn format_connections(value: f64) -> String {
    // Labels stand at powers of ten.
    format!("{value:.0}").parse().map_or_else(|_| String::new(), thousands)
}

fn format_milliseconds(value: f64) -> String {
    if value >= 999.0 {
        format!("{:.0} s", value / 1e3)
    } else if value >= 0.99 {
        format!("{value:.0} ms")
    } else {
        format!("{value} ms")
    }
}
