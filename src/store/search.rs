//! Search under a pin: all vectors of the log, where they lie.
//!
//! The segments are read, not the index: vectors stand there in rows, a hundred of them for each
//! line of the index. A slot in a segment may be a version that counts no more, so whatever would
//! come into the k nearest is looked up in the index first. Right beside writers and beside
//! compaction:
//!
//! - *Only what is live comes in, at most once per id.* It was the id's live record at a moment
//!   after the search began, and [`Top`] holds no id twice.
//! - *No id that is live throughout is passed over.* Let v be its version when the search began. A
//!   copy of v lies in a segment that is scanned (`Log::in_use_at_once`), in a slot that was
//!   decided before, and the pin keeps it readable even if it is moved meanwhile. If v is too far
//!   to come in, the id is not among the nearest by a version that it had. If it would come in, the
//!   index is asked: either v counts still, or a newer one does, and then that is offered *in place
//!   of v, at once*, wherever it lies. So nothing has to be scanned again, however fast they are.
//!
//! A moved record has the same LSN in both places; the one that the index points at is handed out.

use super::Pinned;
use super::record::Record;
use crate::engine::{Damaged, Located};
use crate::error::Error;
use crate::format::slot::SlotBody;
use crate::index::KeyHash;
use crate::memory::MmapMemory;
use crate::search::{Metric, Query, Rank, Top};
use crate::segment::{Frame, FrameDamage, ScannedPut, Segment};

/// So many frames' headers are read before the first of their embeddings is: none waits for
/// another then. The embeddings follow from the last to the first, which is the order in which
/// they lie in the file.
const BLOCK: usize = 64;

/// A record that a search has found; see [`Pinned::search`].
#[derive(Clone, Copy, Debug)]
pub struct Hit<'p> {
    /// Cosine or dot product: higher is nearer. Euclidean distance: lower is nearer. It was
    /// computed in `f64` and then rounded.
    pub score: f32,
    /// The record.
    pub record: Record<'p>,
}

