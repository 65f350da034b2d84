//! Many states of one moment, cheaply: the files of a moment are laid out once, and then only the
//! pages that were not flushed are painted anew, state after state; a reader looks at each. Here a
//! unit may be torn, too: of each 8 bytes in it that are new the device has what was there, what
//! was written, zeros or garbage. Of 8 bytes that were written before, old or new: a device that
//! loses what it rewrites is not survived (DESIGN.md 11).

use super::claims::{Contents, Held, History, apply, contents_at, fits, prefix_of, shape};
use super::device::{Capture, Cut, Names, PAGE, pick};
use super::dice::Dice;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use stratalog::internals::format::header::BOOT_AT;
use stratalog::{Error, Options, Store};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What is the same in every state of a moment: which pages of which files may be what.
struct Sheet {
    file: File,
    path: PathBuf,
    len: usize,
    /// Pages in which the versions differ: where, and what each version has there.
    pages: Vec<(usize, Vec<[u8; PAGE]>)>,
    /// Those pages as they were painted last, and as the file has them.
    painted: Vec<[u8; PAGE]>,
    shown: Vec<[u8; PAGE]>,
}

pub struct Canvas {
    place: TempDir,
    sheets: Vec<Sheet>,
    /// Sums of the states that were looked at.
    seen: HashSet<u64>,
}

fn page(version: &[u8], at: usize) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let bytes = &version[at.min(version.len())..version.len().min(at + PAGE)];
    page[..bytes.len()].copy_from_slice(bytes);
    page
}

impl Canvas {
    /// Lays out the files of a moment. Lengths are chosen here, and stay.
    fn new(names: Names, cut: Cut, dice: &mut Dice) -> Self {
        let place = super::scratch();
        for directory in &names.directories {
            std::fs::create_dir_all(place.path().join(directory)).expect("a directory");
        }
        let sheets = names.files.into_iter().map(|(path, versions)| {
            let full = place.path().join(&path);
            let file = File::options().read(true).write(true).create_new(true).open(&full);
            let file = file.expect("a file");
            let len = versions[pick(versions.len(), cut, dice)].len();
            file.set_len(len as u64).expect("its length");
            let mut pages = Vec::new();
            for at in (0..len).step_by(PAGE) {
                let last = page(&versions[versions.len() - 1], at);
                let mut all: Vec<_> = versions.iter().map(|version| page(version, at)).collect();
                if all.iter().any(|other| *other != last) {
                    all.iter_mut().for_each(|page| reboot(page, &path, at, len));
                    pages.push((at, all));
                } else if last != [0; PAGE] {
                    let mut page = last;
                    reboot(&mut page, &path, at, len);
                    let end = len.min(at + PAGE) - at;
                    file.write_all_at(&page[..end], at as u64).expect("its bytes");
                }
            }
            // Nothing of them is in the file yet.
            let blank = vec![[0; PAGE]; pages.len()];
            Sheet { file, path, len, pages, painted: blank.clone(), shown: blank }
        });
        let sheets = sheets.collect();
        Self { place, sheets, seen: HashSet::new() }
    }

    /// In how many units the states may differ.
    fn units(&mut self, unit: usize) -> usize {
        let mut units = 0;
        self.sheets.iter_mut().for_each(|sheet| sheet.paint(unit, |_, _| units += 1));
        units
    }

    /// One of the states, units and bytes as the dice fall.
    fn paint(&mut self, cut: Cut, dice: &mut Dice) {
        // What is written to all the time may be written back last.
        let old_headers = dice.one_in(6);
        for sheet in &mut self.sheets {
            // Some files are written back sooner than others.
            let new = [cut.new, cut.new, 0, 100][dice.below(4) as usize];
            let cut = Cut { new, ..cut };
            let torn = dice.below(3) == 0;
            sheet.paint(cut.unit, |unit, versions| {
                if torn && dice.one_in(8) {
                    return tear(unit, versions, dice);
                }
                let version = pick(versions.len(), cut, dice);
                unit.copy_from_slice(versions[version]);
            });
            if old_headers {
                sheet.paint_header_old();
            }
        }
    }

    /// The state that a number names: of each unit that differs one bit says old or new.
    fn paint_subset(&mut self, unit: usize, mut subset: u64) {
        for sheet in &mut self.sheets {
            sheet.paint(unit, |unit, versions| {
                let (old, new) = (versions[0], versions[versions.len() - 1]);
                let chosen = if subset & 1 == 1 { new } else { old };
                unit.copy_from_slice(chosen);
                subset >>= 1;
            });
        }
    }

    /// Brings what was painted into the files; not if it was there before.
    fn show(&mut self) -> bool {
        let sum = self.sheets.iter().fold(0, |sum, sheet| {
            sheet.painted.iter().fold(sum, |sum, page| xxh3_64_with_seed(page, sum))
        });
        let new = self.seen.insert(sum);
        if new {
            self.sheets.iter_mut().for_each(Sheet::show);
        }
        new
    }
}

