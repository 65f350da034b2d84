//! The public contract as outside programs use it: names, signatures, auto traits. What compiles
//! here compiles with them; a change that breaks this file breaks them.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use stratalog::{
    Batch, Compaction, CompactionReport, Condition, Damage, Durability, Error, Hit, Iter, Lsn,
    Metric, NewRecord, Options, OwnedRecord, Pinned, Record, RecoveryReport, SharedRecord, Stats,
    Store, Verify, VerifyReport,
};

fn options() -> Options {
    Options::new()
        .dimension(2)
        .segment_size(1 << 20)
        .durability(Durability::Buffered)
        .verify(Verify::FirstRead)
        .compaction(Compaction::Auto)
        .create(true)
        .read_only(false)
}

fn is_shared<T: Send + Sync>() {}
fn is_owned<T: Send + Sync + 'static>() {}
fn is_sent<T: Send + 'static>(_: &T) {}

#[test]
fn what_may_cross_threads_does() {
    is_shared::<Store>();
    is_shared::<Options>();
    is_owned::<SharedRecord>();
    is_owned::<OwnedRecord>();
    is_owned::<Batch>();
    is_owned::<Error>();
    is_owned::<Lsn>();
    fn is_copied<T: Copy + Ord + std::hash::Hash + std::fmt::Display>() {}
    is_copied::<Lsn>();
    fn is_builder<T: Clone + std::fmt::Debug + Default>() {}
    is_builder::<Options>();
    assert!(format!("{:?}", options()).contains("dimension"));
}

#[test]
fn writing_has_the_names_of_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store: Store = options().open(dir.path().join("s"))?;
    let embedding: &[f32] = &[1.0, 0.0];
    let lsn: Lsn = store.put("a", embedding, "text")?;
    let raw: u64 = lsn.as_u64();
    assert!(raw > 0);
    let _: Lsn = store.put_if(b"b", embedding, vec![1u8, 2], Condition::Absent)?;
    let _: Lsn = store.put_if("b", embedding, [3u8], Condition::Present)?;
    let refused = store.put_if("a", embedding, "", Condition::Lsn(store.durable_lsn()));
    let Err(Error::ConditionFailed { current }) = refused else { panic!("{refused:?}") };
    assert_eq!(current, Some(lsn));
    let removed: Option<Lsn> = store.remove("b")?;
    assert!(removed > Some(lsn) && store.remove("b")?.is_none());
    let record = NewRecord::new("e", embedding, "text").tag(7).only_if(Condition::Absent);
    let _: Lsn = store.put_record(record.never_expires())?;
    let record = NewRecord::new("e", embedding, "more").keep_tag();
    let _: Lsn = store.put_record(record.expires_in(Duration::from_secs(60)))?;
    let again: Lsn = Lsn::from_u64(lsn.as_u64());
    assert_eq!((again, lsn.to_string().parse::<Lsn>().ok()), (lsn, Some(lsn)));
    assert!(Lsn::ZERO < lsn);
    let mut batch = Batch::new();
    batch.put_record(NewRecord::new("f", embedding, "").tag(1));
    batch.put("c", embedding, "1").put(String::from("d"), embedding, b"2").remove("a");
    let (len, empty): (usize, bool) = (batch.len(), batch.is_empty());
    assert_eq!((len, empty), (4, false));
    let last: Lsn = store.write(batch)?;
    let tag: Option<u64> = store.update_tag("c", |tag| tag + 7)?;
    assert_eq!(tag, Some(7));
    store.sync()?;
    store.wait_durable(last)?;
    let future = store.wait_durable_async(last);
    fn is_future<F: Future<Output = Result<(), Error>>>(_: &F) {}
    is_future(&future);
    is_sent(&future);
    assert!(store.durable_lsn() >= last);
    Ok(())
}

