//! What goes to stdout and stderr, and how numbers and bytes look there. ASCII where we choose.

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::{Duration, SystemTime};

/// Buffered stdout. A write error comes back to the caller: a closed pipe ends the command.
pub fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::new(io::stdout().lock())
}

/// One JSON document and a newline.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let mut out = stdout();
    out.write_all(&text)?;
    Ok(out.flush()?)
}

/// A message for a person, on stderr. If nobody can read it, there is nobody to tell.
pub fn complain(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// `1,234,567`
pub fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// `63.4 MiB`
pub fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// Three digits and a unit: `950 ns`, `12.3 us`, `4.56 ms`, `1.23 s`.
pub fn duration(time: Duration) -> String {
    let ns = time.as_nanos();
    let value = |unit: f64| {
        let value = ns as f64 / unit;
        let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        format!("{value:.digits$}")
    };
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", value(1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", value(1e6)),
        _ => format!("{} s", value(1e9)),
    }
}

/// RFC 3339 in UTC, with nanoseconds.
pub fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

/// `amount` over `n`; `None` of nothing.
pub fn each(amount: u64, n: u64) -> Option<f64> {
    (n > 0).then(|| amount as f64 / n as f64)
}

/// Bytes as text that a terminal can be given: control characters and what is not UTF-8 are
/// escaped, newlines and tabs are kept if asked for.
pub fn printable(bytes: &[u8], keep_lines: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\t' if keep_lines => text.push(c),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Bytes in JSON: a string where they are UTF-8; where not, an object that holds them in hex.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Bytes<'a> {
    /// UTF-8.
    Text(&'a str),
    /// Anything else.
    Hex {
        /// Two digits a byte.
        hex: String,
    },
}

impl<'a> Bytes<'a> {
    /// Whichever of the two it is.
    pub fn new(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Hex { hex: bytes.iter().map(|b| format!("{b:02x}")).collect() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (12_345, "12.3 us"),
            (456_789_000, "457 ms"),
            (61_000_000_000, "61.0 s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(ns)), text);
        }
    }

    #[test]
    fn nothing_that_moves_a_cursor_reaches_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\n\xffc\xc3\xa9", false), "a\\u{1b}[2Jb\\n\\xffc\u{e9}");
        assert_eq!(printable(b"a\nb\r", true), "a\nb\\r");
    }

    #[test]
    fn bytes_in_json_lose_nothing() {
        let text = |bytes: &[u8]| serde_json::to_string(&Bytes::new(bytes)).unwrap();
        assert_eq!(text(b"tide"), "\"tide\"");
        assert_eq!(text(b"\xff\x00"), "{\"hex\":\"ff00\"}");
    }

    #[test]
    fn a_time_is_rfc_3339_in_utc() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001);
        assert_eq!(time(at), "2023-11-14T22:13:20.000000001Z");
    }
}
