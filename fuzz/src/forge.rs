//! Changes to a store's files whose checksums are right: what no accident writes. Who can write the
//! files can forge them, so such a record may be believed; but no number in it is trusted.

use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::frame::{
    EXPIRY_BYTES, FIELDS_BYTES, FrameHeader, FramePlace, TAG_BYTES,
};
use stratalog::internals::format::header::{self, DIRECTORY_AT, IDENTITY_BYTES};
use stratalog::internals::format::ids::{Sequence, SlotNumber};
use stratalog::internals::format::manifest::Manifest;
use stratalog::internals::format::slot::{self, SLOT_BYTES, SlotBody, SlotState};

/// The word at a multiple of eight; 0 outside.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    let word = at.checked_add(8).and_then(|end| bytes.get(at..end));
    word.and_then(|word| word.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

/// Stores bytes, if they lie inside.
pub fn store(bytes: &mut [u8], at: usize, what: &[u8]) {
    let end = at.saturating_add(what.len());
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(what);
    }
}

/// Stores the low bytes of a number.
pub fn store_number(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    store(bytes, at, &value.to_le_bytes()[..width.min(8)]);
}

/// The seed of a segment's checksums, as its header says.
pub fn salt(segment: &[u8]) -> Salt {
    Salt(word(segment, 40))
}

/// The four words of a slot.
pub fn slot_words(segment: &[u8], slot: u32) -> [u64; 4] {
    let at = DIRECTORY_AT + slot as usize * SLOT_BYTES;
    [0, 8, 16, 24].map(|n| word(segment, at + n))
}

/// Replaces one of the words 1 to 3 of a slot, or with `0` its state and kind; the sum is right.
pub fn forge_slot(segment: &mut [u8], slot: u32, which: usize, value: u64) {
    let mut words = slot_words(segment, slot);
    let (mut state, mut kind) = (words[0] as u8, (words[0] >> 8) as u8);
    if which == 0 {
        (state, kind) = (value as u8, (value >> 8) as u8);
    } else {
        words[which & 3] = value;
    }
    let mut summed = [0; 26];
    for (n, word) in words[1..].iter().enumerate() {
        summed[n * 8..n * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    (summed[24], summed[25]) = (kind, state);
    let sum =
        stratalog::internals::format::checksum::Salted::of_slot(salt(segment), SlotNumber(slot));
    let sum = u64::from(sum.and(&summed).finish());
    words[0] = sum << 32 | u64::from(kind) << 8 | u64::from(state);
    for (n, word) in words.iter().enumerate() {
        store_number(segment, DIRECTORY_AT + slot as usize * SLOT_BYTES + n * 8, 8, *word);
    }
}

/// What a slot says of its frame, if it says anything.
pub fn body_of(segment: &[u8], slot: u32) -> Option<SlotBody> {
    let [word0, a, b, c] = slot_words(segment, slot);
    match slot::decode(word0, [a, b, c], salt(segment), SlotNumber(slot)) {
        SlotState::Committed(_, body)
        | SlotState::Pending(_, body)
        | SlotState::Batch(_, body)
        | SlotState::Member(_, body)
        | SlotState::Copy(_, body) => Some(body),
        SlotState::Empty | SlotState::Void | SlotState::Invalid => None,
    }
}

/// Replaces so many bytes of the frame of a slot, counted from its beginning; its sum is right if
/// the header still can be read, whatever lengths it claims.
pub fn forge_frame(segment: &mut [u8], slot: u32, at: usize, width: usize, value: u64) {
    let Some(body) = body_of(segment, slot) else { return };
    let begin = body.offset.bytes();
    let (of_segment, dimension) = (salt(segment), word(segment, 8) >> 32);
    store_number(segment, begin.saturating_add(at), width, value);
    let fields = begin.saturating_add(TAG_BYTES);
    let Some(frame) = segment.get(fields..) else { return };
    let Some(bytes) = frame.first_chunk::<{ FIELDS_BYTES + EXPIRY_BYTES }>() else { return };
    let Ok(header) = FrameHeader::decode(bytes) else { return };
    let layout = stratalog::internals::format::frame::FrameLayout::new(
        usize::from(header.id_len),
        if header.kind == slot::Kind::Put { dimension as usize } else { 0 },
        header.content_len as usize,
        header.writing,
        header.expires(),
    );
    let part = |from: usize, to: usize| frame.get(from - TAG_BYTES..to - TAG_BYTES).unwrap_or(&[]);
    let id = part(layout.id_at, layout.id_at + usize::from(header.id_len));
    let embedding = part(layout.embedding_at, layout.content_at);
    let place = FramePlace { salt: of_segment, offset: body.offset };
    let sum = header.sum(place, id, embedding, part(layout.content_at, layout.end));
    store(segment, begin + 32, &sum.to_le_bytes());
}

/// Replaces bytes of a segment's identity; its sum is right.
pub fn forge_identity(segment: &mut [u8], at: usize, width: usize, value: u64) {
    store_number(segment, at, width, value);
    if let Some(identity) = segment.get(..IDENTITY_BYTES - 4) {
        let sum = crc32fast::hash(identity);
        store(segment, IDENTITY_BYTES - 4, &sum.to_le_bytes());
    }
}

/// One of the words of the header page that carry a sum of their own.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    Durable,
    Sealed,
    Predecessor,
}

/// Replaces one of them; its sum is right.
pub fn forge_count(segment: &mut [u8], which: Count, value: u64) {
    let salt = salt(segment);
    let count = |at| (at, header::encode_count(value as u32, salt, at));
    let (at, word) = match which {
        Count::Durable => count(header::DURABLE_AT),
        Count::Sealed => count(header::SEALED_AT),
        Count::Predecessor => {
            let (sequence, confirmed) = (Sequence(value & Sequence::MAX.0), value >> 63 == 0);
            let word = header::encode_predecessor(sequence, confirmed, salt);
            (header::PREDECESSOR_AT, word)
        }
    };
    store_number(segment, at, 8, word);
}

/// Replaces bytes of a manifest; its sum is right. Zeros may follow it, as in its file.
pub fn forge_manifest(manifest: &mut [u8], at: usize, width: usize, value: u64) {
    let len = Manifest::decode(manifest).map_or(manifest.len(), |whole| whole.encode().len());
    let manifest = &mut manifest[..len];
    store_number(manifest, at, width, value);
    if let Some((body, sum)) = manifest.split_last_chunk_mut::<4>() {
        *sum = crc32fast::hash(body).to_le_bytes();
    }
}
