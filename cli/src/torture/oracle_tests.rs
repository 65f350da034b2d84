//! Proof that the oracle can fail: each kind of violation is shown to it, and what is allowed too.

use super::*;

const OWN: Key = Key(2);
const SHARED: Key = Key(0);
const NOW: u64 = 1_000;

fn oracle() -> Oracle {
    Oracle::new(Keys { threads: 1, own: 4, shared: 2 })
}

fn begin(version: u64, key: Key, put: bool) -> Event {
    begin_what(version, key, if put { What::Put } else { What::Remove })
}

fn begin_what(version: u64, key: Key, what: What) -> Event {
    Event::Begin { version: Version(version), key, what, expires: 0 }
}

fn bump(number: u64, key: Key) -> Event {
    Event::Bump { bump: Version(number), key }
}

fn bumped(number: u64, tag: u64) -> Event {
    Event::Bumped { bump: Version(number), tag }
}

fn put(version: u64) -> Event {
    Event::Put { version: Version(version), lsn: version * 10 }
}

fn removed(version: u64, was_there: bool) -> Event {
    Event::Removed { version: Version(version), was_there }
}

/// A get that overlaps nothing: it begins where it ends.
fn look(key: Key, found: Found) -> [Event; 2] {
    let look = Version(1 << 50);
    [Event::Look { look, key, at: NOW }, Event::Got { look, found, at: NOW }]
}

fn version(version: u64) -> Found {
    tagged(version, 0)
}

fn tagged(version: u64, tag: u64) -> Found {
    Found::Version { version: Version(version), lsn: version * 10, tag, expires: 0 }
}

fn found(version: u64, lsn: u64) -> Found {
    Found::Version { version: Version(version), lsn, tag: 0, expires: 0 }
}

fn after(events: &[Event]) -> Oracle {
    let mut oracle = oracle();
    for event in events {
        oracle.note(event).unwrap();
    }
    oracle
}

fn kind(oracle: &Oracle, key: Key, found: Found) -> Option<Kind> {
    kind_at(oracle, key, found, NOW)
}

fn kind_at(oracle: &Oracle, key: Key, found: Found, now: u64) -> Option<Kind> {
    oracle.judge(key, found, Span { from: now, to: now }).err().map(|violation| violation.kind)
}

#[test]
fn an_acknowledged_put_that_is_gone_is_lost() {
    let oracle = after(&[begin(1, OWN, true), put(1)]);
    assert_eq!(kind(&oracle, OWN, version(1)), None);
    assert_eq!(kind(&oracle, OWN, Found::Nothing), Some(Kind::Lost));
}

#[test]
fn an_older_version_in_place_of_an_acknowledged_one_is_a_loss() {
    let oracle = after(&[begin(1, OWN, true), put(1), begin(2, OWN, true), put(2)]);
    assert_eq!(kind(&oracle, OWN, version(2)), None);
    assert_eq!(kind(&oracle, OWN, version(1)), Some(Kind::Lost));
}

#[test]
fn a_pending_put_may_be_found_or_not() {
    let oracle = after(&[begin(1, OWN, true), put(1), begin(2, OWN, true)]);
    assert_eq!(kind(&oracle, OWN, version(1)), None);
    assert_eq!(kind(&oracle, OWN, version(2)), None);
    assert_eq!(kind(&oracle, OWN, Found::Nothing), Some(Kind::Lost));
}

#[test]
fn what_was_removed_must_not_come_back() {
    let mut events = vec![begin(1, OWN, true), put(1), begin(2, OWN, false)];
    let pending = after(&events);
    assert_eq!(kind(&pending, OWN, version(1)), None);
    assert_eq!(kind(&pending, OWN, Found::Nothing), None);
    events.push(removed(2, true));
    let done = after(&events);
    assert_eq!(kind(&done, OWN, Found::Nothing), None);
    assert_eq!(kind(&done, OWN, version(1)), Some(Kind::Wrong));
    events.push(begin(3, OWN, true));
    assert_eq!(kind(&after(&events), OWN, version(3)), None);
    assert_eq!(kind(&after(&events), OWN, version(1)), Some(Kind::Wrong));
}

#[test]
fn what_was_gone_at_an_opening_must_not_come_back_after_the_next() {
    let mut oracle = after(&[begin(1, OWN, true), put(1), begin(2, OWN, false)]);
    assert_eq!(kind(&oracle, OWN, Found::Nothing), None);
    oracle.observe(OWN, Found::Nothing, NOW);
    assert_eq!(kind(&oracle, OWN, Found::Nothing), None);
    assert_eq!(kind(&oracle, OWN, version(1)), Some(Kind::Wrong));
}

