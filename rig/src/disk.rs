//! A disk that remembers: a FUSE file system with two files. `disk` is what a loop device is put
//! over; each write to it and each flush is kept in order. What a process writes to `said` is kept
//! in the same order, so that it is known what had been promised before which write.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

const DISK: INodeNo = INodeNo(2);
const SAID: INodeNo = INodeNo(3);
const TTL: Duration = Duration::from_secs(3_600);

/// What reached the disk, or its control file.
#[derive(Clone, Debug)]
pub enum Entry {
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
    /// Everything before it was on the medium when the device said so.
    Flush,
    Said(String),
}

#[derive(Debug, Default)]
struct State {
    now: Vec<u8>,
    log: Vec<Entry>,
}

/// The disk. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    pub fn new(now: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { now, log: Vec::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that happened since it was last asked.
    pub fn take_log(&self) -> Vec<Entry> {
        std::mem::take(&mut self.state().log)
    }

    /// What it holds.
    pub fn now(&self) -> Vec<u8> {
        self.state().now.clone()
    }

    /// Shows the disk as a file below `place`, until what is returned is dropped.
    pub fn mount(&self, place: &Path) -> std::io::Result<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("stratalog-rig".into())];
        fuser::spawn_mount(self.clone(), place, &config)
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0),
            DISK => (FileType::RegularFile, self.state().now.len() as u64),
            SAID => (FileType::RegularFile, 0),
            _ => return None,
        };
        let epoch = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.to_str() {
            Some("disk") => DISK,
            Some("said") => SAID,
            _ => return reply.error(Errno::ENOENT),
        };
        match self.attributes(ino) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Writes of both come here before they return: there is no cache of writes unless it is asked
    /// for. What is said has no size, so it must not be cached at all.
    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let direct = FopenFlags::FOPEN_DIRECT_IO;
        reply.opened(FileHandle(0), if ino == SAID { direct } else { FopenFlags::empty() });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state();
        let from = (offset as usize).min(state.now.len());
        let to = (from + size as usize).min(state.now.len());
        reply.data(&state.now[from..to]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        if ino == SAID {
            state.log.push(Entry::Said(String::from_utf8_lossy(data).into_owned()));
            return reply.written(data.len() as u32);
        }
        let at = offset as usize;
        let Some(there) = state.now.get_mut(at..at + data.len()) else {
            return reply.error(Errno::ENOSPC);
        };
        there.copy_from_slice(data);
        state.log.push(Entry::Write { at, bytes: data.to_vec() });
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.state().log.push(Entry::Flush);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
