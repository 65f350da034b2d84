//! A device under a directory: of every file and directory what the last flush covered, and what
//! was seen since. A capture is all of that at one moment; an image is one of the many states in
//! which power loss at that moment may leave the device.

use super::Dice;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use stratalog::Lsn;
use stratalog::internals::format::header::BOOT_AT;

/// States between the last flush and now that are kept of a file, at most.
const BETWEEN_MAX: usize = 2;
/// Moments that are remembered, at most, unless every flush is one.
const CAPTURES_MAX: usize = 5;
/// Inodes that are on the device only: they get a number that no file system gives.
const GONE: u64 = 1 << 63;
/// Units of a cut are not larger, and divide it.
pub const PAGE: usize = 4096;

type Ino = u64;

/// What the store has promised by some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claims {
    /// Everything up to here survives power loss.
    pub durable: Lsn,
    /// Everything up to here was given out; no LSN so low is ever given again.
    pub given: Lsn,
    /// An opening has returned.
    pub exists: bool,
    /// So many backups have returned.
    pub backups: usize,
}

/// What a file or a directory held at some moment.
#[derive(Clone, PartialEq, Eq)]
enum Content {
    File(Arc<Vec<u8>>),
    Directory(BTreeMap<OsString, Ino>),
}

impl Content {
    /// What is on the device of an inode that was never flushed.
    fn blank(&self) -> Self {
        match self {
            Self::File(_) => Self::File(Arc::default()),
            Self::Directory(_) => Self::Directory(BTreeMap::new()),
        }
    }

    fn entries(&self) -> &BTreeMap<OsString, Ino> {
        static NONE: BTreeMap<OsString, Ino> = BTreeMap::new();
        if let Self::Directory(entries) = self { entries } else { &NONE }
    }

    fn bytes(&self) -> &[u8] {
        if let Self::File(bytes) = self { bytes } else { &[] }
    }
}

/// Pages by their offset, as they were when a flush failed: the kernel takes them for clean, and
/// they are not on the device.
type Lost = BTreeMap<usize, Vec<u8>>;

struct Inode {
    /// Open, so that the file system gives the number to no other.
    _handle: Option<File>,
    /// What the last flush covered, then what was seen since, the present last.
    versions: Vec<Content>,
    lost: Lost,
}

impl Inode {
    /// Of which nothing is on the device.
    fn unflushed(handle: File, blank: Content) -> Self {
        Self { _handle: Some(handle), versions: vec![blank], lost: Lost::new() }
    }

    /// A flush of what is there now fails.
    fn lose(&mut self, now: &Content) {
        let device = self.versions[0].bytes();
        for (n, page) in now.bytes().chunks(PAGE).enumerate() {
            let at = n * PAGE;
            if part(device, at, at + PAGE) != page {
                self.lost.insert(at, page.to_vec());
            }
        }
    }

    /// A flush ends well: what is on the device then, which has no page that was lost and not
    /// stored to since.
    fn flush(&mut self, now: Content) {
        let mut bytes = now.bytes().to_vec();
        self.lost.retain(|&at, page| part(&bytes, at, at + PAGE) == page);
        for at in self.lost.keys() {
            let end = bytes.len().min(at + PAGE);
            let old = part(self.versions[0].bytes(), *at, end).to_vec();
            bytes[*at..end].fill(0);
            bytes[*at..at + old.len()].copy_from_slice(&old);
        }
        let stale = !self.lost.is_empty();
        self.versions = vec![if stale { Content::File(Arc::new(bytes)) } else { now }];
    }
}

/// Which flushes the device only pretends to have made: to show that the judge notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honesty {
    Honest,
    /// `fdatasync` does nothing.
    DropsData,
    /// `fsync` of a directory does nothing.
    DropsNames,
}

/// Everything at one moment.
#[derive(Clone)]
pub struct Capture {
    root: Ino,
    inodes: BTreeMap<Ino, Vec<Content>>,
    lost: BTreeMap<Ino, Lost>,
    /// What had been promised by then.
    pub claims: Claims,
    /// Nobody wrote meanwhile, so that a kill at this moment leaves exactly the present.
    pub exact: bool,
}

struct State {
    inodes: BTreeMap<Ino, Inode>,
    captures: Vec<Capture>,
    dice: Dice,
    /// One in so many flushes is a moment to capture; 0: none is.
    one_in: u64,
    /// The only thread that writes to the store, if there is one.
    writer: Option<ThreadId>,
    /// So many flushes from now on one fails; 0: none does.
    fails_in: u64,
}

pub struct Device {
    root: PathBuf,
    root_ino: Ino,
    honesty: Honesty,
    /// What the store has promised so far.
    pub claims: Mutex<Claims>,
    state: Mutex<State>,
}

