//! Bursts: vectors whose memory is used again.
//!
//! One message carries one burst. When the receiver drops it, the empty vector goes to a list of
//! the thread, from which the next burst takes it. On the arbiter of the stack's cpu, which is
//! where applications should run, the data path so allocates no vector in the steady state.

use std::cell::RefCell;
use std::fmt;
use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

use virtroupe_driver::{Frame, drop_burst};
use virtroupe_wire::udp::UdpDatagram;

/// Vectors kept for each type and thread.
const KEPT: usize = 32;
/// Vectors that grew beyond this many items are given back to the heap.
const LONGEST_KEPT: usize = 1024;

type FreeList<T> = RefCell<Vec<Vec<T>>>;

/// What a [`Burst`] can carry.
pub trait Item: Sized + 'static {
    #[doc(hidden)]
    fn free_list() -> &'static LocalKey<FreeList<Self>>;

    /// Drops all items.
    #[doc(hidden)]
    fn clear(items: &mut Vec<Self>) {
        items.clear();
    }
}

thread_local! {
    static FRAMES: FreeList<Frame> = const { RefCell::new(Vec::new()) };
    static DATAGRAMS: FreeList<UdpDatagram<Frame>> = const { RefCell::new(Vec::new()) };
}

impl Item for Frame {
    fn free_list() -> &'static LocalKey<FreeList<Self>> {
        &FRAMES
    }

    fn clear(items: &mut Vec<Self>) {
        drop_burst(items);
    }
}

impl Item for UdpDatagram<Frame> {
    fn free_list() -> &'static LocalKey<FreeList<Self>> {
        &DATAGRAMS
    }
}

/// A vector of packets that came together.
///
/// It is a [`Vec`] in all respects, but dropping it keeps its memory for the next burst. Packets
/// that were not taken out are dropped with it.
pub struct Burst<T: Item>(Vec<T>);

impl<T: Item> Burst<T> {
    /// An empty burst, with memory from an earlier one if there is any.
    pub fn new() -> Self {
        let kept = T::free_list().try_with(|list| list.try_borrow_mut().ok()?.pop());
        Burst(kept.ok().flatten().unwrap_or_default())
    }
}

impl<T: Item> Default for Burst<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Item> From<Vec<T>> for Burst<T> {
    fn from(items: Vec<T>) -> Self {
        Burst(items)
    }
}

impl<T: Item> Deref for Burst<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T: Item> DerefMut for Burst<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<T: Item> Drop for Burst<T> {
    fn drop(&mut self) {
        let mut items = take(&mut self.0);
        T::clear(&mut items);
        if items.capacity() == 0 || items.capacity() > LONGEST_KEPT {
            return;
        }
        let _ = T::free_list().try_with(|list| {
            if let Ok(mut list) = list.try_borrow_mut()
                && list.len() < KEPT
            {
                list.push(items);
            }
        });
    }
}

impl<T: Item + fmt::Debug> fmt::Debug for Burst<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_burst_lends_its_memory_to_the_next_and_keeps_no_packet() {
        let mut burst = Burst::new();
        burst.extend((0..9).map(|byte| Frame::on_heap(&[byte])));
        let memory = burst.as_ptr();
        drop(burst);
        let next: Burst<Frame> = Burst::new();
        assert!(next.is_empty());
        assert_eq!(next.as_ptr(), memory);
    }
}
