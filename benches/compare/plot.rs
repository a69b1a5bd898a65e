//! The plots of docs/speed.md: time per VIP against the number of VIPs.

use std::collections::BTreeMap;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Name, how it is drawn, and how its name is written.
const DRAWN: [(&str, RGBColor, &str); 5] = [
    (
        "kube-router's method",
        RGBColor(170, 51, 119),
        "kube-router's method",
    ),
    ("ip -batch", RGBColor(204, 119, 34), "ip -batch"),
    (
        "rtnetlink, 64 in flight",
        RGBColor(60, 140, 60),
        "rtnetlink, 64 in flight",
    ),
    ("viproute", RGBColor(31, 90, 180), "viproute"),
    ("floor", RGBColor(110, 110, 110), "the floor"),
];

/// The crosses of points with wrong VIPs.
const WRONG: RGBColor = RGBColor(200, 0, 0);

/// VIPs, time per VIP in µs, and how many came out wrong.
type Point = (f64, f64, u32);
/// The points of each way: whether it is route-only, and its name.
type Lines = BTreeMap<(bool, String), Vec<Point>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Log, Log>>;
type Log = plotters::coord::combinators::LogCoord<f64>;

/// A name beside the chart: at the height where its line ends.
struct Label {
    height: i32,
    name: String,
    color: RGBColor,
    dashed: bool,
}

/// Draws one family: all ways by address, and route-only beside them.
pub fn draw(family: &str, data: &str, file: &Path) {
    let lines = lines_of(family, data);
    let root = SVGBackend::new(file, (900, 560)).into_drawing_area();
    root.fill(&WHITE).unwrap();
    // Room on the right for the lines' names.
    let (inside, names) = root.split_horizontally(680);
    let mut chart = frame(&inside, family, &lines);
    let labels = lines
        .iter()
        .map(|((route_only, name), points)| draw_line(&mut chart, name, *route_only, points))
        .collect();
    let free = draw_labels(&names, labels);
    if lines.values().flatten().any(|at| at.2 > 0) {
        let y = free + 16;
        let cross = Cross::new((10, y), 6, WRONG.stroke_width(3));
        names.draw(&cross).unwrap();
        write(&names, "left wrong VIPs", y, WRONG);
    }
    root.present().unwrap();
}

fn lines_of(family: &str, data: &str) -> Lines {
    let mut lines = Lines::new();
    for line in data.lines().filter(|line| line.starts_with(family)) {
        let fields: Vec<&str> = line.split('\t').collect();
        let route_only = fields[0].ends_with("route only");
        let point = (
            fields[1].parse().unwrap(),
            fields[3].parse().unwrap(),
            fields[4].parse().unwrap(),
        );
        let key = (route_only, fields[2].to_owned());
        lines.entry(key).or_default().push(point);
    }
    lines
}

/// The axes, wide enough for all lines.
fn frame<'a, 'b>(inside: &Area<'b>, family: &str, lines: &Lines) -> Chart<'a, 'b> {
    let all: Vec<_> = lines.values().flatten().collect();
    let most = |of: fn(&Point) -> f64| all.iter().map(|at| of(at)).fold(0.0, f64::max);
    let least = all.iter().map(|at| at.1).fold(f64::MAX, f64::min);
    let mut chart = ChartBuilder::on(inside)
        .caption(format!("{family}: time per VIP"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (80.0..most(|at| at.0) * 1.2).log_scale(),
            (least / 1.5..most(|at| at.1) * 1.5).log_scale(),
        )
        .unwrap();
    chart
        .configure_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(215, 215, 215))
        .x_desc("VIPs in one call")
        .y_desc("µs per VIP")
        .x_label_formatter(&|n| number(*n))
        .y_label_formatter(&|time| number(*time))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()
        .unwrap();
    chart
}

fn draw_line(chart: &mut Chart<'_, '_>, name: &str, dashed: bool, points: &[Point]) -> Label {
    let (_, color, shown) = *DRAWN.iter().find(|drawn| drawn.0 == name).unwrap();
    let at = points.iter().map(|at| (at.0, at.1));
    // The thick line is viproute, and dashes are route-only.
    let style = color.stroke_width(if name == "viproute" { 3 } else { 2 });
    if dashed {
        let line = DashedLineSeries::new(at.clone(), 7, 4, style);
        chart.draw_series(line).unwrap();
    } else {
        let line = LineSeries::new(at.clone(), style);
        chart.draw_series(line).unwrap();
    }
    let dots = at.map(|at| Circle::new(at, 3, color.filled()));
    chart.draw_series(dots).unwrap();
    for (n, time, _) in points.iter().filter(|at| at.2 > 0) {
        let cross = Cross::new((*n, *time), 7, WRONG.stroke_width(3));
        chart.draw_series([cross]).unwrap();
    }
    let last = points.last().unwrap();
    let (_, height) = chart.backend_coord(&(last.0, last.1));
    let route_only = if dashed { ", route only" } else { "" };
    Label {
        height,
        name: format!("{shown}{route_only}"),
        color,
        dashed,
    }
}

/// Writes the names, not upon each other. Returns the height below the last one.
fn draw_labels(names: &Area<'_>, mut labels: Vec<Label>) -> i32 {
    labels.sort_by_key(|label| label.height);
    let mut free = 0;
    for label in labels {
        let y = label.height.max(free);
        free = y + 20;
        let parts: &[(i32, i32)] = match label.dashed {
            true => &[(2, 8), (12, 18)],
            false => &[(2, 18)],
        };
        for (from, to) in parts {
            let style = label.color.stroke_width(2);
            let part = PathElement::new([(*from, y), (*to, y)], style);
            names.draw(&part).unwrap();
        }
        write(names, &label.name, y, label.color);
    }
    free
}

fn write(names: &Area<'_>, text: &str, y: i32, color: RGBColor) {
    let style = TextStyle::from(("sans-serif", 14).into_font())
        .color(&color)
        .pos(Pos::new(HPos::Left, VPos::Center));
    names.draw(&Text::new(text, (24, y), style)).unwrap();
}

/// Powers of ten as people write them.
fn number(of: f64) -> String {
    if of >= 1_000.0 {
        let digits = format!("{of:.0}");
        let (thousands, rest) = digits.split_at(digits.len() - 3);
        format!("{thousands},{rest}")
    } else {
        format!("{of}")
    }
}