/// The segments were written under another boot.
fn reboot(page: &mut [u8; PAGE], path: &Path, at: usize, len: usize) {
    if at == 0 && len > BOOT_AT + 16 && path.extension().is_some_and(|ending| ending == "seg") {
        page[BOOT_AT..BOOT_AT + 16].fill(0xB0);
    }
}

/// Nothing that was there before is lost by it.
fn tear(unit: &mut [u8], versions: &[&[u8]], dice: &mut Dice) {
    for at in (0..unit.len()).step_by(8) {
        let word = |version: &[u8]| <[u8; 8]>::try_from(&version[at..at + 8]).expect("a word");
        let (old, new) = (word(versions[0]), word(versions[versions.len() - 1]));
        let chosen = match dice.below(4) {
            _ if old == new => old,
            0 => old,
            1 if old == [0; 8] => dice.roll().to_le_bytes(),
            _ => new,
        };
        unit[at..at + 8].copy_from_slice(&chosen);
    }
}

impl Sheet {
    /// Chooses each unit in which the versions differ.
    fn paint(&mut self, unit: usize, mut choose: impl FnMut(&mut [u8], &[&[u8]])) {
        for ((_, all), painted) in self.pages.iter().zip(&mut self.painted) {
            *painted = all[0];
            for from in (0..PAGE).step_by(unit) {
                let part = |n: usize| &all[n][from..from + unit];
                if (1..all.len()).any(|n| part(n) != part(0)) {
                    let parts: Vec<_> = (0..all.len()).map(part).collect();
                    choose(&mut painted[from..from + unit], &parts);
                }
            }
        }
    }

    /// The first page of a segment as it was flushed last.
    fn paint_header_old(&mut self) {
        let is_segment = self.path.extension().is_some_and(|ending| ending == "seg");
        if let Some((0, all)) = self.pages.first().filter(|_| is_segment) {
            self.painted[0] = all[0];
        }
    }

    /// Writes the pages that are not in the file, neighbours at once.
    fn show(&mut self) {
        let fresh = |n: &usize| self.painted[*n] != self.shown[*n];
        let fresh: Vec<usize> = (0..self.pages.len()).filter(fresh).collect();
        let follows = |a: &usize, b: &usize| self.pages[*b].0 == self.pages[*a].0 + PAGE;
        for run in fresh.chunk_by(|a, b| *b == *a + 1 && follows(a, b)) {
            let (first, from) = (run[0], self.pages[run[0]].0);
            let bytes = self.painted[first..first + run.len()].as_flattened();
            let end = bytes.len().min(self.len - from);
            self.file.write_all_at(&bytes[..end], from as u64).expect("its bytes");
            self.shown[first..first + run.len()]
                .copy_from_slice(&self.painted[first..first + run.len()]);
        }
    }
}

/// Embedding and content.
type Made = (Vec<f32>, Vec<u8>);

/// What the versions of ids are made of: as was needed before.
#[derive(Default)]
pub struct Known(BTreeMap<(Vec<u8>, u32), Made>);

impl Known {
    fn contents(&mut self, store: &Store) -> Result<Contents, String> {
        let mut contents = Contents::new();
        for record in &store.pin() {
            let record = record.map_err(|error| error.to_string())?;
            let (id, version) = (record.id().to_vec(), record.embedding()[0] as u32);
            let made = || {
                let shape = shape(version);
                (shape.embedding(&id, version), shape.content(&id, version))
            };
            let (embedding, content) = self.0.entry((id.clone(), version)).or_insert_with(made);
            if (&embedding[..], &content[..]) != (record.embedding(), record.content()) {
                return Err(format!("{} is not of one piece", id.escape_ascii()));
            }
            let held = Held { lsn: Some(record.lsn()), version };
            if contents.insert(id, held).is_some() {
                return Err("an id was seen twice".to_owned());
            }
        }
        Ok(contents)
    }
}

/// Looks at states of a moment.
pub struct Viewer<'a> {
    pub capture: &'a Capture,
    history: &'a History,
    pub known: &'a mut Known,
    /// What is durable, and that with each write behind it; and by a sum of their contents which of
    /// those they are.
    prefixes: Vec<Contents>,
    by_sum: HashMap<u64, Vec<usize>>,
}

/// Of states: how many were painted, and how many of them were new and looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub painted: u64,
    pub states: u64,
}

/// The same for the same ids and versions.
fn sum_of(contents: &Contents) -> u64 {
    let one = |(id, held): (&Vec<u8>, &Held)| xxh3_64_with_seed(id, held.version.into());
    contents.iter().map(one).fold(0, u64::wrapping_add)
}