static DEVICES: Mutex<Vec<Arc<Device>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a link in `/proc` leads to is being flushed. Whether that ends well.
pub fn synced(link: &str, data_only: bool) -> bool {
    let path = fs::read_link(link).expect("an open file");
    let devices = lock(&DEVICES).clone();
    let device = devices.iter().find(|device| path.starts_with(&device.root));
    device.is_none_or(|device| device.synced(Path::new(link), data_only))
}

/// A name under a watched directory is about to be changed.
pub fn moving(path: &Path) {
    let devices = lock(&DEVICES).clone();
    if let Some(device) = devices.iter().find(|device| path.starts_with(&device.root)) {
        device.moving();
    }
}

impl Device {
    /// A device under a directory, all of which has been flushed.
    pub fn new(root: &Path, honesty: Honesty, seed: u64) -> Arc<Self> {
        let root = fs::canonicalize(root).expect("a directory");
        let root_ino = fs::metadata(&root).expect("a directory").ino();
        let state = State {
            inodes: BTreeMap::new(),
            captures: Vec::new(),
            dice: Dice(seed),
            one_in: 0,
            writer: None,
            fails_in: 0,
        };
        let device = Arc::new(Self {
            root,
            root_ino,
            honesty,
            claims: Mutex::default(),
            state: Mutex::new(state),
        });
        device.look(&mut lock(&device.state));
        for inode in lock(&device.state).inodes.values_mut() {
            inode.versions.drain(..inode.versions.len() - 1);
        }
        device
    }

    /// From now on flushes under the directory count. One in so many, and each call of
    /// [`Device::capture`], is a moment to remember.
    pub fn watch(self: &Arc<Self>, one_in: u64, writer: Option<ThreadId>) {
        let mut state = lock(&self.state);
        (state.one_in, state.writer) = (one_in, writer);
        drop(state);
        lock(&DEVICES).push(Arc::clone(self));
    }

    /// One in so many flushes is a moment to remember from now on; 0: none is.
    pub fn remember_one_in(&self, flushes: u64) {
        lock(&self.state).one_in = flushes;
    }

    /// So many flushes from now on one fails; 0: none does. Whether the last one has.
    pub fn fail_in(&self, flushes: u64) -> bool {
        std::mem::replace(&mut lock(&self.state).fails_in, flushes) == 0
    }

    /// What was captured so far.
    pub fn take(&self) -> Vec<Capture> {
        std::mem::take(&mut lock(&self.state).captures)
    }

    /// The power is off: nothing counts any more. What was captured.
    pub fn stop(&self) -> Vec<Capture> {
        lock(&DEVICES).retain(|device| device.root != self.root);
        self.take()
    }

    /// What is there now.
    pub fn stop_and_see(&self) -> Image {
        self.capture();
        self.stop().last().expect("the one just made").present()
    }

    fn synced(&self, link: &Path, data_only: bool) -> bool {
        let mut state = lock(&self.state);
        let one_in = state.one_in;
        if one_in > 0 && state.dice.one_in(one_in) {
            self.remember(&mut state);
        }
        let handle = File::open(link).expect("an open file");
        let ino = handle.metadata().expect("an open file").ino();
        let content = content(&handle, link);
        let lost = match (&content, self.honesty) {
            (Content::File(_), Honesty::DropsData) => data_only,
            (Content::Directory(_), Honesty::DropsNames) => true,
            _ => false,
        };
        // What a name leads to may be gone before anybody looks again.
        for (name, of_name) in content.entries() {
            if !state.inodes.contains_key(of_name) {
                self.try_look(&link.join(name), &mut state);
            }
        }
        let fails = state.fails_in == 1;
        state.fails_in = state.fails_in.saturating_sub(1);
        let inode = state.inodes.entry(ino);
        let inode = inode.or_insert_with(|| Inode::unflushed(handle, content.blank()));
        match content {
            Content::File(_) if fails => inode.lose(&content),
            Content::File(_) if !lost => inode.flush(content),
            Content::Directory(_) if !lost && !fails => inode.versions = vec![content],
            _ => {}
        }
        !fails
    }

    /// A name is about to be changed.
    fn moving(&self) {
        let mut state = lock(&self.state);
        if state.one_in == 1 {
            self.remember(&mut state);
        }
    }

    /// Remembers this moment; of many, some at random. The last one always.
    pub fn capture(&self) {
        self.remember(&mut lock(&self.state));
    }

    fn remember(&self, state: &mut State) {
        // Before anything is looked at: what is promised later need not be there.
        let claims = *lock(&self.claims);
        self.look(state);
        let inodes = state.inodes.iter().map(|(ino, inode)| (*ino, inode.versions.clone()));
        let inodes = inodes.collect();
        let lost = state.inodes.iter().map(|(ino, inode)| (*ino, inode.lost.clone())).collect();
        let exact = state.writer == Some(std::thread::current().id());
        let capture = Capture { root: self.root_ino, inodes, lost, claims, exact };
        if state.one_in != 1 && state.captures.len() == CAPTURES_MAX {
            let n = state.dice.below(CAPTURES_MAX as u64);
            state.captures.remove(n as usize);
        }
        state.captures.push(capture);
    }

