//! Copying whole lines past the caches, with the widest streaming stores that the processor has.
//!
//! An ordinary store reads its line from memory first; a streaming store of a whole line does not,
//! and leaves the caches to who reads. Streaming stores are not ordered by a Release of the same
//! thread: [`end`] comes between them and whatever publishes what they stored.
#![expect(unsafe_code, reason = "streaming stores are instructions of the processor")]

/// Bytes of a line.
pub const LINE: usize = 64;

/// The way to copy, found out once a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Avx512,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Avx,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Sse2,
    /// Ordinary stores: everywhere else.
    #[cfg(any(test, miri, not(target_arch = "x86_64")))]
    Plain,
}

impl Way {
    #[inline]
    fn best() -> Self {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            // Each a load and a test after the first time.
            if std::arch::is_x86_feature_detected!("avx512f") {
                Self::Avx512
            } else if std::arch::is_x86_feature_detected!("avx") {
                Self::Avx
            } else {
                Self::Sse2
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        Self::Plain
    }

    /// As [`copy`], in this way.
    ///
    /// # Safety
    ///
    /// As [`copy`]; and the processor can do it.
    #[inline]
    unsafe fn copy(self, to: *mut u8, from: &[u8]) {
        debug_assert!(from.len().is_multiple_of(LINE) && to.addr().is_multiple_of(LINE));
        match self {
            // SAFETY: the caller's contract.
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Avx512 => unsafe { x86::copy_avx512(to, from) },
            // SAFETY: the caller's contract.
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Avx => unsafe { x86::copy_avx(to, from) },
            // SAFETY: the caller's contract.
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Sse2 => unsafe { x86::copy_sse2(to, from) },
            // SAFETY: the caller's contract.
            #[cfg(any(test, miri, not(target_arch = "x86_64")))]
            Self::Plain => unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) },
        }
    }
}

/// Copies whole lines past the caches, where the processor can. Before anything is stored that
/// tells others of them, [`end`] must be called by the same thread.
///
/// # Safety
///
/// `to` is a multiple of 64, `from.len()` bytes from there are valid for writes and do not overlap
/// `from`; the length is a multiple of 64.
#[inline]
pub unsafe fn copy(to: *mut u8, from: &[u8]) {
    // SAFETY: the caller's contract; the best way is one that the processor has.
    unsafe { Way::best().copy(to, from) };
}

/// Orders everything this thread has streamed before whatever it stores from now on.
#[inline]
pub fn end() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        // SAFETY: part of every x86-64; touches no memory.
        unsafe { std::arch::x86_64::_mm_sfence() };
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use super::LINE;
    use std::arch::x86_64::{
        __m128i, __m256i, __m512i, _mm_loadu_si128, _mm_stream_si128, _mm256_loadu_si256,
        _mm256_stream_si256, _mm512_loadu_si512, _mm512_stream_si512,
    };

    /// Copies a line at a time.
    macro_rules! copy_by {
        ($(#[$feature:meta])? $name:ident, $vector:ty, $load:expr, $stream:expr) => {
            $(#[$feature])?
            /// # Safety
            ///
            /// As `super::copy`.
            pub(super) unsafe fn $name(to: *mut u8, from: &[u8]) {
                const PARTS: usize = LINE / size_of::<$vector>();
                for line in 0..from.len() / LINE {
                    // SAFETY: inside `from`.
                    let source = unsafe { from.as_ptr().add(line * LINE) }.cast::<$vector>();
                    // SAFETY: inside `to`, which is as long, and aligned as a line is (contract).
                    let target = unsafe { to.add(line * LINE) }.cast::<$vector>();
                    for n in 0..PARTS {
                        // SAFETY: a part of the line.
                        let (source, target) = unsafe { (source.add(n), target.add(n)) };
                        // SAFETY: inside (above); it need not be aligned.
                        let part = unsafe { $load(source) };
                        // SAFETY: as above; `end` is called before anybody is told (contract).
                        unsafe { $stream(target, part) };
                    }
                }
            }
        };
    }

    copy_by!(
        #[target_feature(enable = "avx512f")]
        copy_avx512,
        __m512i,
        _mm512_loadu_si512,
        _mm512_stream_si512
    );
    copy_by!(
        #[target_feature(enable = "avx")]
        copy_avx,
        __m256i,
        _mm256_loadu_si256,
        _mm256_stream_si256
    );
    copy_by!(copy_sse2, __m128i, _mm_loadu_si128, _mm_stream_si128);
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct StreamTarget([u8; 16 * LINE]);

    /// Every way that this processor has.
    fn ways() -> Vec<Way> {
        let mut ways = vec![Way::Plain];
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            ways.push(Way::Sse2);
            if std::arch::is_x86_feature_detected!("avx") {
                ways.push(Way::Avx);
            }
            if std::arch::is_x86_feature_detected!("avx512f") {
                ways.push(Way::Avx512);
            }
        }
        ways
    }

    #[test]
    fn every_way_copies_what_a_plain_copy_does_and_nothing_beside_it() {
        let source: Vec<u8> = (0..20 * LINE).map(|n| (n * 7 + n / 251) as u8 | 1).collect();
        for way in ways() {
            for lines in 0..=8 {
                for (offset, first) in [(0, 0), (1, 2), (13, 1), (63, 7)] {
                    let from = &source[offset..offset + lines * LINE];
                    let mut target = StreamTarget([0; 16 * LINE]);
                    let to = target.0[first * LINE..].as_mut_ptr();
                    // SAFETY: aligned as `StreamTarget` is; 8 lines and more are left behind
                    // `first`.
                    unsafe { way.copy(to, from) };
                    end();
                    let (before, rest) = target.0.split_at(first * LINE);
                    let (copied, behind) = rest.split_at(lines * LINE);
                    assert!(before.iter().chain(behind).all(|byte| *byte == 0), "{way:?}");
                    assert_eq!(copied, from, "{way:?}, {lines} lines");
                }
            }
        }
    }
}
