//! Appending to the log: a reservation in the active segment, or in the one that follows it.

use super::{Log, Purpose, Source};
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::Ordering;
use crate::error::Error;
use crate::format::ids::{Address, Lsn, Units};
use crate::memory::Memory;
use crate::segment::{BatchReservation, Claim, Reservation, Segment, Voided, WriteRequest};

/// A committed record: recovery finds it from here on, and the index does not know it yet.
#[derive(Debug)]
pub struct Appended<'g, M: Memory> {
    /// The segment it lies in.
    pub segment: &'g Segment<M>,
    /// Where it lies.
    pub address: Address,
    /// The order of the write.
    pub lsn: Lsn,
    /// To be kept until the record is in the index, or never will be.
    pub claim: Option<Claim<'g, M>>,
}

impl<M: Memory, S: Source<M>> Log<M, S> {
    /// Appends a record and commits it. Calls `meanwhile` while the frame is on its way to memory.
    /// `Voided`: a flush did not wait for it, so it must be appended again. Lock-free.
    #[inline]
    pub fn append<'g>(
        &'g self,
        guard: &'g Guard,
        record: &WriteRequest<'_>,
        purpose: Purpose,
        meanwhile: impl FnOnce(),
    ) -> Result<Result<Appended<'g, M>, Voided>, Error> {
        let reservation = self.reserve(guard, record.layout().bytes(), purpose)?;
        let (segment, lsn) = (reservation.segment(), reservation.lsn());
        let committed = reservation.commit_meanwhile(record, meanwhile);
        Ok(committed.map(|(address, claim)| Appended { segment, address, lsn, claim }))
    }

    /// Reserves space for a frame of `bytes`, rolling as often as need be. Lock-free.
    #[inline]
    pub fn reserve<'g>(
        &'g self,
        guard: &'g Guard,
        bytes: u64,
        purpose: Purpose,
    ) -> Result<Reservation<'g, M>, Error> {
        self.reserve_with(guard, purpose, |segment| segment.reserve(bytes))
    }

    /// The same for a batch of frames. It must fit an empty segment.
    pub fn reserve_batch<'g>(
        &'g self,
        guard: &'g Guard,
        frames: &[Units],
        purpose: Purpose,
    ) -> Result<BatchReservation<'g, M>, Error> {
        self.reserve_with(guard, purpose, |segment| segment.reserve_batch(frames))
    }

    #[inline]
    fn reserve_with<'g, R>(
        &'g self,
        guard: &'g Guard,
        purpose: Purpose,
        reserve: impl Fn(&'g Segment<M>) -> Option<(R, bool)>,
    ) -> Result<R, Error> {
        loop {
            // Acquire: as in `active`.
            let word = self.active.load(Ordering::Acquire);
            if let Some(segment) = self.segment_of_word(guard, word)
                && (purpose == Purpose::FreeRoom || !segment.filling().is_for_removals())
                && let Some((reservation, passed_threshold)) = reserve(segment)
            {
                if passed_threshold {
                    self.source.wake();
                }
                return Ok(reservation);
            }
            self.roll(guard, word, purpose)?;
        }
    }
}
