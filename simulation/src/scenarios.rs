//! Plans made by hand, each run under many schedules: what was found once is found again.

use crate::plan::{Ending, Life, Operation, Plan, ROOMY};
use crate::run::run;
use simulated_machine::{Faults, Policy, Settings};

/// The first failure of a plan under this many schedules.
fn failure(plan: &Plan, schedules: u64) -> Option<String> {
    (0..schedules).find_map(|seed| {
        let mut plan = plan.clone();
        plan.settings.seed = seed;
        plan.settings.policy = Policy::Uniform { stays: 1 << (seed % 6) };
        run(&plan).failure.map(|failure| format!("schedule {seed}: {failure}"))
    })
}

fn plan(lives: Vec<Life>) -> Plan {
    let settings = Settings { disk_bytes: ROOMY, steps_max: 3_000_000, ..Settings::default() };
    let (dimension, segment_bytes, has_neighbour) = (2, 16 << 10, false);
    Plan { settings, dimension, segment_bytes, ids: 4, has_neighbour, lives }
}

fn life(operations: &[Operation], ending: Ending) -> Life {
    Life { threads: vec![operations.to_vec()], ending, ..Life::default() }
}

/// An opening that could not tell the boot flushed a younger segment before an older one, and
/// failed in between; the next one took the younger one's durable end for a proof of the older.
#[test]
fn an_opening_without_a_boot_id_that_fails_leaves_no_proof_of_what_it_has_not_seen_to() {
    let put = |id| Operation::Put { id, len: 4000 };
    let writes = [put(0), Operation::Sync, put(1), put(2), put(3), put(0), put(1)];
    for after in (300..700).step_by(50) {
        let first = life(&writes, Ending::PowerLoss { after });
        let second = Life {
            hides_boot: true,
            faults: Faults { flush_fails: 2, ..Faults::default() },
            ..life(&[], Ending::Close)
        };
        let lives = vec![first, second, life(&[], Ending::Close)];
        assert_eq!(failure(&plan(lives), 200), None, "power loss after {after} points");
    }
}

/// Of a batch of which power loss had taken the head, a salvage left the members; they were damage
/// to the next opening, which hid what was there before them.
#[test]
fn a_salvage_leaves_nothing_of_a_batch_without_a_head() {
    let put = |id| Operation::Put { id, len: 500 };
    let batch = |first| Operation::Batch { first, count: 5, len: 300 };
    let before = [put(0), put(2), put(4), put(6), put(8), Operation::Sync];
    let writes = [&before[..], &[batch(0), batch(2), batch(0), batch(2)]].concat();
    for after in (250..850).step_by(50) {
        let first = life(&writes, Ending::PowerLoss { after });
        let second = Life { salvages: true, ..life(&[], Ending::Close) };
        let mut plan = plan(vec![first, second, life(&[], Ending::Close)]);
        (plan.settings.torn_units, plan.ids) = (true, 12);
        assert_eq!(failure(&plan, 200), None, "power loss after {after} points");
    }
}

/// A flush while a put was at work left a frame whose tag was still 0.
#[test]
fn power_loss_shows_no_tag_that_a_version_never_had() {
    let puts: Vec<_> = (0..20).map(|n| Operation::Put { id: n % 4, len: 60 }).collect();
    for after in (200..500).step_by(50) {
        let mut first = life(&puts, Ending::PowerLoss { after });
        first.threads.push(vec![Operation::Sync; 20]);
        first.faults.write_back = 20;
        let lives = vec![first, life(&[], Ending::Close)];
        assert_eq!(failure(&plan(lives), 200), None, "power loss after {after} points");
    }
}

/// A removal met a version whose time was over when it was looked at, and did not see that a newer
/// one had taken its place in time.
#[test]
fn an_id_that_is_overwritten_before_its_version_expires_is_there_all_the_time() {
    use Operation::{Put, PutExpiring, Remove, WaitAsync};
    let overwrites =
        [Put { id: 0, len: 3700 }, WaitAsync, Remove { id: 2 }, Put { id: 1, len: 3700 }];
    let removes = [
        PutExpiring { id: 2, len: 2700, millis: 0 },
        WaitAsync,
        Remove { id: 0 },
        PutExpiring { id: 1, len: 1900, millis: 29 },
        Put { id: 2, len: 1500 },
        Remove { id: 1 },
    ];
    let mut only = life(&overwrites, Ending::Close);
    only.threads.push(removes.to_vec());
    let mut plan = plan(vec![only]);
    (plan.settings.stops_one_in, plan.ids) = (100, 3);
    assert_eq!(failure(&plan, 3000), None);
}

/// A handle that was opened beside a writer ended a segment inside a reservation, or took bytes of
/// a new frame for a slot.
#[test]
fn a_handle_beside_a_writer_shows_whole_batches_and_no_damage() {
    use Operation::{Batch, Look, Put};
    let writes: Vec<_> = (0..12)
        .flat_map(|n| [Batch { first: n, count: 5, len: 60 }, Put { id: n, len: 2400 }])
        .collect();
    let mut only = life(&writes, Ending::Close);
    only.threads.push((0..8).map(|millis| Look { millis }).collect());
    (only.is_synced, only.flush_millis) = (true, Some(1));
    let mut plan = plan(vec![only]);
    (plan.settings.stops_one_in, plan.ids) = (100, 12);
    assert_eq!(failure(&plan, 200), None);
}
