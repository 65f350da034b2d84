//! The samples as a picture, one strip for each series, and as a table.

use super::sample::{NAMES, Sample};
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const STRIP: f64 = 110.0;
const LEFT: f64 = 90.0;
const HIGH: f64 = 70.0;

pub fn svg(samples: &[Sample]) -> String {
    let height = STRIP * NAMES.len() as f64 + 30.0;
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{}' height='{height}' \
         font-family='sans-serif' font-size='11'>\n<rect width='100%' height='100%' \
         fill='white'/>\n",
        LEFT + WIDTH + 20.0
    );
    let end = samples.last().map_or(1.0, |sample| sample.seconds.max(1.0));
    for (n, name) in NAMES.iter().enumerate() {
        let top = STRIP * n as f64 + 25.0;
        let highest = samples.iter().map(|s| s.values[n]).fold(0.0, f64::max);
        let scale = if highest > 0.0 { HIGH / highest } else { 0.0 };
        let points = samples.iter().map(|sample| {
            let x = LEFT + sample.seconds / end * WIDTH;
            format!("{x:.1},{:.1}", top + HIGH - sample.values[n] * scale)
        });
        let points: Vec<_> = points.collect();
        // Writing to a string cannot fail.
        let written = writeln!(
            out,
            "<text x='{LEFT}' y='{}'>{name}</text><text x='{}' y='{}' text-anchor='end'>\
             {highest:.1}</text><text x='{}' y='{}' text-anchor='end'>0</text>\
             <rect x='{LEFT}' y='{top}' width='{WIDTH}' height='{HIGH}' fill='none' \
             stroke='#ccc'/><polyline fill='none' stroke='#1560a8' points='{}'/>",
            top - 5.0,
            LEFT - 6.0,
            top + 9.0,
            LEFT - 6.0,
            top + HIGH,
            points.join(" ")
        );
        debug_assert!(written.is_ok(), "a string takes everything");
    }
    out + &format!(
        "<text x='{}' y='{}' text-anchor='end'>{end:.0} s</text>\n</svg>\n",
        LEFT + WIDTH,
        height - 10.0
    )
}

pub fn csv(samples: &[Sample]) -> String {
    let head = format!("seconds;{}\n", NAMES.join(";"));
    samples.iter().fold(head, |table, sample| {
        let values: Vec<_> = sample.values.iter().map(|value| format!("{value:.3}")).collect();
        table + &format!("{:.1};{}\n", sample.seconds, values.join(";"))
    })
}
