//! Operations on one id are linearizable: histories of real threads on few ids (put, put_if, get,
//! contains, remove, update_tag, batches), with pauses at random, judged id by id. Long ones by a
//! check of our own, which has the order of LSNs to go by; short ones, removals and all, by a
//! checker that nobody here wrote. Segments are small, so that the log rolls and is compacted
//! meanwhile. Across ids a batch promises nothing to readers, so nothing is asked of it.
//!
//!     STRATALOG_LINEARIZABLE_OPERATIONS=1000000000 STRATALOG_LINEARIZABLE_HISTORIES=10000 \
//!         cargo test --release --test linearizable -- --nocapture        # the long form
//!
//! `STRATALOG_LINEARIZABLE_SEED=n` makes other choices; what the threads then do is theirs.
#![cfg(test)]

#[expect(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/dice.rs"]
mod dice;
#[path = "linearizable/fast.rs"]
mod fast;
#[path = "linearizable/outside.rs"]
mod outside;
#[path = "linearizable/record.rs"]
mod record;

use common::{SEGMENT, mix};
use dice::Dice;
use fast::Before;
use record::{Call, Event, Only, Plan};
use std::path::Path;
use std::time::Instant;
use stratalog::{Options, Store};
use tempfile::TempDir;

const OPERATIONS: u64 = 100_000;
const HISTORIES: u64 = 400;
/// Histories after which the store is made anew.
const HISTORIES_A_STORE: u64 = 500;

fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).unwrap_or_else(|_| otherwise.to_string());
    text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}"))
}

fn store() -> (TempDir, Store) {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let place = tempfile::Builder::new().prefix("stratalog-linear-").tempdir_in(place).unwrap();
    let options = Options::new().dimension(1).segment_size(SEGMENT).flush_interval(None);
    let store = options.open(place.path().join("store")).unwrap();
    (place, store)
}

fn of_id(events: &[Event], id: usize) -> Vec<Event> {
    events.iter().filter(|event| event.id == id).copied().collect()
}

fn before(store: &Store, id: &[u8]) -> Before {
    let record = store.get_owned(id).unwrap().map(|record| {
        let value = record.content.first_chunk().copied().expect("eight bytes");
        (record.lsn.as_u64(), u64::from_le_bytes(value))
    });
    Before { record }
}

#[test]
fn long_histories_follow_the_order_of_their_lsns() {
    let operations = number("STRATALOG_LINEARIZABLE_OPERATIONS", OPERATIONS);
    let mut dice = Dice(mix(number("STRATALOG_LINEARIZABLE_SEED", 1)));
    let (_place, store) = store();
    let (started, mut done, mut value, mut rounds) = (Instant::now(), 0, 1, 0u64);
    while done < operations {
        let plan = Plan {
            threads: 2 + dice.below(7) as usize,
            ids: 1 + dice.below(4) as usize,
            calls_a_thread: if operations > OPERATIONS { 20_000 } else { 2_000 },
            removing: dice.one_in(2),
            pause_one_in: [20, 200, 2_000][dice.below(3) as usize],
        };
        let names: Vec<_> = (0..plan.ids).map(|id| format!("id {id}").into_bytes()).collect();
        let was: Vec<_> = names.iter().map(|id| before(&store, id)).collect();
        let events = record::run(&store, plan, &names, dice.roll(), value);
        for (id, was) in was.into_iter().enumerate() {
            let verdict = fast::check(&of_id(&events, id), was);
            verdict.unwrap_or_else(|error| panic!("round {rounds}, id {id}, {plan:?}: {error}"));
        }
        value += 4 * (plan.threads * (plan.calls_a_thread + 1)) as u64;
        done += events.len() as u64;
        rounds += 1;
        if rounds.is_multiple_of(500) || done >= operations {
            let (took, stats) = (started.elapsed(), store.stats());
            println!("{done} operations in {rounds} rounds, {took:?}; now at {}", stats.tail);
        }
    }
    assert!(store.verify().unwrap().is_clean());
}

/// A short history of ids that were never there before.
fn short_history(store: &Store, number: u64, dice: &mut Dice) -> (Plan, Vec<Event>) {
    let plan = Plan {
        threads: 2 + dice.below(3) as usize,
        ids: 1 + dice.below(2) as usize,
        calls_a_thread: 4 + dice.below(9) as usize,
        removing: !dice.one_in(4),
        pause_one_in: 2 + dice.below(6),
    };
    let names: Vec<_> = (0..plan.ids).map(|id| format!("{number}, {id}").into_bytes()).collect();
    (plan, record::run(store, plan, &names, dice.roll(), 1))
}