    /// Notes what is there now; the system may write any of it back from here on.
    pub fn notice(&self) {
        self.look(&mut lock(&self.state));
    }

    fn look(&self, state: &mut State) {
        while !self.try_look(&self.root, state) {}
    }

    /// Returns whether nothing was created, renamed or removed meanwhile.
    fn try_look(&self, path: &Path, state: &mut State) -> bool {
        let Ok(handle) = File::open(path) else { return false };
        let content = content(&handle, path);
        let ino = handle.metadata().expect("an open file").ino();
        let inode = state.inodes.entry(ino);
        let inode = inode.or_insert_with(|| Inode::unflushed(handle, content.blank()));
        if inode.versions.last() != Some(&content) {
            if inode.versions.len() > BETWEEN_MAX {
                inode.versions.remove(1);
            }
            inode.versions.push(content.clone());
        }
        let entries = content.entries();
        entries.keys().all(|name| self.try_look(&path.join(name), state))
            && (entries.is_empty() || names(path).is_some_and(|now| now == *entries))
    }
}

fn names(path: &Path) -> Option<BTreeMap<OsString, Ino>> {
    let entries = fs::read_dir(path).ok()?;
    Some(entries.map(|e| e.expect("an entry")).map(|e| (e.file_name(), e.ino())).collect())
}

fn content(mut handle: &File, path: &Path) -> Content {
    if handle.metadata().expect("an open file").is_dir() {
        return Content::Directory(names(path).unwrap_or_default());
    }
    let mut bytes = Vec::new();
    handle.read_to_end(&mut bytes).expect("its bytes");
    Content::File(Arc::new(bytes))
}

/// How power loss chooses.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub seed: u64,
    /// Bytes that the device writes as one.
    pub unit: usize,
    /// Of a hundred units written since the last flush, so many have reached the device.
    pub new: u64,
}

/// The directories of a state, parents first, and its files with what they held since the last
/// flush, the present last.
#[derive(Debug, Default)]
pub struct Names {
    pub directories: Vec<PathBuf>,
    pub files: Vec<(PathBuf, Vec<Arc<Vec<u8>>>)>,
}

/// One state of a device: file contents by path, directories as `None`.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl Capture {
    /// What a kill at this moment leaves: the present.
    pub fn present(&self) -> Image {
        let mut image = Image::new();
        let last = |versions: &[Content]| versions.last().expect("a version").clone();
        self.collect(self.root, Path::new(""), &mut image, &mut |versions| last(versions));
        image
    }

    /// What power loss at this moment may leave.
    pub fn cut(&self, cut: Cut) -> Image {
        let mut image = Image::new();
        let mut dice = Dice(cut.seed);
        let mut choose = |versions: &[Content]| choose(versions, cut, &mut dice);
        self.collect(self.root, Path::new(""), &mut image, &mut choose);
        reboot(&mut image);
        image
    }

    fn collect(
        &self,
        ino: Ino,
        path: &Path,
        image: &mut Image,
        choose: &mut dyn FnMut(&[Content]) -> Content,
    ) {
        match choose(&self.inodes[&ino]) {
            Content::File(bytes) => {
                image.insert(path.to_owned(), Some(bytes.to_vec()));
            }
            Content::Directory(entries) => {
                image.insert(path.to_owned(), None);
                for (name, ino) in entries {
                    self.collect(ino, &path.join(name), image, choose);
                }
            }
        }
    }

    /// Names that power loss at this moment may leave, and what each file may hold.
    pub fn names(&self, cut: Cut) -> Names {
        let mut names = Names::default();
        self.name(self.root, Path::new(""), &mut names, cut, &mut Dice(cut.seed));
        names
    }

    fn name(&self, ino: Ino, path: &Path, names: &mut Names, cut: Cut, dice: &mut Dice) {
        let versions = &self.inodes[&ino];
        if let Content::File(_) = versions[0] {
            let bytes = versions.iter().filter_map(|version| match version {
                Content::File(bytes) => Some(Arc::clone(bytes)),
                Content::Directory(_) => None,
            });
            names.files.push((path.to_owned(), bytes.collect()));
            return;
        }
        names.directories.push(path.to_owned());
        for (name, ino) in choose(versions, cut, dice).entries() {
            self.name(*ino, &path.join(name), names, cut, dice);
        }
    }

    /// A device under another directory that is where this one is: the same bytes flushed, the same
    /// bytes not. For going on after a kill.
    pub fn go_on_at(&self, root: &Path, seed: u64) -> Arc<Device> {
        write(&self.present(), root);
        let device = Device::new(root, Honesty::Honest, seed);
        let mut numbers = BTreeMap::new();
        self.number(self.root, root, &mut numbers);
        let number = |ino: Ino| numbers.get(&ino).copied().unwrap_or(ino | GONE);
        let mut state = lock(&device.state);
        for (ino, versions) in &self.inodes {
            let moved = versions.iter().map(|content| match content {
                Content::File(_) => content.clone(),
                Content::Directory(entries) => {
                    let entries = entries.iter().map(|(name, ino)| (name.clone(), number(*ino)));
                    Content::Directory(entries.collect())
                }
            });
            let moved = moved.collect();
            let new = || Inode { _handle: None, versions: Vec::new(), lost: Lost::new() };
            let inode = state.inodes.entry(number(*ino)).or_insert_with(new);
            (inode.versions, inode.lost) = (moved, self.lost[ino].clone());
        }
        drop(state);
        device
    }

    /// The numbers that what is here now has under another directory.
    fn number(&self, ino: Ino, path: &Path, numbers: &mut BTreeMap<Ino, Ino>) {
        numbers.insert(ino, fs::metadata(path).expect("a copy").ino());
        let present = self.inodes[&ino].last().expect("a version");
        for (name, ino) in present.entries() {
            self.number(*ino, &path.join(name), numbers);
        }
    }
}

