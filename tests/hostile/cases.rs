//! The families whose members are contents of files.

use super::forge::{self, Count};
use super::victim::{Victim, mix};
use std::collections::BTreeMap;
use stratalog::internals::format::header;

type Files = BTreeMap<String, Vec<u8>>;

/// One member of a family.
pub struct Case {
    pub name: String,
    /// Nothing is forged: what is found was once put.
    pub genuine: bool,
    pub change: Box<dyn Fn(&mut Files)>,
}

/// Numbers as they make trouble, and their neighbours.
const NUMBERS: [u64; 22] = [
    0,
    1,
    2,
    63,
    64,
    1 << 14,
    (1 << 14) - 1,
    1 << 20,
    (1 << 24) - 1,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 64,
    (1 << 32) - 1,
    1 << 32,
    (1 << 40) - 1,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 63,
    u64::MAX - 1,
    u64::MAX,
];

/// The members of a family.
pub fn of(family: &str, victim: &Victim) -> Vec<Case> {
    let mut cases = Vec::new();
    match family {
        "cut" => cut(victim, &mut cases),
        "extended" => extended(victim, &mut cases),
        "moved" => moved(victim, &mut cases),
        "flipped" => flipped(victim, &mut cases),
        "zeroed" => zeroed(victim, &mut cases),
        "foreign" => foreign(victim, &mut cases),
        "forged slots" => forged_slots(victim, &mut cases),
        "forged frames" => forged_frames(victim, &mut cases),
        "forged headers" => forged_headers(victim, &mut cases),
        "sealed counts" => sealed_counts(victim, &mut cases),
        other => panic!("no family {other}"),
    }
    cases
}

fn add(cases: &mut Vec<Case>, genuine: bool, name: String, change: impl Fn(&mut Files) + 'static) {
    cases.push(Case { name, genuine, change: Box::new(change) });
}

/// A change of one file's bytes.
fn edit(
    cases: &mut Vec<Case>,
    genuine: bool,
    (file, what): (&str, String),
    change: impl Fn(&mut Vec<u8>) + 'static,
) {
    let file = file.to_owned();
    add(cases, genuine, format!("{file}: {what}"), move |files| {
        if let Some(bytes) = files.get_mut(&file) {
            change(bytes);
        }
    });
}

fn segments(victim: &Victim) -> impl Iterator<Item = (&String, &Vec<u8>)> {
    victim.files.iter().filter(|(name, _)| name.ends_with(".seg"))
}

/// Slots of a segment that are not blank.
fn slots(segment: &[u8]) -> u32 {
    (0..200).rev().find(|n| forge::slot_words(segment, *n) != [0; 4]).map_or(0, |last| last + 1)
}

/// Where something may lie: the header, each slot, and the frames of the last slots.
fn places(segment: &[u8]) -> Vec<usize> {
    let last = slots(segment) as usize;
    let directory = 4096..4096 + (last + 2) * 32;
    let lowest = (0..last as u32).filter_map(|n| forge::body_of(segment, n));
    let lowest = lowest.map(|body| body.offset.bytes()).min().unwrap_or(segment.len());
    let begin = lowest.max(segment.len().saturating_sub(8192)).min(segment.len());
    (0..header::HEADER_END).chain(directory).chain(begin..segment.len()).collect()
}

fn cut(victim: &Victim, cases: &mut Vec<Case>) {
    for (name, bytes) in &victim.files {
        let mut lengths: Vec<usize> =
            if name.ends_with(".seg") { places(bytes) } else { (0..bytes.len()).collect() };
        lengths.extend((4096..bytes.len()).step_by(4096));
        for len in lengths {
            edit(cases, true, (name, format!("cut to {len}")), move |bytes| bytes.truncate(len));
        }
    }
}

fn extended(victim: &Victim, cases: &mut Vec<Case>) {
    for name in victim.files.keys() {
        for (more, with) in [1, 4, 16, 4095, 4096, 1 << 20].into_iter().zip([0, 1, 0xFF].repeat(2))
        {
            edit(cases, true, (name, format!("{more} bytes more, of {with}")), move |bytes| {
                bytes.resize(bytes.len() + more, with);
            });
        }
        edit(cases, true, (name, "twice over".to_owned()), |bytes| bytes.extend(bytes.clone()));
    }
}

