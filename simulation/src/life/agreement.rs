//! All ways to ask a store show the same records.

use super::{Task, name};
use crate::model::Answer;
use stratalog::{Lsn, Metric, Record, Store};

/// Hits of a search for all, and for few.
const ALL: usize = 1000;
const FEW: usize = 3;

fn lsns<'r, 'p: 'r>(records: impl Iterator<Item = &'r Record<'p>>) -> Vec<Lsn> {
    records.map(Record::lsn).collect()
}

impl Task<'_> {
    /// Nobody writes to the store, of which these are the answers to `get`. (Records that expire
    /// may do so in between.)
    pub(super) fn judge_agreement(&self, what: &str, store: &Store, answers: &[Answer]) {
        if self.model().is_excused() {
            return;
        }
        let lasting = self.lasting();
        let names: Vec<_> = lasting.iter().map(|id| name(*id)).collect();
        let lasts = |record: &&Record<'_>| names.iter().any(|its| its.as_bytes() == record.id());
        let pinned = store.pin();
        let query = vec![1.0; self.process.plan.dimension];
        let found = |count| {
            let hits = pinned.search(&query, count, Metric::L2).unwrap_or_default();
            hits.into_iter().map(|hit| hit.record).collect::<Vec<_>>()
        };
        let walked: Vec<_> = pinned.iter().filter_map(Result::ok).collect();
        let (few, hits) = (found(FEW), found(ALL));
        let of_answer = |id: &usize| match answers.get(*id) {
            Some(Answer::Write(_, lsn)) => Some(*lsn),
            _ => None,
        };
        let there = lasting.iter().filter_map(of_answer).collect();
        let walks = lsns(walked.iter().filter(lasts));
        let all = lsns(hits.iter().filter(lasts));
        let [there, walks, all] = [there, walks, all].map(|mut lsns: Vec<_>| {
            lsns.sort_unstable();
            lsns
        });
        let (len, recovered) = (store.len(), store.recovery().records);
        let counts = len == there.len() && recovered == len as u64;
        let begins = lsns(few.iter()) == lsns(hits.iter().take(FEW));
        let all_last = lasting.len() == answers.len();
        if walks != there || all != there || all_last && !(counts && begins) {
            let found = format!("walks {walks:?}, finds {all:?}, len {len}, recovered {recovered}");
            self.model().complain(format!("{what} has {there:?}, {found}"));
        }
    }

    /// The ids of which no write expires.
    fn lasting(&self) -> Vec<usize> {
        let model = self.model();
        (0..self.process.plan.ids).filter(|id| !model.may_expire(*id)).collect()
    }
}
