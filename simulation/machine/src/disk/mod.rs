//! The disk: inodes, names, descriptors and mappings, and what power loss leaves of them.
//!
//! A file has three contents. *Live* bytes are those that processes see, also through mappings.
//! *Clean* bytes are those that the kernel takes the device to have: where live and clean differ
//! the page is dirty. *Device* bytes are those that survive power loss. Write-back of a dirty page
//! makes all three equal. A write-back that fails makes the page clean and leaves the device as it
//! was, as Linux does.
//!
//! A directory has live names, names on the device, and the changes that lead from the latter to
//! the former. Power loss keeps some of the changes.

mod device;
mod directory;
mod file;

use crate::machine::Settings;
use crate::scheduler::ProcessId;
use directory::Directory;
use file::FileContent;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;

/// Number of a file or directory.
pub type Ino = usize;
/// Number of an open file description.
pub type OpenId = u64;

/// Bytes of a page, and of a block.
pub const PAGE: usize = 4096;
const ROOT: Ino = 0;

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Bytes.
    pub len: u64,
    /// Bytes that it takes on the disk.
    pub allocated: u64,
    /// Names that it has.
    pub names: u64,
    /// It is a directory.
    pub is_directory: bool,
}

#[derive(Debug)]
enum Content {
    File(FileContent),
    Directory(Directory),
}

#[derive(Debug)]
struct Inode {
    content: Content,
    /// Write-backs that failed, and those of them that somebody was told.
    failures: u64,
    failures_told: u64,
    lock: Option<(OpenId, ProcessId)>,
}

#[derive(Clone, Copy, Debug)]
struct Mapped {
    ino: Ino,
    process: ProcessId,
}

/// The disk of a machine.
#[derive(Debug)]
pub struct Disk {
    inodes: Vec<Option<Inode>>,
    open: BTreeMap<OpenId, (Ino, ProcessId)>,
    mapped: BTreeMap<u64, Mapped>,
    working: BTreeMap<ProcessId, Ino>,
    made: u64,
    unit: usize,
    torn: bool,
    pages: u64,
    /// What would have killed a process: stores to holes for which there is no room.
    pub violations: Vec<String>,
}

impl Disk {
    pub(crate) fn new(settings: &Settings) -> Self {
        let root = Content::Directory(Directory::new(ROOT));
        Self {
            inodes: vec![Some(Inode { content: root, failures: 0, failures_told: 0, lock: None })],
            open: BTreeMap::new(),
            mapped: BTreeMap::new(),
            working: BTreeMap::new(),
            made: 0,
            unit: settings.unit_bytes,
            torn: settings.torn_units,
            pages: settings.disk_bytes / PAGE as u64,
            violations: Vec::new(),
        }
    }

    fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(ino)?.as_ref()
    }

    fn inode_mut(&mut self, ino: Ino) -> Option<&mut Inode> {
        self.inodes.get_mut(ino)?.as_mut()
    }

    fn file(&self, ino: Ino) -> Option<&FileContent> {
        match &self.inode(ino)?.content {
            Content::File(file) => Some(file),
            Content::Directory(_) => None,
        }
    }

    fn file_mut(&mut self, ino: Ino) -> Option<&mut FileContent> {
        match &mut self.inode_mut(ino)?.content {
            Content::File(file) => Some(file),
            Content::Directory(_) => None,
        }
    }

    fn directory(&self, ino: Ino) -> Option<&Directory> {
        match &self.inode(ino)?.content {
            Content::Directory(directory) => Some(directory),
            Content::File(_) => None,
        }
    }

    fn directory_mut(&mut self, ino: Ino) -> Option<&mut Directory> {
        match &mut self.inode_mut(ino)?.content {
            Content::Directory(directory) => Some(directory),
            Content::File(_) => None,
        }
    }

    fn directories(&self) -> impl Iterator<Item = &Directory> {
        (0..self.inodes.len()).filter_map(|ino| self.directory(ino))
    }

    fn files(&self) -> impl Iterator<Item = (Ino, &FileContent)> {
        (0..self.inodes.len()).filter_map(|ino| Some((ino, self.file(ino)?)))
    }
}

/// Names.
impl Disk {
    pub(crate) fn working_directory(&self, process: ProcessId) -> Ino {
        self.working.get(&process).copied().unwrap_or(ROOT)
    }