/// The segments were written under another boot than the one that will open them.
pub fn reboot(image: &mut Image) {
    for (path, bytes) in image {
        let segment = path.extension().is_some_and(|ending| ending == "seg");
        if let Some(bytes) = bytes.as_mut().filter(|b| segment && b.len() > BOOT_AT + 16) {
            bytes[BOOT_AT..BOOT_AT + 16].fill(0xB0);
        }
    }
}

/// One of the versions, the later ones with the chance that the cut says.
pub fn pick(count: usize, cut: Cut, dice: &mut Dice) -> usize {
    if count == 1 || dice.below(100) >= cut.new {
        0
    } else if dice.one_in(4) {
        1 + dice.below(count as u64 - 1) as usize
    } else {
        count - 1
    }
}

fn choose(versions: &[Content], cut: Cut, dice: &mut Dice) -> Content {
    if let [only] = versions {
        return only.clone();
    }
    // Some files are written back sooner than others.
    let new = [cut.new, cut.new, 0, 100][dice.below(4) as usize];
    let cut = Cut { new, ..cut };
    if matches!(versions[0], Content::Directory(_)) {
        let names = versions.iter().flat_map(|version| version.entries().keys());
        let names: std::collections::BTreeSet<_> = names.collect();
        let chosen = names.into_iter().filter_map(|name| {
            let version = &versions[pick(versions.len(), cut, dice)];
            Some((name.clone(), *version.entries().get(name)?))
        });
        return Content::Directory(chosen.collect());
    }
    let len = versions[pick(versions.len(), cut, dice)].bytes().len();
    let mut bytes = vec![0; len];
    for page in (0..len).step_by(PAGE) {
        let end = len.min(page + PAGE);
        let last = part(versions[versions.len() - 1].bytes(), page, end);
        if versions.iter().all(|version| part(version.bytes(), page, end) == last) {
            bytes[page..page + last.len()].copy_from_slice(last);
            continue;
        }
        for at in (page..end).step_by(cut.unit) {
            let version = versions[pick(versions.len(), cut, dice)].bytes();
            let chosen = part(version, at, end.min(at + cut.unit));
            bytes[at..at + chosen.len()].copy_from_slice(chosen);
        }
    }
    Content::File(Arc::new(bytes))
}

/// The bytes from one offset to another, as far as they are there.
fn part(all: &[u8], from: usize, to: usize) -> &[u8] {
    &all[from.min(all.len())..to.min(all.len())]
}

/// Writes an image to a directory, which must be missing or empty. What is zero stays a hole.
pub fn write(image: &Image, root: &Path) {
    for (path, bytes) in image {
        let path = root.join(path);
        let Some(bytes) = bytes else {
            fs::create_dir_all(&path).expect("a directory");
            continue;
        };
        let file = File::create(&path).expect("a file");
        file.set_len(bytes.len() as u64).expect("its length");
        let pages: Vec<&[u8]> = bytes.chunks(PAGE).collect();
        let mut at = 0;
        for run in pages.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let len = run.iter().map(|page| page.len()).sum::<usize>();
            if !is_zero(run[0]) {
                file.write_all_at(&bytes[at..at + len], at as u64).expect("its bytes");
            }
            at += len;
        }
    }
}

fn is_zero(page: &[u8]) -> bool {
    static ZEROS: [u8; PAGE] = [0; PAGE];
    *page == ZEROS[..page.len()]
}
