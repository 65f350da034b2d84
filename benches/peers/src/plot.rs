//! The same figures as pictures: medians as bars, latencies by percentile, rates by threads.

use crate::engines::{Driver, Engine, Failure, Stratalog};
use crate::parts;
use crate::report::{TABLES, Workload, median};
use crate::samples::{Latencies, Sample, Samples};
use crate::work::{BARE, THREADS};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

const FONT: &str = "sans-serif";
const PANEL: (u32, u32) = (420, 260);
/// Of each table; tables that are drawn as lines have none.
const FILES: [Option<&str>; 8] = [
    Some("puts.svg"),
    Some("gets.svg"),
    Some("cpu.svg"),
    Some("durable.svg"),
    Some("prepared.svg"),
    None,
    None,
    Some("reopen.svg"),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws everything into a directory.
pub fn all(samples: &Samples, engines: &[&str], dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)?;
    // No engine; beside it none would be seen.
    let engines: Vec<_> = engines.iter().copied().filter(|name| *name != Driver::NAME).collect();
    let engines = &engines[..];
    for ((title, workloads), file) in TABLES.iter().zip(FILES) {
        let measured = |w: &Workload| median(&samples.all, Stratalog::NAME, w.name).is_some();
        if let Some(file) = file
            && workloads.iter().any(measured)
        {
            bars(&samples.all, engines, title, workloads, &dir.join(file))?;
        }
    }
    if !samples.latencies.is_empty() {
        let title = "Durable puts: microseconds until acknowledged, by percentile";
        let panels = [(1, "1 thread"), (THREADS, "8 threads")];
        latencies(&samples.latencies, engines, title, panels, &dir.join("latencies.svg"))?;
    }
    if !samples.reads.is_empty() {
        let title = "Gets of two threads: microseconds, by percentile";
        let panels = [(0, "alone"), (1, "beside two writers")];
        latencies(&samples.reads, engines, title, panels, &dir.join("readers.svg"))?;
    }
    if median(&samples.all, Stratalog::NAME, "put x1t").is_some() {
        threads(&samples.all, engines, &dir.join("threads.svg"))?;
    }
    Ok(())
}

/// Puts and gets a second, by threads.
fn threads(samples: &[Sample], engines: &[&str], file: &Path) -> Result<(), Failure> {
    let whole = SVGBackend::new(file, (1260, 560)).into_drawing_area();
    whole.fill(&WHITE)?;
    let panels = whole.titled("Thousands a second, by threads", (FONT, 20))?.split_evenly((1, 2));
    for (panel, what) in panels.iter().zip(["put", "get"]) {
        let of = |engine: &str, threads: u64| {
            median(samples, engine, &format!("{what} x{threads}t")).unwrap_or_default()
        };
        let all = engines.iter().flat_map(|e| parts::THREADS.map(|threads| of(e, threads)));
        let most = all.fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(panel)
            .caption(what, (FONT, 14))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d((1.0..8.0).log_scale().base(2.0), (2.0..most * 1.2).log_scale())?;
        chart
            .configure_mesh()
            .x_labels(4)
            .x_label_formatter(&|threads: &f64| format!("{threads}"))
            .x_desc("threads")
            .y_label_formatter(&|rate: &f64| format!("{rate}"))
            .draw()?;
        for (n, engine) in engines.iter().enumerate() {
            let points: Vec<_> =
                parts::THREADS.iter().map(|&t| (t as f64, of(engine, t))).collect();
            if points.iter().any(|(_, rate)| *rate > 0.0) {
                let style = style(n, engine);
                chart
                    .draw_series(LineSeries::new(points, style))?
                    .label(*engine)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
            }
        }
        // Room below the slowest, for the names.
        let labels = SeriesLabelPosition::LowerRight;
        chart.configure_series_labels().position(labels).background_style(WHITE.mix(0.8)).draw()?;
    }
    Ok(whole.present()?)
}

fn style(n: usize, engine: &str) -> ShapeStyle {
    match engine {
        Stratalog::NAME => RED.stroke_width(3),
        BARE => BLACK.stroke_width(2),
        _ => Palette99::pick(n).stroke_width(1),
    }
}

/// A panel of bars for each workload, three in a row.
fn bars(
    samples: &[Sample],
    engines: &[&str],
    title: &str,
    workloads: &[Workload],
    file: &Path,
) -> Result<(), Failure> {
    let rows = workloads.len().div_ceil(3);
    let size = (PANEL.0 * 3, PANEL.1 * rows as u32 + 40);
    let whole = SVGBackend::new(file, size).into_drawing_area();
    whole.fill(&WHITE)?;
    let title = format!("{title}: medians");
    let panels = whole.titled(&title, (FONT, 20))?.split_evenly((rows, 3));
    for (panel, workload) in panels.iter().zip(workloads) {
        bar_panel(panel, samples, engines, workload)?;
    }
    Ok(whole.present()?)
}

