//! The pure decoders, on any bytes. What is decoded is encoded again and must be the same; and a
//! right sum is put in, so that what lies behind the check of it is reached.
#![expect(unsafe_code, reason = "fills a memory that nobody else has")]

use super::forge;
use super::script::Reader;
use std::sync::atomic::Ordering;
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::frame::{EXPIRY_BYTES, FIELDS_BYTES, FrameHeader, FrameLayout};
use stratalog::internals::format::header::{
    self, DIRECTORY_AT, Features, IDENTITY_BYTES, Identity, Role, StoreId,
};
use stratalog::internals::format::ids::{Sequence, SlotNumber};
use stratalog::internals::format::manifest::Manifest;
use stratalog::internals::format::slot::{self, Kind, SlotBody, SlotState};
use stratalog::internals::segment::{ScannedPut, Segment};
use stratalog::internals::{HeapMemory, Memory};

/// A slot's four words.
pub fn slot(data: &[u8]) {
    let words = [0, 8, 16, 24].map(|at| forge::word(data, at));
    let (salt, number) = (Salt(forge::word(data, 32)), SlotNumber(forge::word(data, 40) as u32));
    let rest = [words[1], words[2], words[3]];
    decode_slot(words[0], rest, salt, number);
    // The same under a right sum.
    let mut segment = vec![0; DIRECTORY_AT + 32];
    for (n, word) in words.iter().enumerate() {
        forge::store_number(&mut segment, DIRECTORY_AT + n * 8, 8, *word);
    }
    forge::forge_slot(&mut segment, 0, 0, words[0]);
    let forged = forge::slot_words(&segment, 0)[0];
    let state = decode_slot(forged, rest, Salt(0), SlotNumber(0));
    let is_put = words[0] as u8 == 1 && (words[0] >> 8) as u8 == 1;
    // Flags that do not go together are refused, whatever the sum says.
    let is_written = SlotBody::from_words(rest).words() == rest;
    assert_eq!(is_put && is_written, is_put && state != SlotState::Invalid);
}

fn decode_slot(word0: u64, rest: [u64; 3], salt: Salt, number: SlotNumber) -> SlotState {
    let state = slot::decode(word0, rest, salt, number);
    let again = match state {
        SlotState::Committed(kind, body) => slot::committed_word(kind, body, salt, number),
        SlotState::Pending(kind, body) => slot::pending_word(kind, body, salt, number),
        SlotState::Member(kind, body) => slot::member_word(kind, body, salt, number),
        SlotState::Copy(kind, body) => slot::copy_word(kind, body, salt, number),
        SlotState::Batch(_, body) => slot::batch_word(body, salt, number),
        SlotState::Void => slot::void_word(salt, number),
        SlotState::Empty => slot::EMPTY_WORD,
        SlotState::Invalid => return state,
    };
    // Bits that no state uses are refused.
    assert_eq!(again, word0);
    state
}

/// A frame's header.
pub fn frame(data: &[u8]) {
    let mut bytes = [0; FIELDS_BYTES + EXPIRY_BYTES];
    let len = data.len().min(bytes.len());
    bytes[..len].copy_from_slice(&data[..len]);
    let Ok(header) = FrameHeader::decode(&bytes) else { return };
    assert_eq!(header.encode(), bytes[..FIELDS_BYTES]);
    for dimension in [0, 1, 65_536] {
        let (id, content) = (usize::from(header.id_len), header.content_len as usize);
        let layout = FrameLayout::new(id, dimension, content, header.writing, header.expires());
        assert!(layout.bytes() as usize >= layout.end && layout.end >= layout.content_at);
        assert!(layout.content_at >= layout.embedding_at && layout.embedding_at.is_multiple_of(64));
    }
}

/// A segment's header page.
pub fn segment_header(data: &[u8]) {
    let mut bytes = [0; IDENTITY_BYTES];
    let len = data.len().min(bytes.len());
    bytes[..len].copy_from_slice(&data[..len]);
    assert!(Identity::decode(&bytes).is_err() || bytes.starts_with(b"stratlog"));
    bytes[..8].copy_from_slice(b"stratlog");
    forge::forge_identity(&mut bytes, 8, 4, u64::from(header::FORMAT_VERSION));
    if let Ok(identity) = Identity::decode(&bytes) {
        // Reserved bytes are ignored, and not written.
        let (kept, sum) = (88, IDENTITY_BYTES - 4);
        let encoded = identity.encode();
        assert_eq!(encoded[..kept], bytes[..kept]);
        assert!(bytes[kept..sum].iter().any(|&byte| byte != 0) || encoded == bytes);
        assert!(identity.sequence <= Sequence::MAX);
        assert!(identity.directory_at as usize <= DIRECTORY_AT);
    }
    let (word, salt) = (forge::word(data, 128), Salt(forge::word(data, 136)));
    for at in [header::DURABLE_AT, header::SEALED_AT] {
        if let Some(count) = header::decode_count(word, salt, at) {
            assert_eq!(header::encode_count(count, salt, at), word);
        }
    }
    if let Some((sequence, confirmed)) = header::decode_predecessor(word, salt) {
        assert_eq!(header::encode_predecessor(sequence, confirmed, salt), word);
    }
}