#[test]
fn what_was_there_at_an_opening_must_still_be_there_after_the_next() {
    let mut oracle = after(&[begin(1, OWN, true), put(1), begin(2, OWN, true)]);
    oracle.observe(OWN, version(2), NOW);
    assert_eq!(kind(&oracle, OWN, version(2)), None);
    assert_eq!(kind(&oracle, OWN, version(1)), Some(Kind::Lost));
    assert_eq!(kind(&oracle, OWN, Found::Nothing), Some(Kind::Lost));
    let other_lsn = found(2, 21);
    assert_eq!(kind(&oracle, OWN, other_lsn), Some(Kind::Wrong));
}

#[test]
fn of_concurrent_writes_either_may_be_last_but_none_before_them() {
    let (one, two, three) =
        (begin(1, SHARED, true), begin(2, SHARED, true), begin(3, SHARED, true));
    // 2 and 3 overlap, 1 came before both. 3 got the lower LSN, so 2 wins.
    let lower = Event::Put { version: Version(3), lsn: 15 };
    let oracle = after(&[one, put(1), two, three, lower, put(2)]);
    assert_eq!(kind(&oracle, SHARED, version(2)), None);
    let found_lower = found(3, 15);
    assert_eq!(kind(&oracle, SHARED, found_lower), Some(Kind::Lost));
    assert_eq!(kind(&oracle, SHARED, version(1)), Some(Kind::Lost));
    assert_eq!(kind(&oracle, SHARED, Found::Nothing), Some(Kind::Lost));
}

#[test]
fn a_remove_beside_a_put_may_win_or_lose() {
    let events = [begin(1, SHARED, true), begin(2, SHARED, false), put(1), removed(2, true)];
    let oracle = after(&events);
    assert_eq!(kind(&oracle, SHARED, version(1)), None);
    assert_eq!(kind(&oracle, SHARED, Found::Nothing), None);
}

#[test]
fn what_a_get_has_seen_must_stay_although_its_put_was_never_acknowledged() {
    let (one, two) = (begin(1, SHARED, true), begin(2, SHARED, true));
    let [begins, ends] = look(SHARED, version(2));
    let seen = after(&[one.clone(), put(1), two.clone(), begins, ends]);
    assert_eq!(kind(&seen, SHARED, version(2)), None);
    assert_eq!(kind(&seen, SHARED, version(1)), Some(Kind::Lost));
    assert_eq!(kind(&seen, SHARED, Found::Nothing), Some(Kind::Lost));
    // Seen, and then replaced by what was acknowledged: it must not come back either.
    let higher = found(2, 99);
    let [begins, ends] = look(SHARED, higher);
    let replaced = after(&[two, begins, ends, one, put(1)]);
    assert_eq!(kind(&replaced, SHARED, higher), Some(Kind::Lost));
}

#[test]
fn a_remove_that_a_get_has_seen_must_stay_although_it_was_never_acknowledged() {
    let [begins, ends] = look(SHARED, Found::Nothing);
    let mut events = vec![begin(1, SHARED, true), put(1), begin(2, SHARED, false), begins, ends];
    assert_eq!(kind(&after(&events), SHARED, Found::Nothing), None);
    assert_eq!(kind(&after(&events), SHARED, version(1)), Some(Kind::Wrong));
    // With a second remove pending, either may be the one that was seen.
    events.insert(3, begin(3, SHARED, false));
    assert_eq!(kind(&after(&events), SHARED, Found::Nothing), None);
    assert_eq!(kind(&after(&events), SHARED, version(1)), None);
}

#[test]
fn a_get_is_bound_by_what_was_acknowledged_before_it_began_and_by_nothing_else() {
    let (one, two) = (begin(1, SHARED, true), begin(2, SHARED, true));
    let [begins, ends] = look(SHARED, version(1));
    // The second put ended before the get began: its version cannot be missed.
    let mut late = after(&[one.clone(), put(1), two.clone(), put(2), begins.clone()]);
    assert_eq!(late.note(&ends).unwrap_err().kind, Kind::Lost);
    // It ended while the get ran: either version is right.
    let mut beside = after(&[one, put(1), two, begins, put(2)]);
    beside.note(&ends).unwrap();
    // Nothing was there when the get began, a put has ended meanwhile.
    let [begins, ends] = look(OWN, Found::Nothing);
    after(&[begin(3, OWN, true), begins, put(3)]).note(&ends).unwrap();
}

#[test]
fn an_lsn_other_than_the_one_returned_is_wrong() {
    let oracle = after(&[begin(1, OWN, true), put(1)]);
    let found = found(1, 11);
    assert_eq!(kind(&oracle, OWN, found), Some(Kind::Wrong));
}

