//! NumPy's `.npy` format, as far as it holds embeddings: one 2-D array of little-endian `f32` in C
//! order. Everything else is refused with what to do about it.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 6 | magic `\x93NUMPY` |
//! | 6 | 2 | version, major and minor: 1.0, 2.0 or 3.0 |
//! | 8 | 2, from 2.0 on 4 | length of the header, little-endian |
//! | | | header: a Python dict of `descr`, `fortran_order` and `shape`, spaces, newline |
//! | | | the array |

use anyhow::{Context, bail, ensure};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy itself writes some hundred bytes.
const HEADER_BYTES_MAX: usize = 1 << 16;
const VALUE_BYTES: u64 = 4;

/// What stands before the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Rows of the array.
    pub rows: u64,
    /// Values of a row.
    pub dimension: u64,
    /// Byte at which the array begins.
    pub data_at: u64,
}

impl Header {
    /// Reads a header. What it says of sizes has not been compared with the file's yet.
    pub fn read(input: &mut impl Read) -> anyhow::Result<Self> {
        let mut start = [0; 8];
        input.read_exact(&mut start).context("it is too short for a .npy file")?;
        ensure!(start.starts_with(MAGIC), "it is not a .npy file");
        let wide = match (start[6], start[7]) {
            (1, 0) => false,
            (2 | 3, 0) => true,
            (major, minor) => bail!("version {major}.{minor} of .npy is not known"),
        };
        let mut len = [0; 4];
        let len_bytes = if wide { 4 } else { 2 };
        input.read_exact(&mut len[..len_bytes]).context("it ends inside the header")?;
        let len = u32::from_le_bytes(len) as usize;
        ensure!(len <= HEADER_BYTES_MAX, "a header of {len} bytes cannot be right");
        let mut text = vec![0; len];
        input.read_exact(&mut text).context("it ends inside the header")?;
        let (rows, dimension) = parse(&text)?;
        Ok(Self { rows, dimension, data_at: (8 + len_bytes + len) as u64 })
    }

    /// Bytes of a file with this header.
    pub fn file_bytes(&self) -> anyhow::Result<u64> {
        let values = self.rows.checked_mul(self.dimension);
        let bytes = values.and_then(|n| n.checked_mul(VALUE_BYTES)?.checked_add(self.data_at));
        bytes.with_context(|| {
            format!("a shape of ({}, {}) cannot be right", self.rows, self.dimension)
        })
    }
}

/// An array in a file, read row by row where it lies. Any number of threads may do so.
#[derive(Debug)]
pub struct Matrix {
    file: File,
    header: Header,
}

impl Matrix {
    /// Opens a file and checks all of it but the values.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let mut file = File::open(path)?;
        let header = Header::read(&mut file)?;
        let (expected, found) = (header.file_bytes()?, file.metadata()?.len());
        let (rows, dimension) = (header.rows, header.dimension);
        ensure!(
            found == expected,
            "its shape ({rows}, {dimension}) makes {expected} bytes, the file has {found}: {}",
            if found < expected { "it was cut short" } else { "something follows the array" }
        );
        Ok(Self { file, header })
    }

    /// Rows and their length.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Reads a row into `values`, with `bytes` for a buffer.
    pub fn row(&self, n: u64, bytes: &mut Vec<u8>, values: &mut Vec<f32>) -> anyhow::Result<()> {
        let rows = self.header.rows;
        ensure!(n < rows, "the array has only {rows} rows");
        // Inside the file's length, which was checked: no overflow, no oversized buffer.
        let len = self.header.dimension * VALUE_BYTES;
        bytes.resize(usize::try_from(len)?, 0);
        self.file.read_exact_at(bytes, self.header.data_at + n * len)?;
        decode(bytes, values);
        Ok(())
    }
}

/// Little-endian values.
pub fn decode(bytes: &[u8], values: &mut Vec<f32>) {
    values.clear();
    let (chunks, _) = bytes.as_chunks::<4>();
    values.extend(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)));
}

/// Rows and dimension from a header's text.
fn parse(text: &[u8]) -> anyhow::Result<(u64, u64)> {
    let text = std::str::from_utf8(text).context("its header is not text")?;
    let mut rest = Cursor { rest: text };
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    rest.expect("{")?;
    while !rest.take("}") {
        let key = rest.string()?;
        rest.expect(":")?;
        let new = match key {
            "descr" => descr.replace(rest.descr()?).is_none(),
            "fortran_order" => fortran_order.replace(rest.boolean()?).is_none(),
            "shape" => shape.replace(rest.shape()?).is_none(),
            _ => bail!("its header has a key {key:?}, which is not known"),
        };
        ensure!(new, "its header has {key:?} twice");
        if !rest.take(",") {
            rest.expect("}")?;
            break;
        }
    }
    ensure!(rest.rest.trim().is_empty(), "something follows the dict in its header");
    let (Some(descr), Some(fortran_order), Some(shape)) = (descr, fortran_order, shape) else {
        bail!("its header lacks one of descr, fortran_order, shape");
    };
    check_type(descr)?;
    ensure!(
        !fortran_order,
        "its array is in Fortran order; save numpy.ascontiguousarray(array) instead"
    );
    match *shape {
        [rows, dimension] => Ok((rows, dimension)),
        _ => bail!("its array has {} dimensions; 2 are needed: (records, values)", shape.len()),
    }
}

