//! Several writes that survive a crash together, or not at all.

use crate::format::slot::Kind;
use crate::new_record::{Expiry, NewRecord};

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
#[derive(Clone, Debug, Default)]
#[must_use = "a batch does nothing until it is written"]
pub struct Batch {
    pub(crate) operations: Vec<Operation>,
}

/// One write of a batch.
#[derive(Clone)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) id: Vec<u8>,
    pub(crate) embedding: Vec<f32>,
    pub(crate) content: Vec<u8>,
    pub(crate) expiry: Expiry,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.kind, String::from_utf8_lossy(&self.id))
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put. Of several writes of one id, the last one wins.
    pub fn put(
        &mut self,
        id: impl AsRef<[u8]>,
        embedding: &[f32],
        content: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.put_record(NewRecord::new(&id, embedding, &content))
    }

    /// Adds a put of a record with more than its three parts.
    pub fn put_record(&mut self, record: NewRecord<'_>) -> &mut Self {
        self.operations.push(Operation {
            kind: Kind::Put,
            id: record.id.to_vec(),
            embedding: record.embedding.to_vec(),
            content: record.content.to_vec(),
            expiry: record.expiry,
        });
        self
    }

    /// Adds a removal, whether the id is there or not.
    pub fn remove(&mut self, id: impl AsRef<[u8]>) -> &mut Self {
        let id = id.as_ref().to_vec();
        let (embedding, content, expiry) = (Vec::new(), Vec::new(), Expiry::Never);
        self.operations.push(Operation { kind: Kind::Tombstone, id, embedding, content, expiry });
        self
    }

    /// How many writes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}
