//! Memories that fade and come back: activation and recall count of each packed in its user tag,
//! changed in place by many threads, and used to rank.
//!
//! `cargo run --release --example activation`

use std::error::Error;
use stratalog::{Compaction, Options, Store};

const MEMORIES: u32 = 1_000;
const RECALLERS: u32 = 4;
const RECALLS: u32 = 50_000;
const ROUNDS_OF_DECAY: u32 = 40;
const TOP: usize = 5;

/// What a tag says: 32 bits of activation above 31 bits of recalls, 63 in all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Memory {
    /// Neither negative nor NaN, so its top bit is 0, and so is the tag's.
    activation: f32,
    recalls: u32,
}

impl Memory {
    fn from_tag(tag: u64) -> Self {
        Self { activation: f32::from_bits((tag >> 31) as u32), recalls: tag as u32 & 0x7FFF_FFFF }
    }

    fn to_tag(self) -> u64 {
        u64::from(self.activation.max(0.0).to_bits()) << 31 | u64::from(self.recalls & 0x7FFF_FFFF)
    }

    /// Every recall adds to what is left of the ones before.
    fn recalled(self) -> Self {
        Self { activation: self.activation + 1.0, recalls: (self.recalls + 1) & 0x7FFF_FFFF }
    }

    fn decayed(self) -> Self {
        Self { activation: self.activation * 0.9, ..self }
    }
}

fn change(store: &Store, id: u32, to: impl Fn(Memory) -> Memory) -> Result<(), stratalog::Error> {
    store.update_tag(id.to_le_bytes(), |tag| to(Memory::from_tag(tag)).to_tag()).map(drop)
}

/// Recalls memories, the low ids more often than the high ones.
fn recall(store: &Store, mut seed: u32) -> Result<(), stratalog::Error> {
    for _ in 0..RECALLS {
        seed = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let even = f64::from(seed >> 8) / f64::from(1 << 24);
        change(store, (even.powi(3) * f64::from(MEMORIES)) as u32, Memory::recalled)?;
    }
    Ok(())
}

/// Lets all memories fade, again and again.
fn decay(store: &Store) -> Result<(), stratalog::Error> {
    for _ in 0..ROUNDS_OF_DECAY {
        (0..MEMORIES).try_for_each(|id| change(store, id, Memory::decayed))?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    assert_eq!(Memory::from_tag(0), Memory::default(), "a new record has never been recalled");
    let most = Memory { activation: f32::MAX, recalls: 0x7FFF_FFFF };
    assert_eq!((Memory::from_tag(most.to_tag()), most.to_tag() >> 63), (most, 0));

    let dir = tempfile::tempdir()?;
    let options = Options::new().dimension(2).segment_size(1 << 20).compaction(Compaction::Manual);
    let store = options.open(dir.path().join("memories"))?;
    for id in 0..MEMORIES {
        store.put(id.to_le_bytes(), &[id as f32, 1.0], format!("memory {id}"))?;
        store.put((id + MEMORIES).to_le_bytes(), &[0.0, 0.0], "soon forgotten")?;
    }
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let recallers = (1..=RECALLERS).map(|seed| {
            scope.spawn({
                let store = &store;
                move || recall(store, seed)
            })
        });
        let mut threads: Vec<_> = recallers.collect();
        threads.push(scope.spawn(|| decay(&store)));
        // Tags go along when records are moved, and nobody waits.
        for id in MEMORIES..2 * MEMORIES {
            store.remove(id.to_le_bytes())?;
        }
        println!("compaction moved {} of them meanwhile", store.compact()?.moved_records);
        for thread in threads {
            thread.join().map_err(|_panic| "a thread panicked")??;
        }
        Ok(())
    })?;

    let pinned = store.pin();
    let records = pinned.iter().map(|record| record.map(|r| (Memory::from_tag(r.tag()), r)));
    let mut memories = records.collect::<Result<Vec<_>, _>>()?;
    memories.sort_by(|(a, _), (b, _)| b.activation.total_cmp(&a.activation));
    for (memory, record) in memories.iter().take(TOP) {
        println!(
            "{}: activation {:.3}, recalled {} times",
            record.content_str()?,
            memory.activation,
            memory.recalls
        );
    }
    let recalls: u32 = memories.iter().map(|(memory, _)| memory.recalls).sum();
    assert_eq!(recalls, RECALLERS * RECALLS, "no recall is lost");
    assert!(memories.iter().all(|(m, _)| m.activation <= m.recalls as f32), "they only fade");
    println!("{recalls} recalls, all of them counted");
    Ok(())
}