#[test]
fn short_histories_pass_a_checker_that_nobody_here_wrote() {
    let histories = number("STRATALOG_LINEARIZABLE_HISTORIES", HISTORIES);
    let mut dice = Dice(mix(number("STRATALOG_LINEARIZABLE_SEED", 1)) ^ 1);
    let (started, mut beside, mut calls) = (Instant::now(), 0, 0);
    let mut open = store();
    for history in 0..histories {
        if history % HISTORIES_A_STORE == HISTORIES_A_STORE - 1 {
            open = store();
        }
        let (plan, events) = short_history(&open.1, history, &mut dice);
        for id in 0..plan.ids {
            let of_id = of_id(&events, id);
            calls += of_id.len();
            beside += of_id
                .iter()
                .filter(|one| {
                    let meets = |other: &&Event| one.begin < other.end && other.begin < one.end;
                    of_id.iter().filter(meets).count() > 1
                })
                .count();
            assert!(outside::is_linearizable(&of_id), "history {history}, {plan:?}: {of_id:#?}");
            let fast = fast::check(&of_id, Before::default());
            fast.unwrap_or_else(|error| panic!("history {history}, {plan:?}: {error}"));
        }
    }
    println!(
        "{histories} histories, {calls} calls, {beside} beside others: {:?}",
        started.elapsed()
    );
    assert!(beside > calls / 50, "hardly anything was done at the same time");
}

fn event(begin: u64, end: u64, call: Call) -> Event {
    Event { id: 0, begin, end, call }
}

fn wrote(lsn: u64, only: Only) -> Call {
    Call::Wrote { lsn: Some(lsn), value: lsn * 10, only }
}

fn saw(lsn: u64, tag: u64) -> Call {
    Call::Saw { lsn, value: lsn * 10, tag }
}

/// Both checks, on histories made by hand.
#[test]
fn a_history_that_no_order_explains_is_refused_by_both() {
    use Call::{Contains, Refused, Removed, RemovedBlindly, SawNone, Tagged};
    use Only::{Always, If, IfAbsent};
    let first = event(0, 1, wrote(5, Always));
    let second = event(2, 3, wrote(6, Always));
    let wrong: &[&[Event]] = &[
        // An old version, after a newer one was put; read; or put by the same order of LSNs.
        &[first, second, event(4, 5, saw(5, 0))],
        &[first, event(2, 9, wrote(6, Always)), event(3, 4, saw(6, 0)), { event(5, 6, saw(5, 0)) }],
        &[event(0, 1, wrote(6, Always)), event(2, 3, wrote(5, Always)), event(4, 5, saw(5, 0))],
        // What was put, and not removed, is there.
        &[first, event(2, 3, SawNone)],
        &[first, event(2, 3, Contains(false))],
        &[first, event(2, 3, Removed(false))],
        &[first, event(2, 3, Tagged(None))],
        &[first, event(2, 3, wrote(6, IfAbsent))],
        &[first, event(2, 3, Refused { only: If(5), current: None })],
        // Of one version one removal; of a removed one none.
        &[first, event(2, 9, Removed(true)), event(3, 8, Removed(true))],
        &[event(2, 9, Removed(true))],
        // Two that both took the place of the first.
        &[first, event(2, 9, wrote(6, If(5))), event(3, 8, wrote(7, If(5)))],
        &[first, event(2, 3, Refused { only: If(5), current: Some(5) })],
        // Never written.
        &[first, event(2, 3, saw(7, 0))],
    ];
    for history in wrong {
        let fast = fast::check(history, Before::default());
        assert!(fast.is_err(), "the fast check takes {history:#?}");
        assert!(!outside::is_linearizable(history), "the checker takes {history:#?}");
    }
    let raised = |begin, tag| event(begin, begin + 1, Tagged(Some(tag)));
    let lost = [first, raised(2, 1), raised(4, 1)];
    assert!(!outside::is_linearizable(&lost), "a lost update of a tag");
    let fell = [first, event(2, 3, saw(5, 2)), event(4, 5, saw(5, 1))];
    assert!(fast::check(&fell, Before::default()).is_err(), "a tag that fell");
    let right: &[&[Event]] = &[
        &[first, second, event(4, 5, saw(6, 0)), raised(6, 1), event(8, 9, saw(6, 1))],
        &[event(0, 9, wrote(6, Always)), event(0, 9, wrote(5, Always))],
        &[first, event(2, 9, Removed(true)), event(3, 8, SawNone), event(3, 8, saw(5, 0))],
        &[first, event(2, 9, RemovedBlindly), event(10, 11, wrote(6, IfAbsent))],
    ];
    for history in right {
        fast::check(history, Before::default()).unwrap();
        assert!(outside::is_linearizable(history), "the checker refuses {history:#?}");
    }
}