    /// Has a process go to another directory.
    pub fn set_working_directory(&mut self, process: ProcessId, path: &OsStr) {
        if let Some(ino) = self.find(self.working_directory(process), path) {
            self.working.insert(process, ino);
        }
    }

    /// The directory in which the last part of a path lies, and that part.
    fn parent<'a>(&self, from: Ino, path: &'a OsStr) -> Option<(Ino, &'a OsStr)> {
        let path = std::path::Path::new(path);
        let name = path.file_name()?;
        let parent = path.parent().map_or(OsStr::new(""), std::path::Path::as_os_str);
        Some((self.find(from, parent)?, name))
    }

    /// The inode at a path.
    pub fn find(&self, from: Ino, path: &OsStr) -> Option<Ino> {
        let mut at = from;
        for part in std::path::Path::new(path).components() {
            use std::path::Component;
            at = match part {
                Component::RootDir => ROOT,
                Component::ParentDir => self.directory(at)?.parent,
                Component::Normal(name) => *self.directory(at)?.live.get(name)?,
                Component::CurDir | Component::Prefix(_) => at,
            };
        }
        Some(at)
    }

    pub(crate) fn create(&mut self, from: Ino, path: &OsStr, is_directory: bool) -> Option<Ino> {
        self.collect();
        let (parent, name) = self.parent(from, path)?;
        self.directory(parent)?;
        let content = if is_directory {
            Content::Directory(Directory::new(parent))
        } else {
            Content::File(FileContent::default())
        };
        let ino = self.inodes.iter().position(Option::is_none).unwrap_or_else(|| {
            self.inodes.push(None);
            self.inodes.len() - 1
        });
        self.inodes[ino] = Some(Inode { content, failures: 0, failures_told: 0, lock: None });
        self.directory_mut(parent)?.link(name.to_owned(), ino);
        Some(ino)
    }

    /// Makes a directory, which the device has at once.
    pub fn make_directory(&mut self, path: &str) {
        self.create(ROOT, path.as_ref(), true);
        if let Some(root) = self.directory_mut(ROOT) {
            root.sync();
        }
    }

    /// Gives a directory another name, which the device has at once.
    pub fn move_directory(&mut self, from: &str, to: &str) {
        if self.rename(ROOT, from.as_ref(), to.as_ref(), false).is_ok()
            && let Some(root) = self.directory_mut(ROOT)
        {
            root.sync();
        }
    }

    pub(crate) fn rename(
        &mut self,
        from: Ino,
        old: &OsStr,
        new: &OsStr,
        exchange: bool,
    ) -> Result<(), Errno> {
        let (dir, old) = self.parent(from, old).ok_or(Errno::NOENT)?;
        let (other, new) = self.parent(from, new).ok_or(Errno::NOENT)?;
        if dir != other {
            return Err(Errno::XDEV);
        }
        let target = self.find(dir, new);
        if exchange && target.is_none() || self.find(dir, old).is_none() {
            return Err(Errno::NOENT);
        }
        let full = |ino| self.directory(ino).is_some_and(|target| !target.live.is_empty());
        if !exchange && target.is_some_and(full) {
            return Err(Errno::NOTEMPTY);
        }
        if let Some(directory) = self.directory_mut(dir) {
            directory.rename(old.to_owned(), new.to_owned(), exchange);
        }
        Ok(())
    }

    pub(crate) fn unlink(
        &mut self,
        from: Ino,
        name: &OsStr,
        is_directory: bool,
    ) -> Result<(), Errno> {
        let (dir, name) = self.parent(from, name).ok_or(Errno::NOENT)?;
        let ino = self.find(dir, name).ok_or(Errno::NOENT)?;
        match self.directory(ino) {
            Some(_) if !is_directory => return Err(Errno::ISDIR),
            Some(target) if !target.live.is_empty() => return Err(Errno::NOTEMPTY),
            None if is_directory => return Err(Errno::NOTDIR),
            _ => {}
        }
        if let Some(directory) = self.directory_mut(dir) {
            directory.unlink(name.to_owned());
        }
        Ok(())
    }

    /// The names in a directory.
    #[must_use]
    pub fn names(&self, ino: Ino) -> Vec<OsString> {
        self.directory(ino).map_or_else(Vec::new, |found| found.live.keys().cloned().collect())
    }

    /// The files in a directory.
    #[must_use]
    pub fn inodes_in(&self, ino: Ino) -> Vec<Ino> {
        self.directory(ino).map_or_else(Vec::new, |found| found.live.values().copied().collect())
    }

    /// What is known of a file.
    #[must_use]
    pub fn about(&self, ino: Ino) -> Found {
        let names = self.directories().flat_map(|directory| directory.live.values());
        let names = names.filter(|its| **its == ino).count() as u64;
        let (len, allocated) = self.file(ino).map_or((0, 0), |file| (file.len(), file.allocated()));
        Found { len, allocated, names, is_directory: self.directory(ino).is_some() }
    }
}

