//! The contents of a file.

use super::PAGE;
use crate::map::Page;
use std::ops::Range;

const WORD: usize = 8;

/// The contents of a file.
#[derive(Default)]
pub(super) struct FileContent {
    live: Vec<Page>,
    len: u64,
    clean: Vec<u8>,
    device: Vec<u8>,
    device_len: u64,
    /// Which pages have blocks.
    blocks: Vec<bool>,
    /// How many have.
    taken: u64,
    /// Its address was given out: it may not move.
    is_mapped: bool,
}

impl std::fmt::Debug for FileContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileContent").field("len", &self.len).finish_non_exhaustive()
    }
}

fn page_of(bytes: &[u8], n: usize) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page.copy_from_slice(&bytes[n * PAGE..(n + 1) * PAGE]);
    page
}

impl FileContent {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn allocated(&self) -> u64 {
        self.taken * PAGE as u64
    }

    fn set_block(&mut self, n: usize, is_there: bool) {
        let was = std::mem::replace(&mut self.blocks[n], is_there);
        self.taken = self.taken + u64::from(is_there) - u64::from(was);
    }

    fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
        let pages = (self.len as usize).div_ceil(PAGE);
        if pages > self.live.len() && !self.is_mapped {
            self.live.resize_with(pages, Page::new);
            self.clean.resize(pages * PAGE, 0);
            self.device.resize(pages * PAGE, 0);
            self.blocks.resize(pages, false);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.grow(len);
        let pages = (len as usize).div_ceil(PAGE);
        for n in 0..self.live.len() {
            let mut page = self.live[n].bytes();
            let from = (len as usize).saturating_sub(n * PAGE).min(PAGE);
            page[from..].fill(0);
            self.live[n].set(&page);
            self.set_block(n, self.blocks[n] && n < pages);
        }
        self.len = len;
    }

    pub(super) fn address_of(&mut self, len: usize) -> Option<usize> {
        if self.live.len() * PAGE < len {
            return None;
        }
        self.is_mapped = true;
        Some(self.live.as_ptr().expose_provenance())
    }

    pub(super) fn allocate(&mut self, part: Range<u64>, free: u64) -> bool {
        let (from, to) = (part.start as usize / PAGE, (part.end as usize).div_ceil(PAGE));
        let has = |n: usize| self.blocks.get(n).copied().unwrap_or(false);
        let lacking = (from..to).filter(|n| !has(*n)).count() as u64;
        if lacking > free {
            return false;
        }
        self.grow(part.end);
        for n in from..to.min(self.blocks.len()) {
            self.set_block(n, true);
        }
        true
    }

    /// Counts blocks that stores to a mapping took. `false`: there are not so many.
    pub(super) fn fill_stored(&mut self, free: u64) -> bool {
        let mut left = free;
        for n in 0..self.live.len() {
            if !self.blocks[n] && *self.live[n].view() != [0; PAGE] {
                let Some(less) = left.checked_sub(1) else { return false };
                left = less;
                self.set_block(n, true);
            }
        }
        true
    }

    pub(super) fn punch(&mut self, part: Range<u64>) {
        let (from, to) = ((part.start as usize).div_ceil(PAGE), part.end as usize / PAGE);
        for n in from..to.min(self.live.len()) {
            self.live[n].set(&[0; PAGE]);
            self.set_block(n, false);
        }
    }

