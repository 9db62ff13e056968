//! Line charts as SVG: axes, a mesh, and the name of each line beside its end.

use std::error::Error;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub use plotters;

/// The font of all texts.
pub const FONT: &str = "sans-serif";
/// Pixels from one name to the next below it.
const NAME_HEIGHT: i32 = 17;

/// Where a chart is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What stands around the lines of a chart.
pub struct Chart<'a> {
    /// Above it.
    pub caption: &'a str,
    /// What the horizontal axis measures.
    pub x: &'a str,
    /// What the vertical axis measures.
    pub y: &'a str,
    /// How a value of the horizontal axis is written.
    pub x_label: &'a dyn Fn(&f64) -> String,
    /// How a value of the vertical axis is written.
    pub y_label: &'a dyn Fn(&f64) -> String,
    /// Pixels to the right of the last points, for the names of the lines.
    pub names_width: u32,
}

/// A line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// What stands beside its end.
    pub name: &'static str,
    /// Its color.
    pub color: RGBColor,
    /// Its width in pixels.
    pub width: u32,
    /// Whether its points are shown as dots.
    pub dots: bool,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

impl std::fmt::Debug for Chart<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Chart").field("caption", &self.caption).finish_non_exhaustive()
    }
}

/// Draws a chart; the last line above the others.
///
/// # Errors
/// What the drawing library says.
pub fn paint<X, Y>(
    area: &Area<'_>,
    chart: &Chart<'_>,
    lines: &[Line],
    x: X,
    y: Y,
) -> Result<(), Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut context = ChartBuilder::on(area)
        .caption(chart.caption, (FONT, 20))
        .margin(12)
        .margin_right(chart.names_width)
        .x_label_area_size(48)
        .y_label_area_size(78)
        .build_cartesian_2d(x, y)?;
    context
        .configure_mesh()
        .x_desc(chart.x)
        .y_desc(chart.y)
        .x_label_formatter(&|value| (chart.x_label)(value))
        .y_label_formatter(&|value| (chart.y_label)(value))
        .axis_desc_style((FONT, 15))
        .label_style((FONT, 14))
        .bold_line_style(RGBColor(215, 215, 215))
        .light_line_style(RGBColor(242, 242, 242))
        .draw()?;

    let mut names = Vec::new();
    for line in lines {
        let style = line.color.stroke_width(line.width);
        context.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        if line.dots {
            let dot = |&point: &(f64, f64)| Circle::new(point, line.width + 1, line.color.filled());
            context.draw_series(line.points.iter().map(dot))?;
        }
        if let Some(last) = line.points.last() {
            names.push((context.backend_coord(last), line));
        }
    }
    // From the lowest to the highest: each name beside the end of its line, or above the one below it.
    names.sort_by_key(|((x, y), _)| (*x, -*y));
    let mut below: Option<(i32, i32)> = None;
    for ((x, y), line) in names {
        let y = match below {
            Some((same, taken)) if same == x => y.min(taken - NAME_HEIGHT),
            _ => y,
        };
        below = Some((x, y));
        let style = (FONT, 15).into_text_style(area).color(&line.color);
        // An area's own coordinates begin at its corner, those of the back end at the picture's.
        let (left, top) = area.get_base_pixel();
        let place = (x + 10 - left, y - top);
        area.draw(&Text::new(line.name, place, style.pos(Pos::new(HPos::Left, VPos::Center))))?;
    }
    Ok(())
}
