//! The same figures as pictures: medians as bars, latencies of durable puts by percentile.

use crate::engines::{Engine, Failure, Stratalog};
use crate::report::{TABLES, Workload, median};
use crate::samples::{Sample, Samples};
use crate::work::{BARE, THREADS};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

const FONT: &str = "sans-serif";
const PANEL: (u32, u32) = (420, 260);
const FILES: [&str; 4] = ["puts.svg", "gets.svg", "cpu.svg", "durable.svg"];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws everything into a directory.
pub fn all(samples: &Samples, engines: &[&str], dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)?;
    for ((title, workloads), file) in TABLES.iter().zip(FILES) {
        bars(&samples.all, engines, title, workloads, &dir.join(file))?;
    }
    latencies(samples, engines, &dir.join("latencies.svg"))
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

/// Of all rounds together, one panel for each number of threads.
fn latencies(samples: &Samples, engines: &[&str], file: &Path) -> Result<(), Failure> {
    let whole = SVGBackend::new(file, (1260, 560)).into_drawing_area();
    whole.fill(&WHITE)?;
    let title = "Durable puts: microseconds until acknowledged, by percentile";
    let panels = whole.titled(title, (FONT, 20))?.split_evenly((1, 2));
    for (panel, threads) in panels.iter().zip([1, THREADS]) {
        latency_panel(panel, samples, engines, threads)?;
    }
    Ok(whole.present()?)
}

/// The tail is what is to be seen: as many digits of nine as puts allow, each as wide.
const NINES: f64 = 4.0;

fn latency_panel(
    panel: &Area<'_>,
    samples: &Samples,
    engines: &[&str],
    threads: u64,
) -> Result<(), Failure> {
    let mut chart = ChartBuilder::on(panel)
        .caption(if threads == 1 { "1 thread" } else { "8 threads" }, (FONT, 14))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..NINES, (50.0..1_000_000.0).log_scale())?;
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
        let of = |of: &&(String, u64, _)| of.0 == *engine && of.1 == threads;
        let Some((_, _, times)) = samples.latencies.iter().find(of) else { continue };
        let at = |step: u32| {
            let nines = f64::from(step) * NINES / 100.0;
            (nines, times.value_at_quantile(1.0 - 10f64.powf(-nines)) as f64 / 1000.0)
        };
        let style = match *engine {
            Stratalog::NAME => RED.stroke_width(3),
            BARE => BLACK.stroke_width(2),
            _ => Palette99::pick(n).stroke_width(1),
        };
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