#[test]
fn reading_has_the_names_of_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    fn held<'p>(record: Record<'p>) -> (&'p [u8], &'p [f32], &'p [u8]) {
        let copy = record;
        let _: (Lsn, SystemTime, u64) = (copy.lsn(), record.created_at(), record.tag());
        (record.id(), record.embedding(), copy.content())
    }
    let dir = tempfile::tempdir()?;
    let store = options().open(dir.path().join("s"))?;
    store.put("a", &[1.0, 0.0], "text")?;
    let pinned: Pinned<'_> = store.pin();
    let record: Record<'_> = pinned.get("a")?.ok_or("not there")?;
    let text: Result<&str, std::str::Utf8Error> = record.content_str();
    assert_eq!(text?, "text");
    assert_eq!(held(record), (&b"a"[..], &[1.0f32, 0.0][..], &b"text"[..]));
    let owned: OwnedRecord = record.to_owned();
    let OwnedRecord { id, embedding, content, lsn, created_at, tag, .. } = owned;
    assert_eq!((&*id, &*embedding, &*content), held(record));
    assert_eq!((lsn, created_at, tag), (record.lsn(), record.created_at(), record.tag()));
    let walk: Iter<'_> = pinned.iter();
    assert_eq!(walk.collect::<Result<Vec<Record<'_>>, Error>>()?.len(), 1);
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let hits: Vec<Hit<'_>> = pinned.search(&[1.0, 0.0], 10, metric)?;
        let (score, record): (f32, Record<'_>) = (hits[0].score, hits[0].record);
        assert!(score.is_finite() && record.id() == b"a");
    }
    let shared: SharedRecord = record.to_shared();
    assert_eq!(shared.id(), b"a");
    let _: (Option<OwnedRecord>, Option<SharedRecord>, bool) =
        (pinned.get_owned("a")?, pinned.get_shared("a")?, pinned.contains("a"));
    let shared: Option<SharedRecord> = store.get_shared("a")?;
    let shared = shared.ok_or("not there")?.clone();
    let _: Option<OwnedRecord> = store.get_owned("a")?;
    let _: (bool, usize, bool) = (store.contains("a"), store.len(), store.is_empty());
    let _: (usize, u64, &Path) = (store.dimension(), store.segment_size(), store.path());
    drop(pinned);
    drop(store);
    assert_eq!((shared.id(), shared.content_str()?), (&b"a"[..], "text"));
    assert_eq!((shared.embedding(), shared.tag()), (&[1.0f32, 0.0][..], 0));
    assert_eq!(shared.to_owned().lsn, shared.lsn());
    Ok(())
}

#[test]
fn upkeep_has_the_names_of_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = options().open(dir.path().join("s"))?;
    store.put("a", &[1.0, 0.0], "text")?;
    let report: CompactionReport = store.compact()?;
    let _: (u64, u64, u64, Duration) =
        (report.reclaimed_bytes, report.moved_records, report.segments_removed, report.elapsed);
    let _: CompactionReport = store.compact_with(|_done: u64, _total: u64| ())?;
    let report: VerifyReport = store.verify()?;
    let damaged: &Vec<Damage> = &report.damaged;
    let places: Vec<(&PathBuf, u64, &Option<Vec<u8>>, &String)> =
        damaged.iter().map(|d| (&d.path, d.offset, &d.id, &d.reason)).collect();
    assert!(report.is_clean() && places.is_empty());
    assert_eq!((report.records, report.bytes > 0), (1, true));
    let stats: Stats = store.stats();
    let _: [u64; 6] = [
        stats.live_records,
        stats.segments,
        stats.live_bytes,
        stats.dead_bytes,
        stats.disk_bytes,
        stats.index_bytes,
    ];
    let _: (Lsn, Lsn) = (stats.tail, stats.durable);
    let _: (u64, Duration) = (stats.unflushed_slots, stats.write_stall);
    let report: &RecoveryReport = store.recovery();
    let _: ([u64; 4], Duration) =
        ([report.records, report.torn, report.corrupt, report.scanned_bytes], report.elapsed);
    let lsn: Lsn = store.backup(dir.path().join("copy"))?;
    assert_eq!(lsn, store.durable_lsn());
    store.close()?;
    Ok(())
}

/// Every error by its name and fields. An outside program needs a last arm.
#[test]
fn errors_have_the_names_of_the_contract() {
    fn name(error: &Error) -> &'static str {
        match error {
            Error::DimensionMismatch { expected: _, actual: _ } => "dimension",
            Error::NonFinite { index: _ } => "non-finite",
            Error::InvalidId { len: _ } => "id",
            Error::RecordTooLarge { len: _, max: _ } => "too large",
            Error::InvalidOption(_) => "option",
            Error::InvalidTag(_) => "tag",
            Error::UnknownLsn(_) => "lsn",
            Error::ConditionFailed { current: _ } => "condition",
            Error::NotFound(_) => "not found",
            Error::NotAStore(_) => "not a store",
            Error::UnsupportedVersion { found: _, supported: _ } => "version",
            Error::Locked { path: _, holder: _ } => "locked",
            Error::ReadOnly => "read-only",
            Error::HashCollision => "hash",
            Error::Forked => "forked",
            Error::UnsupportedFeatures { bits: _ } => "features",
            Error::ResourceLimit { what: _, limit: _, source: _ } => "limit",
            Error::StorageFull => "full",
            Error::Corrupt { path: _, offset: _, reason: _ } => "corrupt",
            Error::FlushFailed(_) => "flush",
            Error::Io { path: _, source: _ } => "io",
            _ => "a new one",
        }
    }
    let all = [
        Error::InvalidOption(String::new()),
        Error::NotFound(PathBuf::new()),
        Error::FlushFailed(String::new()),
        Error::Io { path: PathBuf::new(), source: std::io::Error::other("x") },
    ];
    assert_eq!(all.each_ref().map(name), ["option", "not found", "flush", "io"]);
}
