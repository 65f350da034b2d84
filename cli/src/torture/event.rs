//! What the child reports: one line before each operation and one after it. Each report is a single
//! write of less than a pipe's atomic size, so that what was written before a kill is read whole,
//! and the order of the lines is an order that really happened.

use super::value::{Found, Key, Version};
use anyhow::{Context, bail, ensure};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// Below this a write to a pipe is not mixed with another (POSIX's least `PIPE_BUF`).
const ATOMIC_BYTES: usize = 512;

/// A line of the child's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The store is open.
    Opened,
    /// An operation begins.
    Begin {
        /// Its number.
        version: Version,
        /// Its key.
        key: Key,
        /// A put, or else a remove.
        put: bool,
    },
    /// A put has returned.
    Put {
        /// Its number.
        version: Version,
        /// What it returned.
        lsn: u64,
    },
    /// A remove has returned.
    Removed {
        /// Its number.
        version: Version,
        /// What it returned.
        was_there: bool,
    },
    /// A get begins.
    Look {
        /// Its number.
        look: Version,
        /// Its key.
        key: Key,
    },
    /// A get has returned.
    Got {
        /// Its number.
        look: Version,
        /// What it returned.
        found: Found,
    },
    /// A sync has returned.
    Synced,
    /// The child itself saw something wrong.
    Wrong {
        /// The key.
        key: Key,
        /// What.
        what: String,
    },
}

impl Event {
    /// Appends the event's line.
    pub fn write(&self, out: &mut String) {
        use std::fmt::Write;
        let written = match self {
            Self::Opened => writeln!(out, "opened"),
            Self::Begin { version, key, put } => {
                writeln!(out, "begin {} {} {}", version.0, key.0, u8::from(*put))
            }
            Self::Put { version, lsn } => writeln!(out, "put {} {lsn}", version.0),
            Self::Removed { version, was_there } => {
                writeln!(out, "removed {} {}", version.0, u8::from(*was_there))
            }
            Self::Look { look, key } => writeln!(out, "look {} {}", look.0, key.0),
            Self::Got { look, found } => {
                let (version, lsn) = match *found {
                    Found::Nothing => (0, 0),
                    Found::Version { version, lsn } => (version.0, lsn),
                };
                writeln!(out, "got {} {version} {lsn}", look.0)
            }
            Self::Synced => writeln!(out, "synced"),
            Self::Wrong { key, what } => writeln!(out, "wrong {} {what}", key.0),
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }

    /// The event of a line.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let mut words = line.splitn(4, ' ');
        let name = words.next().unwrap_or("");
        if name == "wrong" {
            let (key, what) =
                line.strip_prefix("wrong ").unwrap_or("").split_once(' ').context("no text")?;
            return Ok(Self::Wrong { key: Key(key.parse()?), what: what.to_owned() });
        }
        let mut number = || -> anyhow::Result<u64> {
            let word = words.next().with_context(|| format!("too short: {line:?}"))?;
            word.parse().with_context(|| format!("no number: {line:?}"))
        };
        Ok(match name {
            "opened" => Self::Opened,
            "begin" => {
                let version = Version(number()?);
                let key = Key(u32::try_from(number()?)?);
                Self::Begin { version, key, put: number()? == 1 }
            }
            "put" => Self::Put { version: Version(number()?), lsn: number()? },
            "removed" => Self::Removed { version: Version(number()?), was_there: number()? == 1 },
            "look" => Self::Look { look: Version(number()?), key: Key(u32::try_from(number()?)?) },
            "got" => {
                let (look, version, lsn) = (Version(number()?), Version(number()?), number()?);
                let there = Found::Version { version, lsn };
                Self::Got { look, found: if version.0 == 0 { Found::Nothing } else { there } }
            }
            "synced" => Self::Synced,
            _ => bail!("the child said {line:?}"),
        })
    }
}

/// The child's end of the pipe: stdout, without a buffer that a kill could take.
#[derive(Debug)]
pub struct Reporter {
    pipe: File,
}

impl Reporter {
    /// Over this process's stdout.
    pub fn new() -> io::Result<Self> {
        Ok(Self { pipe: File::from(io::stdout().as_fd().try_clone_to_owned()?) })
    }

    /// Reports these lines in one write.
    pub fn report(&self, lines: &str) -> anyhow::Result<()> {
        ensure!(lines.len() <= ATOMIC_BYTES, "{} bytes are no atomic write", lines.len());
        loop {
            match (&self.pipe).write(lines.as_bytes()) {
                Ok(written) if written == lines.len() => return Ok(()),
                Ok(written) => bail!("only {written} of {} bytes were written", lines.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_parsed_back() {
        let (version, key) = (Version(u64::MAX), Key(u32::MAX));
        for event in [
            Event::Opened,
            Event::Begin { version, key, put: true },
            Event::Begin { version, key, put: false },
            Event::Put { version, lsn: u64::MAX },
            Event::Removed { version, was_there: true },
            Event::Removed { version, was_there: false },
            Event::Look { look: version, key },
            Event::Got { look: version, found: Found::Version { version, lsn: u64::MAX } },
            Event::Got { look: version, found: Found::Nothing },
            Event::Synced,
            Event::Wrong { key, what: "its content is torn".to_owned() },
        ] {
            let mut line = String::new();
            event.write(&mut line);
            assert_eq!(Event::parse(line.trim_end()).unwrap(), event);
        }
        for line in
            ["", "begin", "begin 1 2", "begin a b c", "put 1", "wrong 3", "got 1 x", "look 1"]
        {
            assert!(Event::parse(line).is_err(), "{line}");
        }
    }
}
