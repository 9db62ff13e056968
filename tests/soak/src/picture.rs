//! The samples as a picture: three charts over the same time.

use anyhow::{Result, anyhow};
use vms_agent_tests::Usage;
use vms_plot::plotters::prelude::*;
use vms_plot::{Chart, Line, paint};

use crate::run::Outcome;

const SIZE: (u32, u32) = (900, 900);
const NAMES_WIDTH: u32 = 130;
const MEMORY: RGBColor = RGBColor(200, 30, 30);
const DESCRIPTORS: RGBColor = RGBColor(31, 119, 180);
const THREADS: RGBColor = RGBColor(44, 140, 44);
const POINTS: RGBColor = RGBColor(60, 60, 60);
const KILLS: RGBColor = RGBColor(230, 140, 20);

/// An SVG.
pub(crate) fn draw(outcome: &Outcome) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        paint_all(&root, outcome).map_err(|error| anyhow!("the plot: {error}"))?;
    }
    Ok(svg)
}

fn paint_all(root: &vms_plot::Area<'_>, outcome: &Outcome) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let areas = root.split_evenly((3, 1));
    let end = seconds(outcome, outcome.ended) / 60.0;
    let used = |name, color, of: fn(&Usage) -> f64| Line {
        name,
        color,
        width: 2,
        dots: false,
        points: outcome.samples.iter().map(|(time, usage)| (time / 60.0, of(usage))).collect(),
    };
    let memory = used("resident", MEMORY, |usage| usage.resident_kib as f64 / 1024.0);
    let descriptors = used("descriptors", DESCRIPTORS, |usage| usage.descriptors as f64);
    let threads = used("threads", THREADS, |usage| usage.threads as f64);
    let content = outcome.record.content();
    let arrived = content.arrived.iter().filter(|(second, _)| **second * 1_000_000_000 <= outcome.ended);
    let arrived = Line {
        name: "points",
        color: POINTS,
        width: 1,
        dots: false,
        points: arrived
            .map(|(second, points)| (seconds(outcome, second * 1_000_000_000) / 60.0, *points as f64))
            .collect(),
    };
    for (area, caption, y, lines) in [
        (&areas[0], "Memory of the agent", "MiB", vec![memory]),
        (&areas[1], "Threads and descriptors of the agent", "count", vec![descriptors, threads]),
        (&areas[2], "What the collector stored", "points a second", vec![arrived]),
    ] {
        let top = lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(1.0, f64::max) * 1.15;
        let mut lines = lines;
        let from = seconds(outcome, outcome.kills_from) / 60.0;
        // A line at the bottom of each chart, for as long as there are kills.
        lines.insert(
            0,
            Line {
                name: "kills",
                color: KILLS,
                width: 4,
                dots: false,
                points: vec![(from, 0.0), (end, 0.0)],
            },
        );
        let chart = Chart {
            caption,
            x: "minutes",
            y,
            x_label: &|value| format!("{value:.0}"),
            y_label: &|value| format!("{value:.0}"),
            names_width: NAMES_WIDTH,
        };
        paint(area, &chart, &lines, 0.0..end, 0.0..top)?;
    }
    root.present()?;
    Ok(())
}

fn seconds(outcome: &Outcome, time: u64) -> f64 {
    time.saturating_sub(outcome.began) as f64 / 1e9
}