impl Pinned<'_> {
    /// Returns the `k` live records whose embeddings are nearest to `query`, the nearest first; of
    /// equally near ones, the one with the lower LSN first. All of them if there are no more.
    ///
    /// Exact: every embedding is compared. Scores are computed in `f64`, so which records are
    /// found, and in which order, is the same on every machine. `query` has as many finite values
    /// as the store's dimension; it need not be of length one.
    ///
    /// While writers run, an id whose record does not change is never missed; one that is
    /// overwritten meanwhile is judged by its old or its new version, never by both; one that is
    /// put or removed meanwhile may be found or not.
    ///
    /// Reads all embeddings in the log, those of overwritten records included, at the speed of
    /// memory; allocates in proportion to the hits. The checksums that [`Verify`](crate::Verify)
    /// asks for cover contents too, so the first search after opening reads all of the log, and
    /// with [`Verify::EveryRead`](crate::Verify::EveryRead) each one does.
    ///
    /// ```
    /// use stratalog::{Metric, Options};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let store = Options::new().dimension(2).open(dir.path().join("store"))?;
    /// store.put("east", &[1.0, 0.0], "")?;
    /// store.put("north", &[0.0, 2.0], "")?;
    /// store.put("west", &[-1.0, 0.0], "")?;
    ///
    /// let pinned = store.pin();
    /// let hits = pinned.search(&[0.0, 1.0], 2, Metric::Cosine)?;
    /// assert_eq!(hits.len(), 2);
    /// assert_eq!((hits[0].record.id(), hits[0].score), (&b"north"[..], 1.0));
    /// assert_eq!((hits[1].record.id(), hits[1].score), (&b"east"[..], 0.0));
    ///
    /// let nearest = pinned.search(&[-1.0, 1.0], 1, Metric::L2)?;
    /// assert_eq!((nearest[0].record.id(), nearest[0].score), (&b"west"[..], 1.0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::DimensionMismatch`], [`Error::NonFinite`]; [`Error::Corrupt`] if a live record's
    /// bytes are not what was written, when that is noticed ([`Verify`](crate::Verify)): what would
    /// be found without it might be wrong. [`Store::verify`](crate::Store::verify) names its id,
    /// and search works again once that is overwritten or removed.
    pub fn search(&self, query: &[f32], k: usize, metric: Metric) -> Result<Vec<Hit<'_>>, Error> {
        let (expected, actual) = (self.store.dimension(), query.len());
        if actual != expected {
            return Err(Error::DimensionMismatch { expected, actual });
        }
        if let Some(index) = query.iter().position(|value| !value.is_finite()) {
            return Err(Error::NonFinite { index });
        }
        if k == 0 {
            return Ok(Vec::new());
        }
        let query = Query::new(query, metric);
        let mut top = Top::new(k);
        if !self.scan(&query, &mut top)? {
            for record in self {
                offer(&query, &mut top, record?);
            }
        }
        let hits = top.into_nearest_first();
        Ok(hits.map(|(near, record)| Hit { score: query.score(near), record }).collect())
    }

    /// Offers what the segments hold. `false`: a slot was damaged, and what it held may be found
    /// through the index only.
    fn scan<'p>(&'p self, query: &Query<'_>, top: &mut Top<'p, Record<'p>>) -> Result<bool, Error> {
        let mut whole = true;
        let mut block = Vec::with_capacity(BLOCK);
        for segment in self.store.engine().log().in_use_at_once(&self.guard) {
            let mut puts = segment.puts(segment.filling().slots_end());
            loop {
                block.extend(puts.by_ref().take(BLOCK));
                if block.is_empty() {
                    break;
                }
                for put in block.drain(..).rev() {
                    match put {
                        ScannedPut::Whole(body, frame) => {
                            self.consider(segment, body, frame, query, top)?
                        }
                        ScannedPut::Broken(body, damage) => self.refuse(segment, body, damage)?,
                        ScannedPut::Lost => whole = false,
                    }
                }
            }
        }
        Ok(whole)
    }

    /// Takes a copy in if it is near enough and its id counts.
    #[inline]
    fn consider<'p>(
        &'p self,
        segment: &Segment<MmapMemory>,
        body: SlotBody,
        frame: Frame<'_>,
        query: &Query<'_>,
        top: &mut Top<'p, Record<'p>>,
    ) -> Result<(), Error> {
        let at = Located { segment, frame };
        if self.is_to_be_checked(&at)
            && let Err(damage) = segment.verify(&frame)
        {
            return self.refuse(segment, body, damage);
        }
        let embedding = frame.embedding();
        if top.admits(query.bound(embedding))
            && top.would_enter(Rank::new(query.nearness(embedding), body.lsn), frame.id())
            && let Some(live) = self.live(KeyHash(body.key_hash), at)?
        {
            offer(query, top, live);
        }
        Ok(())
    }

    /// Returns the live record of a scanned one's id.
    #[cold]
    fn live(
        &self,
        hash: KeyHash,
        at: Located<'_, MmapMemory>,
    ) -> Result<Option<Record<'_>>, Error> {
        let found = self.store.engine().get(&self.guard, hash, at.frame.id());
        match found.map_err(|damaged| self.store.corrupt(&damaged))? {
            // It is the scanned one, which was checked.
            Some(live) if live.address() == at.address() => Ok(Some(Record::new(live))),
            Some(live) => self.check(live).map(Some),
            None => Ok(None),
        }
    }

    /// An error if the index points at a damaged copy; dead ones harm nobody.
    #[cold]
    fn refuse(
        &self,
        segment: &Segment<MmapMemory>,
        body: SlotBody,
        damage: FrameDamage,
    ) -> Result<(), Error> {
        let (engine, address) = (self.store.engine(), segment.address(body.offset));
        let hash = KeyHash(body.key_hash);
        let entry = engine.index().get(&self.guard, hash, |entry| entry.address == address);
        let counts = entry.and_then(|entry| engine.live_entry(&self.guard, entry));
        if counts.is_none_or(|counts| counts.address != address) {
            return Ok(());
        }
        let offset = body.offset.bytes() as u64;
        Err(self.store.corrupt(&Damaged { segment: Some(segment), offset, damage }))
    }
}

fn offer<'p>(query: &Query<'_>, top: &mut Top<'p, Record<'p>>, record: Record<'p>) {
    let nearness = query.nearness(record.embedding());
    top.offer(Rank::new(nearness, record.lsn()), record.id(), record);
}
