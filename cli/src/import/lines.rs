//! Lines of records, and what they say.

use anyhow::{Context, anyhow, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::{BufRead, Read};

/// No line is longer: more than any record of a usual store takes, as JSON, and less than memory.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// One line that holds a record.
#[derive(Debug)]
pub struct Line {
    /// Counted from 1, as editors do.
    pub number: u64,
    /// Counted from 0, blank lines left out: its row in the array.
    pub row: u64,
    /// Its bytes, without the newline.
    pub text: Vec<u8>,
}

/// Lines that travel together.
pub type Batch = Vec<Line>;

/// The lines of a file, one after another. Blank ones are left out.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    number: u64,
    row: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Self {
        Self { input, number: 0, row: 0 }
    }

    /// The next line that is not blank.
    pub fn read(&mut self) -> anyhow::Result<Option<Line>> {
        loop {
            let mut text = Vec::new();
            let len = (&mut self.input).take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
            if len == 0 {
                return Ok(None);
            }
            self.number += 1;
            ensure!((len as u64) < LINE_BYTES_MAX, "line {} is too long", self.number);
            if !text.trim_ascii().is_empty() {
                let row = self.row;
                self.row += 1;
                return Ok(Some(Line { number: self.number, row, text }));
            }
        }
    }
}

/// Returns how many lines hold something.
pub fn count(mut input: impl BufRead) -> anyhow::Result<u64> {
    let (mut lines, mut blank) = (0, true);
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(lines);
        }
        for byte in buffer {
            match byte {
                b'\n' => blank = true,
                byte if blank && !byte.is_ascii_whitespace() => {
                    blank = false;
                    lines += 1;
                }
                _ => {}
            }
        }
        let len = buffer.len();
        input.consume(len);
    }
}

/// A record as its line says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields<'a> {
    /// The id.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// The content.
    #[serde(borrow)]
    pub content: Cow<'a, str>,
    #[serde(borrow, default)]
    embedding: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct IdOnly<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// A line's id, which is all that is needed to choose a worker.
pub fn id(text: &[u8]) -> anyhow::Result<Cow<'_, str>> {
    serde_json::from_slice(text).map(|IdOnly { id }| id).map_err(explain)
}

impl<'a> Fields<'a> {
    /// Everything that a line says; anything else in it is an error, not left out in silence.
    pub fn parse(text: &'a [u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(text).map_err(explain)
    }

    /// Returns whether the embedding stands in the line.
    pub fn has_embedding(&self) -> bool {
        self.embedding.is_some()
    }

    /// The embedding that stands in the line. Each number is rounded once, to the nearest `f32`:
    /// what was written from an `f32` comes back bit for bit.
    pub fn embedding(&self, values: &mut Vec<f32>) -> anyhow::Result<()> {
        values.clear();
        let raw = self.embedding.context(
            "missing field `embedding`, and there is no --embeddings file to take it from",
        )?;
        let inner = raw.get().trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let inner = inner.context("the embedding is not an array")?;
        if inner.trim().is_empty() {
            return Ok(());
        }
        for number in inner.split(',') {
            // The whole is valid JSON, so what parses here is a JSON number.
            let value = number.trim().parse().map_err(|_error| {
                let near: String = number.trim().chars().take(20).collect();
                anyhow!("value {} of the embedding is no number: {near}", values.len())
            });
            values.push(value?);
        }
        Ok(())
    }
}

/// serde counts lines from the beginning of what it was given, which is one line here.
fn explain(error: serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    anyhow!("{what} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_are_left_out_and_counted() {
        let text = "\n{\"a\":1}\n  \r\n{\"b\":2}\n\n{\"c\":3}";
        let mut lines = Lines::new(text.as_bytes());
        let mut seen = Vec::new();
        while let Some(line) = lines.read().unwrap() {
            seen.push((line.number, line.row));
        }
        assert_eq!(seen, [(2, 0), (4, 1), (6, 2)]);
        assert_eq!(count(text.as_bytes()).unwrap(), 3);
        assert_eq!(count(&b""[..]).unwrap(), 0);
    }

    #[test]
    fn every_f32_comes_back_bit_for_bit() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut values = Vec::new();
        for _ in 0..2_000 {
            let value = f32::from_bits(rng.u32(..) & 0xBFFF_FFFF);
            let numbers = serde_json::to_string(&[value, -value, 0.1]).unwrap();
            let line = format!("{{\"id\":\"a\",\"content\":\"\",\"embedding\":{numbers}}}");
            Fields::parse(line.as_bytes()).unwrap().embedding(&mut values).unwrap();
            let bits: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
            assert_eq!(bits, [value, -value, 0.1].map(f32::to_bits), "{line}");
        }
    }

    #[test]
    fn bad_lines_are_explained() {
        let explained = |line: &str| {
            let mut values = Vec::new();
            let parsed = Fields::parse(line.as_bytes()).and_then(|f| f.embedding(&mut values));
            parsed.map_err(|error| format!("{error:#}")).unwrap_err()
        };
        for (line, reason) in [
            ("{\"id\":\"a\"}", "missing field `content`"),
            ("{\"id\":1,\"content\":\"\"}", "expected a string (column 7)"),
            ("{\"id\":\"a\",\"content\":\"\",\"text\":\"\"}", "unknown field `text`"),
            ("{\"id\":\"a\",\"content\":\"\"}", "--embeddings"),
            ("{\"id\":\"a\",\"content\":\"\",\"embedding\":[1,null]}", "value 1"),
            ("{\"id\":\"a\",\"content\":\"\",\"embedding\":[[1],2]}", "value 0"),
            ("{\"id\":\"a\",\"content\":\"\",\"embedding\":\"1\"}", "not an array"),
            ("{\"id\":\"a\",\"content\":\"\",\"embedding\":[nan]}", "expected"),
            ("{\"id\":\"a\",\"content\":\"", "EOF"),
            ("not json", "expected"),
        ] {
            assert!(explained(line).contains(reason), "{line}: {}", explained(line));
        }
    }
}
