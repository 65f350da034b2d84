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

/// The thread that opens, compacts, backs up and closes.
pub const UPKEEP: u8 = u8::MAX;

/// What an operation is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Remove,
    Put,
    PutIfAbsent,
    PutIfPresent,
}

impl What {
    const ALL: [Self; 4] = [Self::Remove, Self::Put, Self::PutIfAbsent, Self::PutIfPresent];

    pub fn name(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::Put => "put",
            Self::PutIfAbsent | Self::PutIfPresent => "put_if",
        }
    }
}

/// A line of the child's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The store is open.
    Opened,
    /// The store is about to be closed, to be opened again.
    Closing,
    /// It is closed, and is about to be opened.
    Closed,
    /// A compaction by hand begins.
    Compacting,
    /// A compaction by hand has returned.
    Compacted {
        /// Segments that it removed.
        segments: u64,
        /// Records that it moved.
        moved: u64,
    },
    /// A backup begins: its number.
    BackingUp(u64),
    /// A backup has returned.
    BackedUp(u64),
    /// Which thread of the system does what a writer says, or with `UPKEEP` all the rest.
    Thread {
        /// As in its versions.
        thread: u8,
        /// Its number in the system.
        number: u64,
    },
    /// An operation begins.
    Begin {
        /// Its number.
        version: Version,
        /// Its key.
        key: Key,
        /// What it is to do.
        what: What,
        /// When what it puts expires, in nanoseconds since 1970; 0: never.
        expires: u64,
    },
    /// So many operations that have begun, from this one on, are a batch.
    Batch {
        /// The first of them; the others follow it.
        first: Version,
        /// How many.
        count: u64,
    },
    /// A batch has returned.
    Wrote {
        /// The first of its operations.
        first: Version,
        /// How many it has.
        count: u64,
    },
    /// A conditional put has returned: its condition did not hold.
    Refused {
        /// Its number.
        version: Version,
    },
    /// An update of a tag begins: one is to be added.
    Bump {
        /// Its number.
        bump: Version,
        /// Its key.
        key: Key,
    },
    /// An update of a tag has returned.
    Bumped {
        /// Its number.
        bump: Version,
        /// The new tag; 0 if there was no record.
        tag: u64,
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
        /// The time, in nanoseconds since 1970.
        at: u64,
    },
    /// A get has returned.
    Got {
        /// Its number.
        look: Version,
        /// What it returned.
        found: Found,
        /// The time, in nanoseconds since 1970.
        at: u64,
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
            Self::Closing => writeln!(out, "closing"),
            Self::Closed => writeln!(out, "closed"),
            Self::Compacting => writeln!(out, "compacting"),
            Self::Compacted { segments, moved } => writeln!(out, "compacted {segments} {moved}"),
            Self::BackingUp(copy) => writeln!(out, "backing-up {copy}"),
            Self::BackedUp(copy) => writeln!(out, "backed-up {copy}"),
            Self::Thread { thread, number } => writeln!(out, "thread {thread} {number}"),
            Self::Begin { version, key, what, expires } => {
                writeln!(out, "begin {} {} {} {expires}", version.0, key.0, *what as u8)
            }
            Self::Batch { first, count } => writeln!(out, "batch {} {count}", first.0),
            Self::Wrote { first, count } => writeln!(out, "wrote {} {count}", first.0),
            Self::Refused { version } => writeln!(out, "refused {}", version.0),
            Self::Bump { bump, key } => writeln!(out, "bump {} {}", bump.0, key.0),
            Self::Bumped { bump, tag } => writeln!(out, "bumped {} {tag}", bump.0),
            Self::Put { version, lsn } => writeln!(out, "put {} {lsn}", version.0),
            Self::Removed { version, was_there } => {
                writeln!(out, "removed {} {}", version.0, u8::from(*was_there))
            }
            Self::Look { look, key, at } => writeln!(out, "look {} {} {at}", look.0, key.0),
            Self::Got { look, found, at } => {
                let (version, lsn, tag, expires) = match *found {
                    Found::Nothing => (0, 0, 0, 0),
                    Found::Version { version, lsn, tag, expires } => (version.0, lsn, tag, expires),
                };
                writeln!(out, "got {} {at} {version} {lsn} {tag} {expires}", look.0)
            }
            Self::Synced => writeln!(out, "synced"),
            Self::Wrong { key, what } => writeln!(out, "wrong {} {what}", key.0),
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }

    /// The event of a line.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let mut words = line.split(' ');
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
                let what = usize::try_from(number()?)?;
                let what = *What::ALL.get(what).with_context(|| format!("what? {line:?}"))?;
                Self::Begin { version, key, what, expires: number()? }
            }
            "closing" => Self::Closing,
            "closed" => Self::Closed,
            "compacting" => Self::Compacting,
            "compacted" => Self::Compacted { segments: number()?, moved: number()? },
            "backing-up" => Self::BackingUp(number()?),
            "backed-up" => Self::BackedUp(number()?),
            "thread" => Self::Thread { thread: u8::try_from(number()?)?, number: number()? },
            "batch" => Self::Batch { first: Version(number()?), count: number()? },
            "wrote" => Self::Wrote { first: Version(number()?), count: number()? },
            "refused" => Self::Refused { version: Version(number()?) },
            "bump" => Self::Bump { bump: Version(number()?), key: Key(u32::try_from(number()?)?) },
            "bumped" => Self::Bumped { bump: Version(number()?), tag: number()? },
            "put" => Self::Put { version: Version(number()?), lsn: number()? },
            "removed" => Self::Removed { version: Version(number()?), was_there: number()? == 1 },
            "look" => {
                let (look, key) = (Version(number()?), Key(u32::try_from(number()?)?));
                Self::Look { look, key, at: number()? }
            }
            "got" => {
                let (look, at, version) = (Version(number()?), number()?, Version(number()?));
                let (lsn, tag, expires) = (number()?, number()?, number()?);
                let there = Found::Version { version, lsn, tag, expires };
                Self::Got { look, found: if version.0 == 0 { Found::Nothing } else { there }, at }
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
        let (version, key, at) = (Version(u64::MAX), Key(u32::MAX), u64::MAX);
        let found = Found::Version { version, lsn: u64::MAX, tag: 3, expires: 5 };
        for event in [
            Event::Opened,
            Event::Closing,
            Event::Closed,
            Event::Compacting,
            Event::Compacted { segments: 3, moved: u64::MAX },
            Event::BackingUp(3),
            Event::BackedUp(u64::MAX),
            Event::Thread { thread: UPKEEP, number: 7 },
            Event::Begin { version, key, what: What::Remove, expires: 0 },
            Event::Begin { version, key, what: What::Put, expires: u64::MAX },
            Event::Begin { version, key, what: What::PutIfAbsent, expires: 0 },
            Event::Begin { version, key, what: What::PutIfPresent, expires: 0 },
            Event::Batch { first: version, count: 6 },
            Event::Wrote { first: version, count: 6 },
            Event::Refused { version },
            Event::Bump { bump: version, key },
            Event::Bumped { bump: version, tag: 7 },
            Event::Put { version, lsn: u64::MAX },
            Event::Removed { version, was_there: true },
            Event::Removed { version, was_there: false },
            Event::Look { look: version, key, at },
            Event::Got { look: version, found, at },
            Event::Got { look: version, found: Found::Nothing, at },
            Event::Synced,
            Event::Wrong { key, what: "its content is torn".to_owned() },
        ] {
            let mut line = String::new();
            event.write(&mut line);
            assert_eq!(Event::parse(line.trim_end()).unwrap(), event);
        }
        for line in [
            "",
            "begin",
            "begin 1 2",
            "begin 1 2 9 0",
            "begin 1 2 1",
            "put 1",
            "wrong 3",
            "got 1 x",
            "look 1",
        ] {
            assert!(Event::parse(line).is_err(), "{line}");
        }
    }
}
