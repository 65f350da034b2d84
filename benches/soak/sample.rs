//! What must not grow, once a second.

use super::Failure;
use std::time::Duration;
use stratalog::Store;

pub const NAMES: [&str; 10] = [
    "anonymous memory, MiB",
    "mapped and resident, MiB",
    "disk, MiB",
    "live, MiB",
    "disk / live",
    "segments",
    "index, KiB",
    "retired",
    "descriptors",
    "mappings",
];

#[derive(Clone, Debug)]
pub struct Sample {
    pub seconds: f64,
    /// In the order of [`NAMES`].
    pub values: [f64; NAMES.len()],
}

/// A line of `/proc/self/status`, in KiB.
fn kib(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

impl Sample {
    pub fn take(store: &Store, since: Duration) -> Result<Self, Failure> {
        let stats = store.stats();
        let status = std::fs::read_to_string("/proc/self/status")?;
        let maps = std::fs::read_to_string("/proc/self/maps")?.lines().count();
        let files = kib(&status, "RssFile") + kib(&status, "RssShmem");
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let values = [
            kib(&status, "RssAnon") / 1024.0,
            files / 1024.0,
            mib(stats.disk_bytes),
            mib(stats.live_bytes),
            stats.disk_bytes as f64 / stats.live_bytes.max(1 << 20) as f64,
            stats.segments as f64,
            stats.index_bytes as f64 / 1024.0,
            stats.retired as f64,
            std::fs::read_dir("/proc/self/fd")?.count() as f64,
            maps as f64,
        ];
        Ok(Self { seconds: since.as_secs_f64(), values })
    }
}

/// The slope of the line that fits best, by least squares.
pub fn slope_an_hour(samples: &[Sample], n: usize) -> f64 {
    let count = samples.len().max(1) as f64;
    let mean_t = samples.iter().map(|s| s.seconds).sum::<f64>() / count;
    let mean_v = samples.iter().map(|s| s.values[n]).sum::<f64>() / count;
    let (mut above, mut below) = (0.0, 0.0);
    for sample in samples {
        let t = sample.seconds - mean_t;
        above += t * (sample.values[n] - mean_v);
        below += t * t;
    }
    if below > 0.0 { above / below * 3600.0 } else { 0.0 }
}
