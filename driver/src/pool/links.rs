//! The numbers of links, and the chunks that they keep (see `frame/link`).
//!
//! A pool has one for each slot: what is under way of a stream takes more slots than links, for its
//! headers and for the chunks themselves. Links that run out cost a copy. They come home as slots
//! do: to a stack on the owner's thread, else through the same list.

use std::ptr::NonNull;
use std::sync::Arc;

use super::Home;
#[cfg(test)]
use super::Pool;
use crate::chunk::Chunk;
use crate::frame::{Frame, SLOT_DATA};

impl Home {
    /// Whether a device that sees the slots of one sees those of the other.
    pub(crate) fn shares_memory(&self, other: &Home) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    /// Takes a free link, which keeps `chunk` from now on.
    ///
    /// # Errors
    /// Gives the chunk back if this is not the owner's thread, or no link is free.
    ///
    /// # Safety
    /// `home` is alive. The caller gives the link back by [`give_link`](Self::give_link), once.
    pub(crate) unsafe fn take_link(home: NonNull<Home>, chunk: Chunk) -> Result<u32, Chunk> {
        // SAFETY: alive by contract.
        let this = unsafe { home.as_ref() };
        if !this.is_owner() {
            return Err(chunk);
        }
        // SAFETY: the owner's thread, and each borrow ends with its expression.
        let mut link = unsafe { (*this.links.get()).pop() };
        if link.is_none() {
            // SAFETY: the owner's thread, where nobody who borrows a stack attaches.
            unsafe { this.collect() };
            // SAFETY: as above.
            link = unsafe { (*this.links.get()).pop() };
        }
        match link.and_then(|link| Some((link, this.attached(link)?))) {
            Some((link, cell)) => {
                // SAFETY: the cell of a link that was free until now, so nobody else refers to it.
                unsafe { *cell = Some(chunk) };
                Ok(link)
            }
            None => Err(chunk),
        }
    }

    /// Drops the chunk of `link` and takes the link back, on any thread.
    ///
    /// # Safety
    /// `home` is alive, and the caller took the link and uses it no more.
    pub(crate) unsafe fn give_link(home: NonNull<Home>, link: u32) {
        // SAFETY: alive by contract.
        let this = unsafe { home.as_ref() };
        if let Some(cell) = this.attached(link) {
            // SAFETY: the cell belongs to the caller.
            drop(unsafe { (*cell).take() });
        }
        if this.is_owner() {
            // SAFETY: the owner's thread; no borrow of this stack is ever held.
            unsafe { (*this.links.get()).push(link) };
        } else {
            // SAFETY: alive, out until now, and not used any more by contract.
            unsafe { Home::give_remote(home, link) };
        }
    }

    /// An empty frame, if this is the owner's thread and a slot is free.
    ///
    /// # Safety
    /// `home` is alive.
    pub(crate) unsafe fn frame(home: NonNull<Home>) -> Option<Frame> {
        // SAFETY: alive by contract.
        let this = unsafe { home.as_ref() };
        if !this.is_owner() {
            return None;
        }
        // SAFETY: the owner's thread, where nobody who borrows the stack makes or drops frames;
        // the borrows end with their expressions.
        let slot = unsafe {
            if (*this.local.get()).is_empty() {
                this.collect();
            }
            (*this.local.get()).pop()
        }?;
        let address = this.slot_address(slot);
        Some(Frame::in_slot(home, address, slot, SLOT_DATA, 0))
    }

    fn attached(&self, link: u32) -> Option<*mut Option<Chunk>> {
        let index = link.checked_sub(self.first_link)?;
        Some(self.attached.get(index as usize)?.get())
    }
}

#[cfg(test)]
impl Pool {
    /// Links that are free, without those on the remote list.
    pub(crate) fn free_links(&self) -> usize {
        // SAFETY: the owner thread, and the reference ends with this expression.
        unsafe { (*self.home().links.get()).len() }
    }
}