impl<'a> Viewer<'a> {
    pub fn new(capture: &'a Capture, history: &'a History, known: &'a mut Known) -> Self {
        let durable = capture.claims.durable;
        let mut prefixes = vec![contents_at(history, durable)];
        for (_, call) in history.range(durable..).filter(|(lsn, _)| **lsn > durable) {
            let mut next = prefixes[prefixes.len() - 1].clone();
            apply(&mut next, &call.writes);
            prefixes.push(next);
        }
        let mut by_sum: HashMap<u64, Vec<usize>> = HashMap::new();
        for (n, contents) in prefixes.iter().enumerate() {
            by_sum.entry(sum_of(contents)).or_default().push(n);
        }
        Self { capture, history, known, prefixes, by_sum }
    }

    /// So many states, under some choices of names.
    pub fn sample(&mut self, states: u64, dice: &mut Dice) -> Result<Seen, String> {
        let mut seen = Seen::default();
        while seen.painted < states {
            let cut = super::any_cut(dice);
            let mut canvas = Canvas::new(self.capture.names(cut), cut, dice);
            for _ in 0..(states / 4).max(1) {
                let cut = Cut { seed: 0, ..super::any_cut(dice) };
                canvas.paint(cut, dice);
                self.look_once(&mut canvas, &mut seen)?;
            }
        }
        Ok(seen)
    }

    /// All subsets of the units that were not flushed, if there are few; else so many of them.
    pub fn subsets(&mut self, unit: usize, most: u64, dice: &mut Dice) -> Result<Seen, String> {
        let mut seen = Seen::default();
        for new in [0, 100, 50] {
            let cut = Cut { seed: dice.roll(), unit, new };
            let mut canvas = Canvas::new(self.capture.names(cut), cut, dice);
            let units = canvas.units(unit);
            let all = 1u64.checked_shl(units as u32).filter(|all| *all <= most && units < 64);
            for n in 0..all.unwrap_or(most) {
                if all.is_some() {
                    canvas.paint_subset(unit, n);
                } else {
                    canvas.paint(Cut { unit, ..super::any_cut(dice) }, dice);
                }
                self.look_once(&mut canvas, &mut seen)?;
            }
        }
        Ok(seen)
    }

    /// A state that was seen before would be judged as it was.
    fn look_once(&mut self, canvas: &mut Canvas, seen: &mut Seen) -> Result<(), String> {
        seen.painted += 1;
        if canvas.show() {
            self.look(canvas).map_err(|error| kept(canvas, &error))?;
            seen.states += 1;
        }
        Ok(())
    }

    fn look(&mut self, canvas: &Canvas) -> Result<(), String> {
        let path = canvas.place.path().join("store");
        let reader = match Options::new().read_only(true).open(path) {
            Err(Error::NotFound(_)) if !self.capture.claims.exists => return Ok(()),
            Err(error) => return Err(format!("a reader says: {error}")),
            Ok(reader) => reader,
        };
        let report = reader.recovery();
        if (report.corrupt, report.missing_segments, report.foreign_files) != (0, 0, 0) {
            return Err(format!("{report:?}"));
        }
        let found = self.known.contents(&reader)?;
        if found.len() != reader.len() {
            return Err(format!(
                "{} records, says len, and there are {}",
                reader.len(),
                found.len()
            ));
        }
        let alike = self.by_sum.get(&sum_of(&found)).map_or(&[][..], |alike| alike);
        if alike.iter().any(|n| fits(&found, &self.prefixes[*n])) {
            return Ok(());
        }
        if prefix_of(self.history, self.capture.claims.durable, &found).is_some() {
            return Ok(());
        }
        let durable = &self.prefixes[0];
        let ids: BTreeSet<_> = found.keys().chain(durable.keys()).collect();
        let lost = ids.into_iter().filter(|id| found.get(*id) != durable.get(*id)).map(|id| {
            let (is, was) = (found.get(id), durable.get(id));
            format!("{}: {is:?}, durable {was:?}", id.escape_ascii())
        });
        let lost: Vec<_> = lost.collect();
        let claims = &self.capture.claims;
        let behind = self.history.range(claims.durable..).take(9);
        let behind: Vec<_> = behind.map(|(lsn, call)| format!("{lsn}: {call:?}")).collect();
        let (lost, behind) = (lost.join("\n"), behind.join("\n"));
        Err(format!("no prefix, {claims:?}: {lost}\nfrom there on was written {behind}"))
    }
}

/// Leaves a state for a look at it.
fn kept(canvas: &Canvas, error: &str) -> String {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let kept = tempfile::Builder::new().prefix("power-loss-").tempdir_in(place);
    let kept = kept.expect("a directory").keep();
    for sheet in &canvas.sheets {
        let to = kept.join(&sheet.path);
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        std::fs::copy(canvas.place.path().join(&sheet.path), to).expect("a copy");
    }
    format!("{error}\nthe state: {}", kept.display())
}
