//! What a writer is asked to write.

use crate::format::frame::{FrameLayout, WriteMode};
use crate::format::slot::Kind;
use std::ops::Deref;

/// The parts of a record, borrowed from the caller.
#[derive(Clone, Copy, Debug)]
pub struct RecordParts<'a> {
    /// Put or tombstone.
    pub kind: Kind,
    /// Whether the index decides; a tombstone's always does.
    pub writing: WriteMode,
    /// The id, 1 to 1024 bytes.
    pub id: &'a [u8],
    /// Its hash.
    pub key_hash: u64,
    /// The embedding's bytes; none for a tombstone.
    pub embedding: &'a [u8],
    /// The content.
    pub content: &'a [u8],
    /// Nanoseconds since 1970.
    pub created_ns: u64,
    /// When it expires, nanoseconds since 1970; 0: never.
    pub expires_ns: u64,
    /// The user tag of the new version, below 2^63; 0 for a tombstone.
    pub tag: u64,
}

/// The parts of a record and where they lie in its frame, which is computed once.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    parts: RecordParts<'a>,
    layout: FrameLayout,
}

impl<'a> WriteRequest<'a> {
    /// A request to write these parts.
    #[must_use]
    #[inline]
    pub fn new(parts: RecordParts<'a>) -> Self {
        let dimension = parts.embedding.len() / size_of::<f32>();
        let (id, content, expires) = (parts.id.len(), parts.content.len(), parts.expires_ns != 0);
        let layout = FrameLayout::new(id, dimension, content, parts.writing, expires);
        Self { parts, layout }
    }

    /// Where the parts lie.
    #[must_use]
    #[inline]
    pub fn layout(&self) -> FrameLayout {
        self.layout
    }
}

impl<'a> Deref for WriteRequest<'a> {
    type Target = RecordParts<'a>;

    #[inline]
    fn deref(&self) -> &RecordParts<'a> {
        &self.parts
    }
}