fn bar_panel(
    panel: &Area<'_>,
    samples: &[Sample],
    engines: &[&str],
    workload: &Workload,
) -> Result<(), Failure> {
    let of = |engine: &&str| Some((engine.to_string(), median(samples, engine, workload.name)?));
    let values: Vec<(String, f64)> = engines.iter().filter_map(of).collect();
    let most = values.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let better = if workload.less_is_better { "less" } else { "more" };
    let caption = format!("{}, {} ({better} is better)", workload.name, workload.unit);
    let rows = values.len() as i32;
    let mut chart = ChartBuilder::on(panel)
        .caption(caption, (FONT, 14))
        .margin(8)
        .x_label_area_size(22)
        .y_label_area_size(100)
        .build_cartesian_2d(0.0..most * 1.05, (0..rows).into_segmented())?;
    let name = |at: &SegmentValue<i32>| match at {
        SegmentValue::CenterOf(n) => match values.get((rows - 1 - n) as usize) {
            Some((name, _)) => name.clone(),
            None => String::new(),
        },
        _ => String::new(),
    };
    let number = |value: &f64| format!("{value}");
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_labels(5)
        .y_labels(values.len() + 1)
        .x_label_formatter(&number)
        .y_label_formatter(&name)
        .draw()?;
    chart.draw_series(values.iter().enumerate().map(|(n, (name, value))| {
        let (row, ours) = (rows - 1 - n as i32, name == Stratalog::NAME);
        let colour = if ours { RED.mix(0.8) } else { BLUE.mix(0.4) };
        let from = (0.0, SegmentValue::Exact(row));
        let mut bar =
            Rectangle::new([from, (*value, SegmentValue::Exact(row + 1))], colour.filled());
        bar.set_margin(3, 3, 0, 0);
        bar
    }))?;
    Ok(())
}

/// Of all rounds together.
fn latencies(
    samples: &Latencies,
    engines: &[&str],
    title: &str,
    which: [(u64, &str); 2],
    file: &Path,
) -> Result<(), Failure> {
    let whole = SVGBackend::new(file, (1260, 560)).into_drawing_area();
    whole.fill(&WHITE)?;
    let panels = whole.titled(title, (FONT, 20))?.split_evenly((1, 2));
    for (panel, which) in panels.iter().zip(which) {
        latency_panel(panel, samples, engines, which)?;
    }
    Ok(whole.present()?)
}

/// The tail is what is to be seen: as many digits of nine as puts allow, each as wide.
const NINES: f64 = 4.0;

fn latency_panel(
    panel: &Area<'_>,
    samples: &Latencies,
    engines: &[&str],
    (number, caption): (u64, &str),
) -> Result<(), Failure> {
    let of = |engine: &str| samples.iter().find(|of| of.0 == engine && of.1 == number);
    let quantile = |engine: &&str, q| Some(of(engine)?.2.value_at_quantile(q) as f64 / 1000.0);
    let all = |q| engines.iter().filter_map(move |engine| quantile(engine, q));
    let (least, most) = (all(0.01).fold(f64::MAX, f64::min), all(0.9999).fold(1.0, f64::max));
    let mut chart = ChartBuilder::on(panel)
        .caption(caption, (FONT, 14))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..NINES, (least.min(most) * 0.8..most * 1.5).log_scale())?;
    let percentile = |nines: &f64| {
        let text = format!("{:.4}", 100.0 - 100.0 * 10f64.powf(-nines));
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    chart
        .configure_mesh()
        .x_labels(5)
        .x_label_formatter(&percentile)
        .x_desc("percentile")
        .y_label_formatter(&|us: &f64| format!("{us}"))
        .y_desc("us")
        .draw()?;
    for (n, engine) in engines.iter().enumerate() {
        let Some((_, _, times)) = of(engine) else { continue };
        let at = |step: u32| {
            let nines = f64::from(step) * NINES / 100.0;
            (nines, times.value_at_quantile(1.0 - 10f64.powf(-nines)) as f64 / 1000.0)
        };
        let style = style(n, engine);
        let line = LineSeries::new((0..=100).map(at), style);
        chart
            .draw_series(line)?
            .label(*engine)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
