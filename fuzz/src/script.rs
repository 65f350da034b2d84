//! A hand's worth of changes to a store's files, read from any bytes.

use super::forge::{self, Count};
use std::collections::BTreeMap;
use std::sync::Arc;

/// By name. What is not changed is not copied.
pub type Files = BTreeMap<String, Arc<Vec<u8>>>;

/// Reads numbers from any bytes; zeros behind their end.
#[derive(Debug)]
pub struct Reader<'d>(pub &'d [u8]);

impl Reader<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next 16 bits.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number as they make trouble: a small one, one just below or above a power of two, or any.
    pub fn number(&mut self) -> u64 {
        let (how, by) = (self.byte(), u64::from(self.byte()));
        match how % 4 {
            0 => by,
            1 => 1u64.checked_shl(u32::from(how >> 2)).unwrap_or(0).wrapping_sub(by % 4),
            2 => 1u64.checked_shl(u32::from(how >> 2)).unwrap_or(0).wrapping_add(by % 4),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// A number below `end`: near 0 or near `end` as often as in between.
    fn below(&mut self, end: usize) -> usize {
        let (how, by) = (self.byte(), usize::from(self.short()));
        let at = match how % 4 {
            0 => by,
            1 => end.saturating_sub(1 + by),
            _ => usize::from(how >> 2) * end / 64 + by,
        };
        at % end.max(1)
    }
}

/// Changes the files as the bytes say; whether nothing was forged.
pub fn apply(files: &mut Files, reader: &mut Reader<'_>) -> bool {
    let mut genuine = true;
    for _ in 0..1 + reader.byte() % 6 {
        let op = reader.byte() % 16;
        let names: Vec<String> = files.keys().cloned().collect();
        let Some(name) = names.get(usize::from(reader.byte()) % names.len().max(1)) else {
            return genuine;
        };
        genuine &= op < 8;
        if op < 8 {
            damage(files, name, op, reader);
        } else {
            // Most of what can be forged is in segments.
            let segments: Vec<_> = names.iter().filter(|name| name.ends_with(".seg")).collect();
            let which = usize::from(reader.byte()) % segments.len().max(1);
            if let Some(bytes) = segments.get(which).and_then(|name| files.get_mut(*name)) {
                forge_segment(Arc::<Vec<u8>>::make_mut(bytes), op, reader);
            }
            if op == 15
                && let Some(bytes) = files.get_mut("MANIFEST")
            {
                let at = 8 + usize::from(reader.byte()) * 4;
                let bytes = Arc::<Vec<u8>>::make_mut(bytes);
                forge::forge_manifest(bytes, at, 4 + 4 * (at % 2), reader.number());
            }
        }
    }
    genuine
}

fn damage(files: &mut Files, name: &str, op: u8, reader: &mut Reader<'_>) {
    let Some(bytes) = files.get_mut(name) else { return };
    if op > 4 {
        return replace(files, name, op, reader);
    }
    let bytes = Arc::make_mut(bytes);
    let len = bytes.len();
    match op {
        0 => {
            let (at, bit) = (reader.below(len), reader.byte() % 8);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        1 => {
            let (at, value) = (reader.below(len) & !7, reader.number());
            forge::store_number(bytes, at, 8, value);
        }
        2 => {
            let (from, len) = (reader.below(len), usize::from(reader.short()));
            let to = (from + len).min(bytes.len());
            bytes[from.min(to)..to].fill(0);
        }
        3 => bytes.truncate(reader.below(len)),
        _ => bytes.resize((len + usize::from(reader.short())).min(3 << 20), reader.byte()),
    }
}

fn replace(files: &mut Files, name: &str, op: u8, reader: &mut Reader<'_>) {
    if op == 5 {
        files.remove(name);
    } else {
        let others: Vec<String> = files.keys().cloned().collect();
        let other = &others[usize::from(reader.byte()) % others.len()];
        exchange(files, (name, other), op, reader);
    }
}

/// Swaps two files, copies one under another's or a new name, or a piece of it into another.
fn exchange(files: &mut Files, (one, other): (&str, &str), op: u8, reader: &mut Reader<'_>) {
    let (Some(ours), Some(theirs)) = (files.get(one).cloned(), files.get(other).cloned()) else {
        return;
    };
    if op == 7 {
        let (from, to) = (reader.below(theirs.len()) & !7, reader.below(ours.len()) & !7);
        let len = usize::from(reader.short()).min(theirs.len() - from).min(ours.len() - to);
        let mut ours = ours;
        Arc::make_mut(&mut ours)[to..to + len].copy_from_slice(&theirs[from..from + len]);
        files.insert(one.to_owned(), ours);
        return;
    }
    match reader.byte() % 3 {
        0 => {
            files.insert(other.to_owned(), ours);
            files.insert(one.to_owned(), theirs);
        }
        1 => drop(files.insert(other.to_owned(), ours)),
        _ => {
            let name = format!("{:010x}-{:08x}.seg", reader.number() & 0xFF_FFFF_FFFF, 0xC0FFEE);
            files.insert(name, ours);
        }
    }
}

fn forge_segment(bytes: &mut [u8], op: u8, reader: &mut Reader<'_>) {
    let slot = u32::from(reader.byte() % 48);
    match op {
        8 | 9 => {
            let which = usize::from(reader.byte() % 5);
            // Kind and state are small numbers; offset and length lie in one word.
            let value = match which {
                0 => u64::from(reader.byte() % 8) | u64::from(reader.byte() % 5) << 8,
                3 => {
                    let before = forge::slot_words(bytes, slot)[3];
                    before & 0xFFFF_FFFF | (reader.number() & 0xFFFF_FFFF) << 32
                }
                4 => {
                    let before = forge::slot_words(bytes, slot)[3];
                    before & !0xFFFF_FFFF | reader.number() & 0xFFFF_FFFF
                }
                _ => reader.number(),
            };
            forge::forge_slot(bytes, slot, which.min(3), value);
        }
        10 | 11 => {
            const FIELDS: [(usize, usize); 9] =
                [(8, 8), (16, 8), (24, 4), (28, 4), (36, 2), (38, 1), (39, 1), (0, 8), (40, 8)];
            let (at, width) = FIELDS[usize::from(reader.byte()) % FIELDS.len()];
            let value = reader.number();
            forge::forge_frame(bytes, slot, at, width, value);
        }
        12 => {
            const FIELDS: [(usize, usize); 7] =
                [(8, 4), (12, 4), (16, 8), (32, 8), (40, 8), (48, 8), (56, 4)];
            let (at, width) = FIELDS[usize::from(reader.byte()) % FIELDS.len()];
            forge::forge_identity(bytes, at, width, reader.number());
        }
        13 => {
            let which = [Count::Durable, Count::Sealed, Count::Predecessor];
            let which = which[usize::from(reader.byte()) % 3];
            forge::forge_count(bytes, which, reader.number());
        }
        14 => {
            // Cursor and boot id: under no sum.
            let at = [64, 192, 200][usize::from(reader.byte()) % 3];
            forge::store_number(bytes, at, 8, reader.number());
        }
        _ => {}
    }
}
