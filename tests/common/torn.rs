//! What a kill, or power loss, leaves behind and no closed store has.

use std::os::unix::fs::FileExt;
use std::path::Path;
use stratalog::internals::format::header::{CURSOR_AT, IDENTITY_BYTES, Identity};

/// In a segment whose writer was killed between reserve and commit: one slot, and four units of
/// frame space, that nobody has decided about.
pub fn open_reservation(segment: &Path) {
    let file = std::fs::File::options().read(true).write(true).open(segment).expect("a segment");
    let mut cursor = [0; 8];
    file.read_exact_at(&mut cursor, CURSOR_AT as u64).expect("a cursor");
    // Slots are counted in the 24 bits above, units in the 40 bits below.
    let taken = u64::from_le_bytes(cursor) + (1 << 40) + 4;
    file.write_all_at(&taken.to_le_bytes(), CURSOR_AT as u64).expect("the cursor");
}

/// The file of the segment after a given one, as it was preallocated; its number is the answer.
pub fn preallocated_successor(segment: &Path) -> u64 {
    let mut bytes = std::fs::read(segment).expect("a segment");
    let header = bytes.first_chunk().expect("a header");
    let mut identity = Identity::decode(header).expect("a whole header");
    identity.sequence = identity.sequence.next();
    bytes.fill(0);
    bytes[..IDENTITY_BYTES].copy_from_slice(&identity.encode());
    let name = format!("{:010x}-{:08x}.seg", identity.sequence.0, identity.salt.0 as u32);
    std::fs::write(segment.with_file_name(name), bytes).expect("a file");
    identity.sequence.0
}
