//! Several writes that survive a crash together, or not at all.

use super::new_record::{ExpiryRule, NewRecord, TagRule};
use crate::format::slot::Kind;
use crate::options::Condition;

/// Writes to be made together by [`Store::write`](crate::Store::write). Holds copies of what it is
/// given; nothing is checked before it is written.
///
/// ```
/// use stratalog::Batch;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
/// let mut batch = Batch::new();
/// batch.put("episode-1", &[0.1], "what was said").put("episode-2", &[0.2], "what was meant");
/// batch.remove("draft");
/// assert_eq!(batch.len(), 3);
/// let lsn = store.write(batch)?;
/// store.wait_durable(lsn)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
#[must_use = "a batch does nothing until it is written"]
pub struct Batch {
    operations: Vec<Operation>,
    /// Ids and contents, one after the other. All writes share two blocks: a pair of small ones for
    /// each costs as much as the write itself.
    bytes: Vec<u8>,
    embeddings: Vec<f32>,
}

/// What is kept of a write; its parts begin where those of the one before it end.
#[derive(Clone)]
struct Operation {
    kind: Kind,
    /// Of id, content and embedding.
    ends: (usize, usize, usize),
    expiry: ExpiryRule,
    tag: TagRule,
    condition: Option<Condition>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entry = |(kind, record): (Kind, NewRecord<'_>)| {
            format!("{kind:?} {}", String::from_utf8_lossy(record.id))
        };
        f.debug_list().entries(self.operations().map(entry)).finish()
    }
}

impl Batch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put. Of several writes of one id in a batch only the last is written.
    pub fn put(
        &mut self,
        id: impl AsRef<[u8]>,
        embedding: &[f32],
        content: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.put_record(NewRecord::new(&id, embedding, &content))
    }

    /// Adds a put of a record with more than its three parts. With a condition, the batch is
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) when it is written.
    pub fn put_record(&mut self, record: NewRecord<'_>) -> &mut Self {
        self.add(Kind::Put, record)
    }

    /// Adds a removal, whether the id is there or not.
    pub fn remove(&mut self, id: impl AsRef<[u8]>) -> &mut Self {
        self.add(Kind::Tombstone, NewRecord::new(&id, &[], &[]).never_expires())
    }

    fn add(&mut self, kind: Kind, record: NewRecord<'_>) -> &mut Self {
        self.bytes.extend_from_slice(record.id);
        let id_end = self.bytes.len();
        self.bytes.extend_from_slice(record.content);
        let content_end = self.bytes.len();
        self.embeddings.extend_from_slice(record.embedding);
        let embedding_end = self.embeddings.len();
        let NewRecord { expiry, tag, condition, .. } = record;
        let ends = (id_end, content_end, embedding_end);
        self.operations.push(Operation { kind, ends, expiry, tag, condition });
        self
    }

    /// What is to be written, in order.
    pub(crate) fn operations(&self) -> impl Iterator<Item = (Kind, NewRecord<'_>)> {
        let (mut bytes_from, mut embedding_from) = (0, 0);
        self.operations.iter().map(move |operation| {
            let (id_end, content_end, embedding_end) = operation.ends;
            let record = NewRecord {
                id: &self.bytes[bytes_from..id_end],
                embedding: &self.embeddings[embedding_from..embedding_end],
                content: &self.bytes[id_end..content_end],
                expiry: operation.expiry,
                tag: operation.tag,
                condition: operation.condition,
                created_ns: None,
            };
            (bytes_from, embedding_from) = (content_end, embedding_end);
            (operation.kind, record)
        })
    }

    /// Returns how many writes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Returns whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}
