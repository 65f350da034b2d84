//! Copying what will not be read soon: past the caches.
//!
//! An ordinary store to a line that is not in a cache reads it from memory first. A streaming store
//! does not. It is not ordered by a later Release store, so each copy ends with a store fence:
//! behind it, it is as ordinary as any other.
#![expect(unsafe_code, reason = "copies to raw memory")]

/// Shorter runs stay in the caches: a fence for each would cost more than it saves.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const STREAMED_BYTES_MIN: usize = 1024;

/// Copies `from` to `to`.
///
/// # Safety
///
/// As many bytes from `to` on are the caller's to write, and do not overlap `from`.
#[inline]
pub(super) unsafe fn copy(from: &[u8], to: *mut u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if from.len() >= STREAMED_BYTES_MIN {
        // SAFETY: as the caller's contract says; SSE2 is part of x86-64.
        unsafe { x86::copy(from, to) };
        return;
    }
    // SAFETY: the caller's contract.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    const LINE: usize = 64;
    const REGISTER: usize = 16;

    /// Whole lines by streaming stores, what is left at both ends by ordinary ones.
    ///
    /// # Safety
    ///
    /// As `super::copy`.
    #[target_feature(enable = "sse2")]
    pub(super) unsafe fn copy(from: &[u8], to: *mut u8) {
        let (first, rest) = from.split_at(to.align_offset(LINE).min(from.len()));
        let (lines, last) = rest.split_at(rest.len() / LINE * LINE);
        // SAFETY: `first` is the beginning of `from`: inside by the contract.
        unsafe { std::ptr::copy_nonoverlapping(first.as_ptr(), to, first.len()) };
        // SAFETY: at most the end of the range.
        let mut at = unsafe { to.add(first.len()) };
        for part in lines.chunks_exact(REGISTER) {
            // SAFETY: a part has 16 bytes; no alignment is asked for.
            let value = unsafe { _mm_loadu_si128(part.as_ptr().cast()) };
            // SAFETY: inside by the contract, and a multiple of 16 because lines begin at one of
            // 64. The fence below comes before anything that others may see.
            unsafe { _mm_stream_si128(at.cast(), value) };
            // SAFETY: at most the end of the range.
            at = unsafe { at.add(REGISTER) };
        }
        // SAFETY: `last` is the end of `from`: inside by the contract.
        unsafe { std::ptr::copy_nonoverlapping(last.as_ptr(), at, last.len()) };
        _mm_sfence();
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::copy;

    #[test]
    fn every_length_at_every_alignment_is_copied_and_nothing_beside_it() {
        let source: Vec<u8> = (0..3000u32).map(|n| (n * 31 + n / 256) as u8 | 1).collect();
        let mut lengths: Vec<_> = (0..200).chain(1000..1200).chain([2047, 2048, 2900]).collect();
        lengths.retain(|len| cfg!(not(miri)) || len % 97 == 0);
        for len in lengths {
            for shift in 0..64 {
                let from = &source[shift % 7..shift % 7 + len];
                let mut target = vec![0; 3100];
                // SAFETY: 64 + 2900 bytes and more are there.
                unsafe { copy(from, target[shift..].as_mut_ptr()) };
                let (before, rest) = target.split_at(shift);
                let (copied, after) = rest.split_at(len);
                assert!(copied == from, "{len} bytes at {shift}");
                assert!(before.iter().chain(after).all(|byte| *byte == 0), "{len} at {shift}");
            }
        }
    }
}
