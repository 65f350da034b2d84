//! What one id is, for a checker that nobody here wrote: todc-utils' (Wing and Gong, Lowe).

use super::record::{Call, Event, Only};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

/// The id's record, and the highest LSN that a put of it has answered with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    record: Option<Record>,
    highest: u64,
    /// It was put below the highest, so a newer plain put must take its place at once.
    absorbed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Record {
    /// `None`: nothing tells it.
    lsn: Option<u64>,
    value: u64,
    tag: u64,
}

/// One id of a store.
pub struct Id;

fn holds(only: Only, state: &State) -> bool {
    match (only, &state.record) {
        (Only::Always, _) | (Only::IfAbsent, None) | (Only::IfPresent, Some(_)) => true,
        (Only::If(lsn), Some(record)) => record.lsn.is_none_or(|current| current == lsn),
        _ => false,
    }
}

impl Specification for Id {
    type State = State;
    type Operation = Call;

    fn init() -> State {
        State::default()
    }

    fn apply(call: &Call, state: &State) -> (bool, State) {
        let mut next = state.clone();
        let there = state.record.is_some();
        let valid = match *call {
            Call::Wrote { lsn, value, only } => {
                next.record = Some(Record { lsn, value, tag: 0 });
                next.highest = state.highest.max(lsn.unwrap_or(0));
                next.absorbed = lsn.is_some_and(|lsn| lsn < state.highest);
                holds(only, state) && (only == Only::Always || !next.absorbed && !state.absorbed)
            }
            Call::Refused { only, current } => match (&state.record, current) {
                (Some(Record { lsn: None, .. }), Some(_)) => true,
                (Some(record), Some(_)) => record.lsn == current && !holds(only, state),
                (record, current) => record.is_none() && current.is_none() && !holds(only, state),
            },
            Call::Saw { lsn, value, tag } => state.record.as_ref().is_some_and(|record| {
                record.lsn.is_none_or(|known| known == lsn)
                    && (record.value, record.tag) == (value, tag)
            }),
            Call::SawNone | Call::Removed(false) | Call::Contains(false) => !there,
            Call::Contains(true) => there,
            Call::Removed(true) => {
                next.record = None;
                there
            }
            Call::RemovedBlindly => {
                next.record = None;
                true
            }
            Call::Tagged(None) => !there,
            Call::Tagged(Some(tag)) => next.record.as_mut().is_some_and(|record| {
                record.tag += 1;
                record.tag == tag
            }),
        };
        let after = matches!(call, Call::Wrote { .. }) || !state.absorbed;
        if valid && after { (true, next) } else { (false, state.clone()) }
    }
}

/// Returns whether what happened to one id, which was not there, can have happened one after the
/// other.
pub fn is_linearizable(events: &[Event]) -> bool {
    let mut moments = Vec::new();
    for (n, event) in events.iter().enumerate() {
        // Of one moment what begins before what ends: they are beside each other.
        moments.push((event.begin, false, n, Action::Call(event.call)));
        moments.push((event.end, true, n, Action::Response(event.call)));
    }
    moments.sort_by_key(|(time, ends, n, _)| (*time, *ends, *n));
    // Each call is a process of its own: what follows what is in the times.
    let actions = moments.into_iter().map(|(_, _, n, action)| (n, action)).collect();
    events.is_empty() || WGLChecker::<Id>::is_linearizable(History::from_actions(actions))
}