    pub(super) fn next_block(&self, at: u64, is_data: bool) -> Option<u64> {
        if at >= self.len {
            return None;
        }
        let is = |n: &usize| self.blocks[*n] == is_data;
        match (at as usize / PAGE..self.blocks.len()).find(is) {
            Some(n) => Some(at.max((n * PAGE) as u64)),
            None if is_data => None,
            None => Some(self.len),
        }
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        self.grow(at + bytes.len() as u64);
        let (mut at, mut left) = (at as usize, bytes);
        while !left.is_empty() {
            let (n, from) = (at / PAGE, at % PAGE);
            let len = left.len().min(PAGE - from);
            let mut page = self.live[n].bytes();
            page[from..from + len].copy_from_slice(&left[..len]);
            self.live[n].set(&page);
            (at, left) = (at + len, &left[len..]);
        }
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> usize {
        let end = (self.len as usize).min(at as usize + bytes.len());
        let mut done = 0;
        while (at as usize) + done < end {
            let here = at as usize + done;
            let (n, from) = (here / PAGE, here % PAGE);
            let len = (end - here).min(PAGE - from);
            bytes[done..done + len].copy_from_slice(&self.live[n].view()[from..from + len]);
            done += len;
        }
        done
    }

    pub(super) fn read_device(&self, at: u64, bytes: &mut [u8]) -> usize {
        let end = (self.len as usize).min(at as usize + bytes.len());
        let Some(part) = self.device.get(at as usize..end) else { return 0 };
        bytes[..part.len()].copy_from_slice(part);
        part.len()
    }

    fn is_dirty(&self, n: usize) -> Option<[u8; PAGE]> {
        let live = self.live[n].view();
        (live[..] != self.clean[n * PAGE..(n + 1) * PAGE]).then_some(*live)
    }

    /// Nobody has it mapped.
    pub(super) fn unmap(&mut self) {
        self.is_mapped = false;
    }

    /// Writes all dirty pages back, or fails to.
    pub(super) fn write_back(&mut self, fails: bool) {
        self.write_back_pages(0..self.live.len(), fails);
    }

    /// The same for some pages.
    pub(super) fn write_back_pages(&mut self, pages: Range<usize>, fails: bool) {
        for n in pages.start..pages.end.min(self.live.len()) {
            if let Some(live) = self.is_dirty(n) {
                let range = n * PAGE..(n + 1) * PAGE;
                self.clean[range.clone()].copy_from_slice(&live);
                if !fails {
                    self.device[range].copy_from_slice(&live);
                }
            }
        }
        if !fails {
            self.device_len = self.len;
        }
    }

    /// Writes some units of dirty pages back, or fails to. Returns whether there were any.
    pub(super) fn write_some_back(
        &mut self,
        unit: usize,
        fails: bool,
        dice: &mut fastrand::Rng,
    ) -> bool {
        let mut is_any = false;
        for n in 0..self.live.len() {
            let Some(live) = self.is_dirty(n) else { continue };
            for from in (0..PAGE).step_by(unit) {
                if dice.u32(0..8) == 0 {
                    let range = n * PAGE + from..n * PAGE + from + unit;
                    is_any = true;
                    self.clean[range.clone()].copy_from_slice(&live[from..from + unit]);
                    if !fails {
                        self.device[range].copy_from_slice(&live[from..from + unit]);
                        self.device_len = self.len;
                    }
                }
            }
        }
        is_any
    }

    /// Reads a clean page that the device has otherwise.
    pub(super) fn evict(&mut self) {
        for n in 0..self.live.len() {
            let device = page_of(&self.device, n);
            if self.is_dirty(n).is_none() && device[..] != self.clean[n * PAGE..(n + 1) * PAGE] {
                self.live[n].set(&device);
                self.clean[n * PAGE..(n + 1) * PAGE].copy_from_slice(&device);
            }
        }
    }

    pub(super) fn lose_page_cache(&mut self) {
        for n in 0..self.live.len() {
            self.live[n].set(&page_of(&self.device, n));
        }
        self.clean.clone_from(&self.device);
        self.restore_blocks();
        self.is_mapped = false;
    }

    /// `mood`: 0 nothing, 1 all, else some of what is dirty is kept.
    pub(super) fn lose_power(
        &mut self,
        mood: u32,
        (unit, torn): (usize, bool),
        dice: &mut fastrand::Rng,
    ) {
        let mut kept = mood == 1 || (mood > 1 && dice.bool());
        for n in 0..self.live.len() {
            let Some(live) = self.is_dirty(n) else { continue };
            for from in (0..PAGE).step_by(unit) {
                let range = n * PAGE + from..n * PAGE + from + unit;
                let keeps = mood == 1 || (mood > 1 && dice.bool());
                if keeps && torn && dice.bool() {
                    for word in (0..unit).step_by(WORD).filter(|_| dice.bool()) {
                        let at = range.start + word;
                        self.device[at..at + WORD].copy_from_slice(&live[from + word..][..WORD]);
                    }
                } else if keeps {
                    self.device[range].copy_from_slice(&live[from..from + unit]);
                }
                kept |= keeps;
            }
        }
        if kept {
            self.device_len = self.len;
        }
        self.len = self.device_len;
        self.lose_page_cache();
        let pages = (self.len as usize).div_ceil(PAGE);
        self.live.truncate(pages);
        self.clean.truncate(pages * PAGE);
        self.device.truncate(pages * PAGE);
        for n in pages..self.blocks.len() {
            self.set_block(n, false);
        }
        self.blocks.truncate(pages);
    }

    /// A block that has bytes on the device is allocated.
    fn restore_blocks(&mut self) {
        for n in 0..self.blocks.len() {
            let holds = page_of(&self.device, n) != [0; PAGE];
            self.set_block(n, self.blocks[n] || holds);
        }
    }

    /// As a sparse copy: pages of zeros have no blocks. Nothing is lost.
    pub(super) fn make_sparse(&mut self) {
        for n in 0..self.live.len() {
            self.set_block(n, self.blocks[n] && *self.live[n].view() != [0; PAGE]);
        }
    }

    /// Damages a unit that is not empty; says where.
    pub(super) fn damage(&mut self, unit: usize, dice: &mut fastrand::Rng) -> Option<u64> {
        let holds = |at: &usize| self.device[*at..*at + unit].iter().any(|byte| *byte != 0);
        let units: Vec<_> = (0..self.device.len()).step_by(unit).filter(holds).collect();
        let at = *dice.choice(&units)?;
        match dice.u32(0..4) {
            0 => self.device[at..at + unit].fill(0),
            1 => dice.fill(&mut self.device[at..at + unit]),
            2 => {
                let from = *dice.choice(&units)?;
                self.device.copy_within(from..from + unit, at);
            }
            _ => self.device[at + dice.usize(0..unit)] ^= 1 << dice.u32(0..8),
        }
        self.lose_page_cache();
        Some(at as u64)
    }
}