/// Descriptors, locks and mappings.
impl Disk {
    pub(crate) fn new_number(&mut self) -> OpenId {
        self.made += 1;
        self.made
    }

    /// A descriptor of nothing yet.
    pub(crate) fn open(&mut self, process: ProcessId) -> OpenId {
        let id = self.new_number();
        self.open.insert(id, (ROOT, process));
        id
    }

    /// What a descriptor is of.
    pub(crate) fn set_open(&mut self, id: OpenId, ino: Ino) {
        if let Some(open) = self.open.get_mut(&id) {
            open.0 = ino;
        }
    }

    pub(crate) fn close(&mut self, id: OpenId) {
        self.open.remove(&id);
    }

    /// How many files a process has open.
    #[must_use]
    pub fn open_files(&self, process: ProcessId) -> u64 {
        self.open.values().filter(|(_, its)| *its == process).count() as u64
    }

    /// The names of the files that a process has open.
    #[must_use]
    pub fn names_open(&self, process: ProcessId) -> Vec<String> {
        let open = self.open.values().filter(|(_, its)| *its == process);
        open.map(|(ino, _)| self.name_of(*ino)).collect()
    }

    /// How many mappings a process has.
    #[must_use]
    pub fn mappings(&self, process: ProcessId) -> u64 {
        self.mapped.values().filter(|mapped| mapped.process == process).count() as u64
    }

    /// The files that a process has mapped.
    #[must_use]
    pub fn names_mapped(&self, process: ProcessId) -> Vec<String> {
        let mapped = self.mapped.values().filter(|mapped| mapped.process == process);
        mapped.map(|mapped| self.name_of(mapped.ino)).collect()
    }

    /// How many files a process has mapped, and how many of those have no name any more.
    #[must_use]
    pub fn mapped_files(&self, process: ProcessId) -> (usize, usize) {
        let mapped = self.mapped.values().filter(|mapped| mapped.process == process);
        let mut mapped: Vec<_> = mapped.map(|mapped| mapped.ino).collect();
        mapped.sort_unstable();
        mapped.dedup();
        let removed = mapped.iter().filter(|ino| self.about(**ino).names == 0).count();
        (mapped.len(), removed)
    }

    pub(crate) fn try_lock(&mut self, ino: Ino, lock: (OpenId, ProcessId)) -> bool {
        let Some(inode) = self.inode_mut(ino) else { return false };
        *inode.lock.get_or_insert(lock) == lock
    }

    pub(crate) fn unlock(&mut self, ino: Ino, id: OpenId) {
        if let Some(inode) = self.inode_mut(ino)
            && inode.lock.is_some_and(|(its, _)| its == id)
        {
            inode.lock = None;
        }
    }

    pub(crate) fn forget_process(&mut self, process: ProcessId) {
        self.open.retain(|_, (_, its)| *its != process);
        for inode in self.inodes.iter_mut().flatten() {
            inode.lock.take_if(|(_, its)| *its == process);
        }
        self.mapped.retain(|_, mapped| mapped.process != process);
        self.working.remove(&process);
        let mapped: Vec<_> = self.mapped.values().map(|mapped| mapped.ino).collect();
        for ino in (0..self.inodes.len()).filter(|ino| !mapped.contains(ino)) {
            self.file_mut(ino).into_iter().for_each(FileContent::unmap);
        }
    }

    /// Number and address of a new mapping; `None`: there can be no more.
    pub(crate) fn map(
        &mut self,
        (open, process): (Ino, ProcessId),
        len: usize,
        most: u64,
    ) -> Option<(u64, usize)> {
        if self.mappings(process) >= most {
            return None;
        }
        let base = self.file_mut(open)?.address_of(len)?;
        self.made += 1;
        self.mapped.insert(self.made, Mapped { ino: open, process });
        Some((self.made, base))
    }