#[test]
fn answers_that_cannot_be_are_seen_while_it_runs() {
    let mut oracle = after(&[begin(1, OWN, true), put(1)]);
    let mut answers = |key, found| {
        let [begins, ends] = look(key, found);
        oracle.note(&begins).unwrap();
        oracle.note(&ends).is_ok()
    };
    assert!(answers(OWN, version(1)));
    assert!(!answers(OWN, Found::Nothing));
    assert!(!answers(SHARED, version(9)));
    assert!(oracle.note(&look(OWN, version(1))[1]).is_err());
    oracle.note(&begin(2, OWN, false)).unwrap();
    assert!(oracle.note(&removed(2, false)).is_err());
    oracle.note(&begin(3, OWN, false)).unwrap();
    assert!(oracle.note(&removed(3, true)).is_err());
    assert!(oracle.note(&put(77)).is_err());
    assert!(oracle.note(&begin(4, Key(99), true)).is_err());
    let torn = Event::Wrong { key: OWN, what: "its content is torn".to_owned() };
    assert!(oracle.note(&torn).is_err());
}

/// Without an acknowledgement nobody knows whether an update from before the get found the put.
#[test]
fn a_put_that_only_a_get_has_shown_may_have_been_updated_before() {
    let mut events = vec![begin(1, OWN, true), bump(2, OWN), bumped(2, 1)];
    events.extend(look(OWN, tagged(1, 1)));
    events.extend([bump(3, OWN), bumped(3, 2), bump(4, OWN)]);
    let mut oracle = after(&events);
    assert_eq!(oracle.note(&bumped(4, 4)).unwrap_err().kind, Kind::Wrong);
}

/// A batch that a kill has cut short stands above the conditional put that has not seen it.
#[test]
fn a_record_of_a_batch_may_have_a_lower_lsn_than_a_conditional_put() {
    let of_batch = |batch: bool, what| {
        let (first, second) = (Version(1), begin_what(5, SHARED, what));
        let batch = batch.then_some(Event::Batch { first, count: 1 });
        let mut events: Vec<_> = batch.into_iter().collect();
        events.extend([begin(1, SHARED, true), second, put(5)]);
        after(&events)
    };
    let kind = |batch, what| kind(&of_batch(batch, what), SHARED, found(1, 10));
    assert_eq!(kind(true, What::PutIfAbsent), None);
    assert_eq!(kind(false, What::PutIfAbsent), Some(Kind::Lost));
    assert_eq!(kind(true, What::Put), Some(Kind::Lost));
}

#[test]
fn a_tag_lies_between_the_updates_that_were_acknowledged_and_those_that_began() {
    let mut events = vec![begin(1, OWN, true), put(1)];
    events.extend([bump(2, OWN), bumped(2, 1), bump(3, OWN), bumped(3, 2), bump(4, OWN)]);
    let mut oracle = after(&events);
    for (tag, expected) in [(1, Some(Kind::Lost)), (2, None), (3, None), (4, Some(Kind::Wrong))] {
        assert_eq!(kind(&oracle, OWN, tagged(1, tag)), expected, "tag {tag}");
    }
    // What was found is the beginning of the next round.
    oracle.observe(OWN, tagged(1, 3), NOW);
    oracle.note(&bump(5, OWN)).unwrap();
    oracle.note(&bumped(5, 4)).unwrap();
    assert_eq!(kind(&oracle, OWN, tagged(1, 3)), Some(Kind::Lost));
    assert_eq!(kind(&oracle, OWN, tagged(1, 4)), None);
    // A new version begins with 0.
    oracle.note(&begin(6, OWN, true)).unwrap();
    oracle.note(&put(6)).unwrap();
    assert_eq!(kind(&oracle, OWN, tagged(6, 4)), Some(Kind::Wrong));
    assert_eq!(kind(&oracle, OWN, tagged(6, 0)), None);
}

#[test]
fn an_update_beside_a_put_may_have_hit_either_version() {
    let events = [begin(1, SHARED, true), put(1), begin(2, SHARED, true), bump(3, SHARED)];
    let oracle = after(&[&events[..], &[bumped(3, 1), put(2)]].concat());
    assert_eq!(kind(&oracle, SHARED, tagged(2, 0)), None);
    assert_eq!(kind(&oracle, SHARED, tagged(2, 1)), None);
    assert_eq!(kind(&oracle, SHARED, tagged(2, 2)), Some(Kind::Wrong));
}

