//! The records that come with the program, and what each version of each id must look like.

use crate::npy::{self, Header};
use anyhow::{Context, ensure};
use serde::Deserialize;

const RECORDS: &str = include_str!("../../data/sample_records.jsonl");
const EMBEDDINGS: &[u8] = include_bytes!("../../data/sample.npy");

#[derive(Debug, Deserialize)]
struct Entry {
    id: String,
    content: String,
}

/// The sample: a few hundred real records, of which the demo makes as many as it is asked for.
#[derive(Debug)]
pub struct Sample {
    entries: Vec<Entry>,
    embeddings: Vec<f32>,
    /// Values of an embedding.
    pub dimension: usize,
}

/// What an operation on an id leaves: the number `version` counts the operations on that id, 0 is
/// the state before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Record,
    Nothing,
}

/// What version `version` of id `n` is: one in ten is a remove, but never the first.
pub fn left_by(n: usize, version: u32) -> Left {
    let mixed = (n as u64 ^ u64::from(version) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let remove = version >= 2 && (mixed >> 40).is_multiple_of(10);
    if version == 0 || remove { Left::Nothing } else { Left::Record }
}

impl Sample {
    /// What was compiled in.
    pub fn load() -> anyhow::Result<Self> {
        let entries: Vec<Entry> =
            RECORDS.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let header = Header::read(&mut &EMBEDDINGS[..])?;
        ensure!(header.rows == entries.len() as u64 && !entries.is_empty(), "rows and records");
        let data = EMBEDDINGS.get(usize::try_from(header.data_at)?..).context("no data")?;
        let mut embeddings = Vec::new();
        npy::decode(data, &mut embeddings);
        let dimension = usize::try_from(header.dimension)?;
        ensure!(embeddings.len() == entries.len() * dimension, "the array was cut short");
        Ok(Self { entries, embeddings, dimension })
    }

    /// Records in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Id number `n`: a real one, and which copy of it.
    pub fn id(&self, n: usize, id: &mut String) {
        id.clear();
        id.push_str(&self.entries[n % self.len()].id);
        id.push_str(&format!("#{}", n / self.len()));
    }

    /// The content of a version: the real one, and which copy and version.
    pub fn content(&self, n: usize, version: u32, content: &mut String) {
        content.clear();
        content.push_str(&self.entries[n % self.len()].content);
        content.push_str(&format!(" #{} v{version}", n / self.len()));
    }

    /// The embedding of a version, in two parts: the real one, turned by some values, so that it
    /// is another for each version.
    fn embedding_parts(&self, n: usize, version: u32) -> [&[f32]; 2] {
        let at = n % self.len() * self.dimension;
        let whole = &self.embeddings[at..at + self.dimension];
        let (head, tail) = whole.split_at((n / self.len() + version as usize) % self.dimension);
        [tail, head]
    }

    /// The embedding of a version.
    pub fn embedding(&self, n: usize, version: u32, embedding: &mut Vec<f32>) {
        embedding.clear();
        embedding.extend(self.embedding_parts(n, version).into_iter().flatten());
    }

    /// Which version of id `n` this content is of, if the rest of content and every bit of the
    /// embedding agree.
    pub fn version_of(
        &self,
        n: usize,
        embedding: &[f32],
        content: &[u8],
        scratch: &mut String,
    ) -> Result<u32, &'static str> {
        let text = std::str::from_utf8(content).map_err(|_error| "its content is not UTF-8")?;
        let version = text.rsplit_once(" v").and_then(|(_, digits)| digits.parse().ok());
        let version = version.ok_or("its content does not end with a version")?;
        self.content(n, version, scratch);
        if scratch != text {
            return Err("its content is another record's");
        }
        let [head, tail] = self.embedding_parts(n, version);
        let expected = head.iter().chain(tail).map(|value| value.to_bits());
        if embedding.len() == self.dimension
            && expected.eq(embedding.iter().map(|value| value.to_bits()))
        {
            Ok(version)
        } else {
            Err("its embedding is not the one of its content")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_holds_what_the_data_readme_says() {
        let sample = Sample::load().unwrap();
        assert_eq!((sample.len(), sample.dimension), (500, 768));
        let norm: f32 = sample.embeddings[..768].iter().map(|v| v * v).sum();
        assert!((norm - 1.0).abs() < 1e-4, "{norm}");
    }

    #[test]
    fn versions_are_recognised_and_nothing_else_is() {
        let sample = Sample::load().unwrap();
        let (mut embedding, mut content, mut scratch) = (Vec::new(), String::new(), String::new());
        sample.embedding(777, 3, &mut embedding);
        sample.content(777, 3, &mut content);
        let mut judge = |n, e: &[f32], c: &str| sample.version_of(n, e, c.as_bytes(), &mut scratch);
        assert_eq!(judge(777, &embedding, &content), Ok(3));
        assert!(judge(778, &embedding, &content).is_err());
        assert!(judge(777, &embedding[1..], &content).is_err());
        assert!(judge(777, &embedding, &content.replace("v3", "v4")).is_err());
        for n in 0..768 {
            let mut broken = embedding.clone();
            broken[n] = f32::from_bits(broken[n].to_bits() ^ 1);
            assert!(judge(777, &broken, &content).is_err());
        }
    }

    #[test]
    fn a_tenth_of_the_operations_removes() {
        let removes =
            (0..100_000).filter(|&n| left_by(n, 2 + n as u32 % 7) == Left::Nothing).count();
        assert!((9_000..11_000).contains(&removes), "{removes}");
        assert!(
            (0..1_000).all(|n| left_by(n, 0) == Left::Nothing && left_by(n, 1) == Left::Record)
        );
    }
}
