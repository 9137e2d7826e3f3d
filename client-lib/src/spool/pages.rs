//! Chunk buffers: memory that begins at a page, so that the disk can take it without a copy, from one pool.
//! Rules: writers share a budget; readers are bounded by whoever reads. What comes back is kept for the next one, up to a number.
//! Errors: none; `Pool::budgeted` is `None` when the budget is spent.

use crate::limits::CHUNK_BYTES;
use crate::spool::journal::lock;
use crate::spool::segment::BLOCK;
use std::sync::{Arc, Mutex};

/// Buffers kept for the next writers and readers; more are given back to the system.
const KEPT: usize = 16;
const PAGE: usize = BLOCK as usize;

const _: () = assert!(CHUNK_BYTES.is_multiple_of(PAGE));

/// Room for one chunk, at the beginning of a page.
#[derive(Debug)]
struct Pages {
    /// A page longer than a chunk, because the system aligns only to a few bytes. It never moves.
    memory: Vec<u8>,
    start: usize,
}

impl Pages {
    fn new() -> Self {
        let memory = vec![0; CHUNK_BYTES + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        Self { memory, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + CHUNK_BYTES]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + CHUNK_BYTES]
    }
}

/// Where buffers come from and go back to.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    budget: usize,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Pages>,
    budgeted: usize,
}

impl Pool {
    /// `bytes`: what writers may have at a time, one buffer at least.
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), budget: (bytes / CHUNK_BYTES as u64).max(1) as usize })
    }

    /// A writer's buffer; `None`: all are in use.
    pub(crate) fn budgeted(self: &Arc<Self>) -> Option<Buffer> {
        let mut state = lock(&self.state);
        if state.budgeted >= self.budget {
            return None;
        }
        state.budgeted += 1;
        let pages = state.free.pop();
        drop(state);
        Some(self.buffer(pages, true))
    }

    /// A reader's buffer.
    pub(crate) fn any(self: &Arc<Self>) -> Buffer {
        let pages = lock(&self.state).free.pop();
        self.buffer(pages, false)
    }

    fn buffer(self: &Arc<Self>, pages: Option<Pages>, budgeted: bool) -> Buffer {
        Buffer { pages: Some(pages.unwrap_or_else(Pages::new)), length: 0, budgeted, pool: Arc::clone(self) }
    }
}

/// A buffer, empty at first. It goes back to its pool when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// There until it is dropped.
    pages: Option<Pages>,
    length: usize,
    budgeted: bool,
    pool: Arc<Pool>,
}

impl Buffer {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Bytes that still fit.
    pub(crate) fn room(&self) -> usize {
        CHUNK_BYTES - self.length
    }

    /// Cuts, or makes longer with whatever stands there.
    pub(crate) fn set_len(&mut self, length: usize) {
        self.length = length.min(CHUNK_BYTES);
    }

    /// Appends as much as fits; returns the rest.
    pub(crate) fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (now, later) = bytes.split_at(bytes.len().min(self.room()));
        let length = self.length;
        if let Some(pages) = &mut self.pages {
            pages.bytes_mut()[length..length + now.len()].copy_from_slice(now);
        }
        self.length += now.len();
        later
    }

    /// What is left of it.
    pub(crate) fn spare_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        self.pages.as_mut().map_or(&mut [], |pages| &mut pages.bytes_mut()[length..])
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.pages.as_ref().map_or(&[], |pages| &pages.bytes()[..self.length])
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        self.pages.as_mut().map_or(&mut [], |pages| &mut pages.bytes_mut()[..length])
    }

    /// What is in it and zeroes up to the end of the page.
    pub(crate) fn whole_pages(&mut self) -> &[u8] {
        let (length, end) = (self.length, self.length.next_multiple_of(PAGE));
        match &mut self.pages {
            Some(pages) => {
                pages.bytes_mut()[length..end].fill(0);
                &pages.bytes()[..end]
            }
            None => &[],
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.state);
        if self.budgeted {
            state.budgeted -= 1;
        }
        if state.free.len() < KEPT
            && let Some(pages) = self.pages.take()
        {
            state.free.push(pages);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_at_a_page_and_ends_with_zeroes() {
        let pool = Pool::new(1 << 20);
        for round in 0..2 {
            let mut buffer = pool.any();
            assert_eq!(buffer.fill(&vec![7; CHUNK_BYTES + 3]).len(), 3, "round {round}");
            buffer.set_len(5_000);
            let whole = buffer.whole_pages();
            assert_eq!((whole.as_ptr().align_offset(PAGE), whole.len()), (0, 8_192));
            assert!(whole[..5_000].iter().all(|b| *b == 7) && whole[5_000..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn writers_share_a_budget_and_readers_do_not_count() {
        let pool = Pool::new(2 * CHUNK_BYTES as u64);
        let (first, second) = (pool.budgeted(), pool.budgeted());
        assert!(first.is_some() && second.is_some() && pool.budgeted().is_none());
        let reader = pool.any();
        drop(first);
        assert!(pool.budgeted().is_some());
        drop(reader);
        assert_eq!(lock(&pool.state).free.len(), 2);
    }
}
