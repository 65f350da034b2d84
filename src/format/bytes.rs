//! Comparing short runs of bytes.

/// Returns whether two runs of bytes are the same: without a call for those of 8 to 32, as most ids
/// are.
#[must_use]
#[inline(always)]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.len() {
        // From both ends, which overlap.
        8..=16 => a.first_chunk::<8>() == b.first_chunk() && a.last_chunk::<8>() == b.last_chunk(),
        17..=32 => {
            a.first_chunk::<16>() == b.first_chunk() && a.last_chunk::<16>() == b.last_chunk()
        }
        _ => a == b,
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::same_bytes;

    #[test]
    fn runs_of_every_length_differ_if_one_byte_does() {
        for len in 0..70 {
            let a: Vec<u8> = (0..len).map(|n| n as u8).collect();
            assert!(same_bytes(&a, &a.clone()), "{len}");
            assert!(!same_bytes(&a, &[&a[..], &[0]].concat()), "{len}");
            for at in 0..len {
                let mut b = a.clone();
                b[at] ^= 0x40;
                assert!(!same_bytes(&a, &b), "{len}, {at}");
            }
        }
    }
}
