//! `stat --segments`: a line for each segment, and a picture of what it holds.

use crate::output::{self, count, size};
use serde::Serialize;
use std::io::Write;
use stratalog::{SegmentRole, SegmentState, SegmentStats, Store};

/// Characters of a picture: one for each 32nd of the segment.
const PICTURE: u64 = 32;

/// A segment, as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Segment {
    sequence: u64,
    role: &'static str,
    state: &'static str,
    path: String,
    slots: u32,
    durable_slots: u32,
    live_bytes: u64,
    dead_bytes: u64,
    needed_bytes: u64,
    free_bytes: u64,
    disk_bytes: u64,
}

impl Segment {
    /// Of a store's segment.
    pub fn new(stats: &SegmentStats, store: &Store) -> Self {
        let used = stats.live_bytes + stats.dead_bytes + stats.needed_bytes;
        Self {
            sequence: stats.sequence,
            role: role(stats.role),
            state: state(stats.state),
            path: stats.path.display().to_string(),
            slots: stats.slots,
            durable_slots: stats.durable_slots,
            live_bytes: stats.live_bytes,
            dead_bytes: stats.dead_bytes,
            needed_bytes: stats.needed_bytes,
            free_bytes: store.segment_size().saturating_sub(used),
            disk_bytes: stats.disk_bytes,
        }
    }

    fn picture(&self) -> String {
        let parts = [
            ('#', self.live_bytes),
            ('x', self.dead_bytes),
            ('n', self.needed_bytes),
            ('.', self.free_bytes),
        ];
        picture(parts)
    }
}

fn role(role: SegmentRole) -> &'static str {
    match role {
        SegmentRole::Log => "log",
        SegmentRole::Copies => "copies",
        _ => "other",
    }
}

fn state(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Active => "active",
        SegmentState::Sealed => "sealed",
        SegmentState::Retained => "retained",
        _ => "other",
    }
}

/// Characters in proportion to amounts; what is there at all has at least one.
fn picture(parts: [(char, u64); 4]) -> String {
    let total = parts.iter().map(|part| part.1).sum::<u64>().max(1);
    let mut widths = parts.map(|(_, amount)| (amount * PICTURE / total).max(u64::from(amount > 0)));
    // What rounding gave or took belongs to the widest.
    while widths.iter().sum::<u64>() != PICTURE {
        let less = widths.iter().sum::<u64>() > PICTURE;
        let Some(widest) = widths.iter_mut().max() else { break };
        *widest = if less { *widest - 1 } else { *widest + 1 };
    }
    let draw = |((c, _), width): (&(char, u64), u64)| String::from(*c).repeat(width as usize);
    parts.iter().zip(widths).map(draw).collect()
}

/// The table.
pub fn print(store: &Store) -> anyhow::Result<()> {
    let mut out = output::stdout();
    writeln!(out)?;
    writeln!(
        out,
        "{:>8} {:<6} {:<8} {:>9} {:>10} {:>10} {:>10}  # live, x dead, n needed, . free",
        "segment", "role", "state", "slots", "live", "dead", "disk"
    )?;
    for stats in store.segments() {
        let segment = Segment::new(&stats, store);
        writeln!(
            out,
            "{:>8} {:<6} {:<8} {:>9} {:>10} {:>10} {:>10}  {}",
            segment.sequence,
            segment.role,
            segment.state,
            count(segment.slots.into()),
            size(segment.live_bytes),
            size(segment.dead_bytes + segment.needed_bytes),
            size(segment.disk_bytes),
            segment.picture()
        )?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_width_and_shows_all_that_is_there() {
        for (amounts, drawn) in [
            ([1, 1, 1, 1], "########xxxxxxxxnnnnnnnn........"),
            ([0, 0, 0, 7], "................................"),
            ([1, 0, 0, 1 << 20], "#..............................."),
        ] {
            let [live, dead, needed, free] = amounts;
            let shown = picture([('#', live), ('x', dead), ('n', needed), ('.', free)]);
            assert_eq!(shown, drawn);
        }
        assert_eq!(picture([('#', 0), ('x', 0), ('n', 0), ('.', 0)]).len(), 32);
    }
}