fn moved(victim: &Victim, cases: &mut Vec<Case>) {
    let names: Vec<String> = victim.files.keys().cloned().collect();
    // Every subset of the files is gone.
    for gone in 1..1u32 << names.len() {
        let names = names.clone();
        let is_gone = move |n: usize| gone >> n & 1 == 1;
        add(cases, true, format!("gone: {gone:b}"), move |files| {
            for (_, name) in names.iter().enumerate().filter(|(n, _)| is_gone(*n)) {
                files.remove(name);
            }
        });
    }
    for (one, other) in names.iter().flat_map(|one| names.iter().map(move |other| (one, other))) {
        let pair = (one.clone(), other.clone());
        add(cases, true, format!("{one} and {other} changed places"), {
            let (one, other) = pair.clone();
            move |files| {
                let [ours, theirs] = [&one, &other].map(|name| files[name].clone());
                files.insert(one.clone(), theirs);
                files.insert(other.clone(), ours);
            }
        });
        add(cases, true, format!("{one} in place of {other}"), {
            let (one, other) = pair;
            move |files| drop(files.insert(other.clone(), files[&one].clone()))
        });
    }
    for (name, _) in segments(victim) {
        let (sequence, salt) = name.trim_end_matches(".seg").split_once('-').unwrap();
        for number in [0, 1, 2, 3, 9, (1 << 40) - 2, (1 << 40) - 1u64] {
            let renamed = [
                format!("{number:010x}-{salt}.seg"),
                format!("{number:010x}-00c0ffee.seg"),
                format!("{sequence}-{number:08x}.seg"),
            ];
            for renamed in renamed {
                for stays in [false, true] {
                    let (name, renamed) = (name.clone(), renamed.clone());
                    add(
                        cases,
                        true,
                        format!("{name} as {renamed}, stays: {stays}"),
                        move |files| {
                            let bytes = files[&name].clone();
                            if !stays {
                                files.remove(&name);
                            }
                            files.insert(renamed.clone(), bytes);
                        },
                    );
                }
            }
        }
    }
}

fn flipped(victim: &Victim, cases: &mut Vec<Case>) {
    for (name, bytes) in &victim.files {
        let places =
            if name.ends_with(".seg") { places(bytes) } else { (0..bytes.len()).collect() };
        for at in places {
            // Each bit of the manifest and of the header, one of each byte elsewhere.
            let all = !name.ends_with(".seg") || at < 232;
            for bit in if all { 0..8 } else { at % 8..at % 8 + 1 } {
                edit(cases, true, (name, format!("byte {at}, bit {bit}")), move |bytes| {
                    bytes[at] ^= 1 << bit;
                });
            }
        }
    }
}

fn zeroed(victim: &Victim, cases: &mut Vec<Case>) {
    for (name, bytes) in &victim.files {
        for len in [8, 64, 512, 4096, 1 << 16, 1 << 20] {
            let places = places(bytes).into_iter().filter(|at| at % len.min(4096) == 0);
            for from in places.chain((0..bytes.len()).step_by(1 << 17)) {
                let to = (from + len).min(bytes.len());
                edit(cases, true, (name, format!("{from}..{to} is zero")), move |bytes| {
                    bytes[from.min(to)..to].fill(0);
                });
            }
        }
    }
}

fn foreign(victim: &Victim, cases: &mut Vec<Case>) {
    let noise: Vec<u8> = (0..1u64 << 20).map(|n| mix(n) as u8).collect();
    let contents: [(&str, Vec<u8>); 7] = [
        ("nothing", vec![]),
        ("a text", b"# written by hand\n".repeat(300)),
        ("zeros", vec![0; 1 << 20]),
        ("ones", vec![0xFF; 1 << 20]),
        ("noise", noise),
        ("an SQLite header", [&b"SQLite format 3\0"[..], &[0; 4080]].concat()),
        ("its magic only", b"stratlogstratman".repeat(4096)),
    ];
    let mut names: Vec<String> = victim.files.keys().cloned().collect();
    names.extend(
        ["MANIFEST.tmp", "0000000009-00c0ffee.seg", "fffffffffe-00000000.seg.tmp"]
            .map(String::from),
    );
    for name in &names {
        for (what, bytes) in &contents {
            let (name, bytes) = (name.clone(), bytes.clone());
            add(cases, true, format!("{what} in place of {name}"), move |files| {
                files.insert(name.clone(), bytes.clone());
            });
        }
    }
    // Pieces of this store's own segments at every shift of a unit, over each other.
    for (name, _) in segments(victim) {
        for (other, theirs) in segments(victim) {
            for shift in 0..64 {
                let theirs = theirs.clone();
                edit(
                    cases,
                    true,
                    (name, format!("{other} over it, shifted by {shift}")),
                    move |ours| {
                        let len = (40 * 32).min(theirs.len() - 4096);
                        let (to, from) = (4096 + shift * 8, 4096);
                        ours[to..to + len].copy_from_slice(&theirs[from..from + len]);
                        let frames = ours.len() - 4096;
                        let end = frames + shift + 2048;
                        ours[frames + shift..end].copy_from_slice(&theirs[frames..frames + 2048]);
                    },
                );
            }
        }
    }
}