#[test]
fn an_answer_to_an_update_is_exact_where_one_thread_writes() {
    let mut oracle = after(&[begin(1, OWN, true), put(1), bump(2, OWN)]);
    assert_eq!(oracle.note(&bumped(2, 2)).unwrap_err().kind, Kind::Wrong);
    let mut oracle = after(&[bump(2, OWN)]);
    assert!(oracle.note(&bumped(2, 1)).is_err(), "there is nothing to update");
    assert!(oracle.note(&bumped(77, 1)).is_err());
    after(&[bump(2, OWN), bumped(2, 0)]);
}

#[test]
fn a_batch_is_there_whole_or_not_at_all() {
    let (first, other) = (Version(3), Key(3));
    let mut events = vec![begin(1, OWN, true), put(1), begin(2, other, true), put(2)];
    events.push(Event::Batch { first, count: 2 });
    events.extend([begin(3, OWN, true), begin(4, other, false)]);
    let judge = |own: Found, others: Found| {
        let mut oracle = after(&events);
        oracle.conclude([(OWN, own), (other, others)].into_iter());
        [kind(&oracle, OWN, own), kind(&oracle, other, others)]
    };
    assert_eq!(judge(version(3), Found::Nothing), [None, None]);
    assert_eq!(judge(version(1), version(2)), [None, None]);
    assert_eq!(judge(version(3), version(2)), [None, Some(Kind::Wrong)]);
    events.push(Event::Wrote { first, count: 2 });
    let done = after(&events);
    assert_eq!(kind(&done, OWN, version(1)), Some(Kind::Lost));
    assert_eq!(kind(&done, other, version(2)), Some(Kind::Wrong));
    assert_eq!(kind(&done, other, Found::Nothing), None);
}

#[test]
fn a_put_that_was_refused_is_never_found_and_must_have_been_refused_rightly() {
    let refused = Event::Refused { version: Version(2) };
    let absent = begin_what(2, OWN, What::PutIfAbsent);
    let oracle = after(&[begin(1, OWN, true), put(1), absent.clone(), refused.clone()]);
    assert_eq!(kind(&oracle, OWN, version(1)), None);
    assert_eq!(kind(&oracle, OWN, version(2)), Some(Kind::Lost));
    assert!(after(std::slice::from_ref(&absent)).note(&refused).is_err(), "nothing was there");
    assert!(after(&[begin(1, OWN, true), put(1), absent]).note(&put(2)).is_err());
    let present = begin_what(2, OWN, What::PutIfPresent);
    assert!(after(std::slice::from_ref(&present)).note(&put(2)).is_err());
    assert_eq!(kind(&after(&[present, refused]), OWN, Found::Nothing), None);
}

#[test]
fn what_has_expired_is_gone_and_hides_what_was_before_it() {
    let expiring =
        |expires| Event::Begin { version: Version(2), key: OWN, what: What::Put, expires };
    let there = |expires| Found::Version { version: Version(2), lsn: 20, tag: 0, expires };
    let oracle = after(&[begin(1, OWN, true), put(1), expiring(500), put(2)]);
    assert_eq!(kind_at(&oracle, OWN, there(500), 499), None);
    assert_eq!(kind_at(&oracle, OWN, there(500), 500), Some(Kind::Wrong));
    assert_eq!(kind_at(&oracle, OWN, there(501), 499), Some(Kind::Wrong));
    assert_eq!(kind_at(&oracle, OWN, there(0), 499), Some(Kind::Wrong));
    assert_eq!(kind_at(&oracle, OWN, Found::Nothing, 499), Some(Kind::Lost));
    assert_eq!(kind_at(&oracle, OWN, Found::Nothing, 500), None);
    assert_eq!(kind_at(&oracle, OWN, version(1), 500), Some(Kind::Lost));
    // Pending, and gone: either it was written and has expired, or not written at all.
    let pending = after(&[expiring(500)]);
    assert_eq!(kind_at(&pending, OWN, Found::Nothing, 400), None);
    // What answers depend on the moment of is not judged by them.
    after(&[expiring(500), put(2), begin(3, OWN, false), removed(3, false)]);
    after(&[expiring(500), put(2), bump(3, OWN), bumped(3, 0)]);
    // Found, it is the past of the next round, with its moment.
    let mut observed = oracle;
    assert!(!observed.observe(OWN, there(500), 499));
    assert_eq!(kind_at(&observed, OWN, Found::Nothing, 499), Some(Kind::Lost));
    assert_eq!(kind_at(&observed, OWN, Found::Nothing, 500), None);
    assert!(observed.observe(OWN, Found::Nothing, 500) && observed.may_linger(OWN));
    assert_eq!(kind_at(&observed, OWN, there(500), 499), Some(Kind::Wrong));
}
