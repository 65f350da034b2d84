//! What the simulation compares, while nobody writes or compacts.

use super::Store;
use super::open::read_manifest;
use crate::format::header::Role;
use crate::segment::Segment;

impl Store {
    /// Returns whether every entry of the index leads to a segment that is there.
    #[must_use]
    pub fn leads_to_segments(&self) -> bool {
        let engine = self.engine();
        let (guard, mut walk) = (engine.epoch().pin(), engine.index().walk());
        while let Some(entry) = walk.next_of_all(engine.index(), &guard) {
            if engine.log().resolve(&guard, entry.address).is_none() {
                return false;
            }
        }
        true
    }

    /// Returns in what the manifest and the log differ [K1].
    #[must_use]
    pub fn manifest_disagreement(&self) -> Option<String> {
        let engine = self.engine();
        let manifest = match read_manifest(engine.log().source().directory()) {
            Ok(manifest) => manifest,
            Err(error) => return Some(format!("the manifest: {error:?}")),
        };
        let guard = engine.epoch().pin();
        let in_use: Vec<_> = engine.log().in_use(&guard).map(Segment::id).collect();
        let missing = self.core.live_manifest.missing();
        let (named, next) = (&manifest.segments, manifest.next_sequence);
        let unnamed = in_use
            .iter()
            .find(|id| !named.contains(id) && (id.role == Role::Copies || id.sequence < next));
        let gone = named.iter().find(|id| !in_use.contains(id) && !missing.contains(id));
        unnamed
            .map(|id| format!("the manifest does not name {id:?}"))
            .or_else(|| gone.map(|id| format!("the manifest names {id:?}, which is not in use")))
    }
}