fn forged_slots(victim: &Victim, cases: &mut Vec<Case>) {
    for (name, bytes) in segments(victim) {
        for slot in 0..slots(bytes) + 1 {
            for (number, which) in NUMBERS.iter().flat_map(|n| [1, 2, 3, 4, 5].map(|w| (*n, w))) {
                let what = format!("slot {slot}, word {which}, {number:#x}");
                edit(cases, false, (name, what), move |bytes| {
                    let extent = forge::slot_words(bytes, slot)[3];
                    let value = match which {
                        // Offset alone, length alone.
                        4 => extent & !0xFFFF_FFFF | number & 0xFFFF_FFFF,
                        5 => extent & 0xFFFF_FFFF | number << 32,
                        _ => number,
                    };
                    forge::forge_slot(bytes, slot, which.min(3), value);
                });
            }
            for state in 0..7u64 {
                for kind in 0..5u64 {
                    let what = format!("slot {slot}, state {state}, kind {kind}");
                    edit(cases, false, (name, what), move |bytes| {
                        forge::forge_slot(bytes, slot, 0, state | kind << 8);
                    });
                }
            }
        }
    }
}

fn forged_frames(victim: &Victim, cases: &mut Vec<Case>) {
    // Tag, LSN, created, content length, slot, id length, kind, flags, expiry.
    let fields = [(0, 8), (8, 8), (16, 8), (24, 4), (28, 4), (36, 2), (38, 1), (39, 1), (40, 8)];
    for (name, bytes) in segments(victim) {
        for slot in 0..slots(bytes) {
            for (at, width) in fields {
                for number in NUMBERS {
                    let what = format!("frame of slot {slot}, byte {at}, {number:#x}");
                    edit(cases, false, (name, what), move |bytes| {
                        forge::forge_frame(bytes, slot, at, width, number);
                    });
                }
            }
        }
    }
}

fn forged_headers(victim: &Victim, cases: &mut Vec<Case>) {
    // Version, dimension, store, sequence, salt, size, directory, role, features.
    let fields = [(8, 4), (12, 4), (16, 8), (32, 8), (40, 8), (48, 8), (56, 4), (60, 4)];
    let fields = fields.into_iter().chain([(64, 8), (72, 8), (80, 8)]);
    for (name, _) in segments(victim) {
        for number in NUMBERS {
            for (at, width) in fields.clone() {
                edit(cases, false, (name, format!("identity {at}, {number:#x}")), move |bytes| {
                    forge::forge_identity(bytes, at, width, number);
                });
            }
            for which in [Count::Durable, Count::Sealed, Count::Predecessor] {
                edit(cases, false, (name, format!("{which:?}, {number:#x}")), move |bytes| {
                    forge::forge_count(bytes, which, number);
                });
            }
            for at in [header::CURSOR_AT, header::BOOT_AT, header::BOOT_AT + 8] {
                edit(cases, false, (name, format!("word {at}, {number:#x}")), move |bytes| {
                    forge::store_number(bytes, at, 8, number);
                });
            }
        }
    }
    let len = victim.files["MANIFEST"].len();
    for number in NUMBERS {
        for at in (8..len - 8).step_by(4) {
            let is_short = at < 16 || (48..56).contains(&at) || (88..92).contains(&at);
            let width = if is_short { 4 } else { 8 };
            edit(cases, false, ("MANIFEST", format!("{at}, {number:#x}")), move |bytes| {
                forge::forge_manifest(bytes, at, width, number);
            });
        }
    }
}

/// Of each segment the sealed count says more than it can hold. Few, so that all are in the short
/// form.
fn sealed_counts(victim: &Victim, cases: &mut Vec<Case>) {
    for (name, bytes) in segments(victim) {
        for number in [slots(bytes) + 1, 1 << 20, 1 << 24, 1 << 31, u32::MAX] {
            edit(cases, false, (name, format!("sealed at {number}")), move |bytes| {
                forge::forge_count(bytes, Count::Sealed, u64::from(number));
            });
        }
    }
}