/// A manifest.
pub fn manifest(data: &[u8]) {
    drop(Manifest::decode(data));
    let mut bytes = [b"stratman", data].concat();
    forge::forge_manifest(&mut bytes, 8, 4, u64::from(header::FORMAT_VERSION));
    if let Ok(manifest) = Manifest::decode(&bytes) {
        // Its file may be longer than it is.
        let (own, padding) = bytes.split_at(manifest.encode().len());
        assert!(manifest.encode() == own && padding.iter().all(|&byte| byte == 0));
        assert!(manifest.next_sequence <= Sequence::MAX);
        let ordered = manifest.segments.windows(2).all(|pair| pair[0].sequence < pair[1].sequence);
        assert!(ordered);
    }
}

const SMALL: usize = 16 << 10;

/// A small segment on the heap: directory and frames are the bytes, the sums of the first slots
/// are put right if the first byte says so.
pub fn segment(data: &[u8]) {
    let mut reader = Reader(data);
    let (flags, dimension) = (reader.byte(), 1 + u32::from(reader.byte() % 8));
    let identity = Identity {
        store: StoreId([7; 16]),
        sequence: Sequence(3),
        salt: Salt(0x5EED),
        dimension,
        segment_bytes: SMALL as u64,
        directory_at: DIRECTORY_AT as u32,
        features: Features::default(),
        role: if flags & 1 == 0 { Role::Log } else { Role::Copies },
    };
    let mut image = vec![0; SMALL];
    image[..IDENTITY_BYTES].copy_from_slice(&identity.encode());
    // Slots, each by four numbers; then what is left of the bytes, as the frames.
    let slots = u32::from(reader.byte() % 12);
    for n in 0..slots {
        let state = u64::from(reader.byte() % 7) | u64::from(reader.byte() % 5) << 8;
        let lsn = (reader.byte() > 200).then(|| reader.number());
        forge::forge_slot(&mut image, n, 1, lsn.unwrap_or(3 << 24 | u64::from(n)));
        forge::forge_slot(&mut image, n, 2, reader.number());
        let extent = u64::from(reader.byte()) | (reader.number() & 0xFFFF_FFFF) << 32;
        forge::forge_slot(&mut image, n, 3, extent);
        forge::forge_slot(&mut image, n, 0, state);
    }
    let frames = reader.0;
    let len = frames.len().min(SMALL - 6144);
    image[SMALL - len..].copy_from_slice(&frames[..len]);
    if flags & 2 != 0 {
        for n in 0..slots {
            let begin = forge::body_of(&image, n).map_or(0, |body| body.offset.bytes());
            let kind = image.get(begin + 38).copied().unwrap_or(0);
            forge::forge_frame(&mut image, n, 38, 1, u64::from(kind));
        }
    }
    walk(&image, &identity);
}

fn walk(image: &[u8], identity: &Identity) {
    let memory = HeapMemory::new(SMALL);
    for at in (0..SMALL).step_by(8) {
        // Relaxed: nobody else has the memory.
        memory.word(at).store(forge::word(image, at), Ordering::Relaxed);
    }
    // SAFETY: the image is as long as the memory, and nobody else has that.
    unsafe { memory.write(0, image) };
    let segment = Segment::attach(memory, identity);
    let end = segment.filling().sealed().unwrap_or_else(|| segment.filling().slots_end());
    for end in [end, u32::MAX] {
        for (slot, _) in segment.directory().slots(end) {
            assert!(segment.directory().slot_offset(slot) < SMALL);
            let Ok(frame) = segment.committed_frame(slot) else { continue };
            let (sound, put) = (segment.verify(&frame).is_ok(), frame.header().kind == Kind::Put);
            assert!(!sound || !put || segment.checks().is_verified(frame.offset()));
            assert!(frame.id().len() <= 1024 && frame.len_bytes() <= SMALL as u64);
            assert!(frame.embedding().len() <= 8);
        }
        for put in segment.puts(end) {
            if let ScannedPut::Whole(_, frame) = put {
                assert!(frame.content().len() < SMALL);
            }
        }
    }
}
