//! What is read and not finished, bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What is read and not finished, counted where it is read and where it finishes. At its bound the consumer pauses
/// its partitions, and goes on polling; it resumes them when half of the bound is free.
#[derive(Debug)]
pub struct Budget {
    records: AtomicUsize,
    bytes: AtomicUsize,
    /// It has been full, and there may not have been room since.
    filled: AtomicBool,
    max_records: usize,
    max_bytes: usize,
}

impl Budget {
    /// A budget with nothing in it.
    pub fn new(max_records: usize, max_bytes: usize) -> Arc<Self> {
        let (records, bytes, filled) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { records, bytes, filled, max_records, max_bytes })
    }

    /// Takes a record in.
    pub fn take(&self, bytes: usize) {
        self.records.fetch_add(1, Ordering::Relaxed);
        self.grow(bytes);
    }

    /// A record that was taken in holds so many bytes more; they go with it.
    pub fn grow(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.is_full() {
            self.filled.store(true, Ordering::Relaxed);
        }
    }

    /// Lets a record go that was taken in, and has grown, to the same size.
    pub fn give(&self, bytes: usize) {
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if self.filled.load(Ordering::Relaxed) && self.has_room() {
            self.filled.store(false, Ordering::Relaxed);
        }
    }

    /// Records and bytes in it.
    pub fn held(&self) -> (usize, usize) {
        (self.records.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// The most records and bytes it holds before it is full.
    pub fn bounds(&self) -> (usize, usize) {
        (self.max_records, self.max_bytes)
    }

    /// Whether nothing more may be taken in.
    pub fn is_full(&self) -> bool {
        let (records, bytes) = self.held();
        records >= self.max_records || bytes >= self.max_bytes
    }

    /// Whether it has been full, and has not had room since: its consumer may be paused for it.
    pub fn is_pressed(&self) -> bool {
        self.filled.load(Ordering::Relaxed) && !self.has_room()
    }

    /// Whether it is worth taking in again: at most half of either bound is in use.
    pub fn has_room(&self) -> bool {
        let (records, bytes) = self.held();
        records <= self.max_records / 2 && bytes <= self.max_bytes / 2
    }
}