fn check_type(descr: &str) -> anyhow::Result<()> {
    match descr {
        "<f4" => Ok(()),
        ">f4" => bail!("its values are big-endian; save array.astype('<f4') instead"),
        _ => bail!(
            "its values are of type {descr:?}; little-endian float32 ('<f4') is needed: save \
             array.astype('<f4') instead"
        ),
    }
}

/// The rest of a header's text. Knows just enough Python for what NumPy writes, and does not nest.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> anyhow::Result<()> {
        let rest = self.rest.trim();
        let near: String = rest.chars().take(20).collect();
        ensure!(self.take(token), "its header should have {token:?} before {near:?}");
        Ok(())
    }

    fn string(&mut self) -> anyhow::Result<&'a str> {
        let quote = if self.take("\"") { '"' } else { '\'' };
        if quote == '\'' {
            self.expect("'")?;
        }
        let (text, rest) =
            self.rest.split_once(quote).context("a string in its header does not end")?;
        self.rest = rest;
        Ok(text)
    }

    fn descr(&mut self) -> anyhow::Result<&'a str> {
        ensure!(!self.take("["), "its values are structures; float32 ('<f4') is needed");
        self.string()
    }

    fn boolean(&mut self) -> anyhow::Result<bool> {
        Ok(if self.take("True") {
            true
        } else {
            self.expect("False")?;
            false
        })
    }

    fn number(&mut self) -> anyhow::Result<u64> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits.parse().context("its header's shape holds something that is no length")
    }

    fn shape(&mut self) -> anyhow::Result<Vec<u64>> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            shape.push(self.number()?);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u8, dict: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        if version == 1 {
            bytes.extend((dict.len() as u16).to_le_bytes());
        } else {
            bytes.extend((dict.len() as u32).to_le_bytes());
        }
        bytes.extend(dict.as_bytes());
        bytes
    }

    fn read(version: u8, dict: &str) -> Result<Header, String> {
        Header::read(&mut &header(version, dict)[..]).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn headers_as_numpy_writes_them_are_read() {
        let dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (500, 768), }       \n";
        for version in 1..=3 {
            let data_at = dict.len() as u64 + if version == 1 { 10 } else { 12 };
            let expected = Header { rows: 500, dimension: 768, data_at };
            assert_eq!(read(version, dict), Ok(expected));
        }
        let reordered = "{\"shape\":(0,1),\"fortran_order\":False,\"descr\":\"<f4\"}";
        assert!(read(1, reordered).is_ok());
    }

    #[test]
    fn what_is_no_embedding_array_is_refused_with_the_reason() {
        let with = |descr: &str, order: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")
        };
        for (dict, reason) in [
            (with("'<f8'", "False", "(2, 3)"), "float32"),
            (with("'>f4'", "False", "(2, 3)"), "big-endian"),
            (with("'|u1'", "False", "(2, 3)"), "float32"),
            (with("[('a', '<f4')]", "False", "(2, 3)"), "structures"),
            (with("'<f4'", "True", "(2, 3)"), "Fortran"),
            (with("'<f4'", "Maybe", "(2, 3)"), "\"False\""),
            (with("'<f4'", "False", "(2,)"), "1 dimensions"),
            (with("'<f4'", "False", "()"), "0 dimensions"),
            (with("'<f4'", "False", "(2, 3, 4)"), "3 dimensions"),
            (with("'<f4'", "False", "(2, -3)"), "no length"),
            (with("'<f4'", "False", "(2, 99999999999999999999)"), "no length"),
            (with("'<f4'", "False", "((((((((((2, 3)"), "no length"),
            ("{'descr': '<f4', 'shape': (2, 3)}".to_owned(), "lacks"),
            ("{'descr': '<f4', 'descr': '<f4'}".to_owned(), "twice"),
            ("{'color': 'red'}".to_owned(), "not known"),
            ("{'descr': '<f4".to_owned(), "does not end"),
            (with("'<f4'", "False", "(2, 3)") + "}", "follows"),
            ("[]".to_owned(), "\"{\""),
            (String::new(), "\"{\""),
        ] {
            let error = read(1, &dict).unwrap_err();
            assert!(error.contains(reason), "{dict:?}: {error}");
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_refused() {
        let whole = header(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 7), }\n");
        assert!(Header::read(&mut &whole[..]).is_ok());
        for end in 0..whole.len() {
            assert!(Header::read(&mut &whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let huge =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({0}, {0})}}", u64::MAX);
        assert!(read(1, &huge).unwrap().file_bytes().is_err());
        let mut bytes = MAGIC.to_vec();
        bytes.extend([2, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        let error = Header::read(&mut &bytes[..]).unwrap_err().to_string();
        assert!(error.contains("cannot be right"), "{error}");
    }
}