    pub(crate) fn unmap(&mut self, id: u64) {
        self.mapped.remove(&id);
    }

    /// Gives a part of a mapped file its blocks; `false`: there is no room.
    pub(crate) fn fill_mapped(&mut self, id: u64, part: Range<usize>) -> bool {
        let Some(mapped) = self.mapped.get(&id).copied() else { return true };
        self.allocate(mapped.ino, part.start as u64..part.end as u64)
    }

    pub(crate) fn punch_mapped(&mut self, id: u64, part: Range<usize>) {
        if let Some(mapped) = self.mapped.get(&id).copied() {
            self.punch(mapped.ino, part.start as u64..part.end as u64);
        }
    }

    /// Forgets inodes that nothing leads to.
    fn collect(&mut self) {
        let named = self.directories().flat_map(Directory::inodes);
        let open = self.open.values().map(|(ino, _)| *ino);
        let mapped = self.mapped.values().map(|mapped| mapped.ino);
        let working = self.working.values().copied();
        let mut used = vec![false; self.inodes.len()];
        used[ROOT] = true;
        for ino in named.chain(open).chain(mapped).chain(working).collect::<Vec<_>>() {
            used[ino] = true;
        }
        for (inode, used) in self.inodes.iter_mut().zip(used) {
            if !used {
                *inode = None;
            }
        }
    }
}

/// Bytes and room.
impl Disk {
    /// Blocks of the disk, and those that are free.
    #[must_use]
    pub fn blocks(&self) -> (u64, u64) {
        let taken: u64 = self.files().map(|(_, file)| file.allocated() / PAGE as u64).sum();
        (self.pages, self.pages.saturating_sub(taken))
    }

    /// Gives the disk a size in bytes.
    pub fn resize(&mut self, bytes: u64) {
        self.pages = bytes / PAGE as u64;
    }

    /// Gives a part of a file its blocks, or none of them.
    pub(crate) fn allocate(&mut self, ino: Ino, part: Range<u64>) -> bool {
        let free = self.blocks().1;
        self.file_mut(ino).is_none_or(|file| file.allocate(part, free))
    }

    pub(crate) fn punch(&mut self, ino: Ino, part: Range<u64>) {
        if let Some(file) = self.file_mut(ino) {
            file.punch(part);
        }
    }

    pub(crate) fn next_block(&self, ino: Ino, at: u64, is_data: bool) -> Option<u64> {
        self.file(ino)?.next_block(at, is_data)
    }

    pub(crate) fn set_len(&mut self, ino: Ino, len: u64) {
        if let Some(file) = self.file_mut(ino) {
            file.set_len(len);
        }
    }

    /// Writes what there is room for, page by page. Returns how many bytes.
    pub fn write(&mut self, ino: Ino, at: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let from = at + done as u64;
            let len = (PAGE - from as usize % PAGE).min(bytes.len() - done);
            let free = self.blocks().1;
            let Some(file) = self.file_mut(ino) else { break };
            if !file.allocate(from..from + len as u64, free) {
                break;
            }
            file.write(from, &bytes[done..done + len]);
            done += len;
        }
        done
    }

    /// The names of the files in a directory, and what is in them.
    #[must_use]
    pub fn contents(&self, directory: Ino) -> Vec<(String, Vec<u8>)> {
        let names = self.directory(directory).into_iter().flat_map(|found| &found.live);
        let content = |(name, ino): (&OsString, &Ino)| {
            let file = self.file(*ino)?;
            let mut bytes = vec![0; file.len() as usize];
            file.read(0, &mut bytes);
            Some((name.to_string_lossy().into_owned(), bytes))
        };
        names.filter_map(content).collect()
    }

    /// Reads what processes see.
    pub fn read(&self, ino: Ino, at: u64, bytes: &mut [u8]) -> usize {
        self.file(ino).map_or(0, |file| file.read(at, bytes))
    }

    pub(crate) fn read_device(&self, ino: Ino, at: u64, bytes: &mut [u8]) -> usize {
        self.file(ino).map_or(0, |file| file.read_device(at, bytes))
    }
}
