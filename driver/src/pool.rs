//! The pool: packet slots in DMA memory, and how they come home.
//!
//! A pool belongs to one thread, its *owner*: the thread that polls the queue pair. The owner
//! takes and returns slots on a plain stack. Every other thread returns a slot through a
//! lock-free list that only ever is taken whole, so it has no ABA problem.
//!
//! ```text
//!   owner thread   allocate <- [ local stack ] <- drop on the owner thread
//!                                   ^ one swap, when the stack runs low
//!   other threads               [ remote list ] <- drop elsewhere (one CAS a frame, or one
//!                                                  for each `batch_returns` scope and pool)
//! ```
//!
//! The bookkeeping (`Home`) outlives the pool until the last frame is back, without a count
//! per frame: frames that are still out when the pool closes are counted once, at that moment.

mod batch;
mod burst;
mod links;
mod long;

pub use batch::batch_returns;
pub use burst::drop_burst;
pub(crate) use burst::forget_front;
pub use long::LONG_SLOT;

use std::cell::{Cell, UnsafeCell};
use std::ptr::NonNull;
use std::sync::Arc;

use virtroupe_wire::{Allocator, Offload};

use crate::chunk::Chunk;
use crate::frame::{Frame, SLOT_DATA};
use crate::memory::DmaMemory;
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering, Shared};

/// Distance in bytes between two slots.
///
/// An odd number of lines: at 2048 bytes, the first lines of all packets would fall into a few
/// cache sets. 35 lines hold the headroom, the virtio-net header and a frame of up to 2112 bytes.
pub const SLOT_STRIDE: usize = 35 * 64;

/// Bytes that a fresh slot takes behind its headroom.
pub(crate) const SLOT_ROOM: usize = SLOT_STRIDE - SLOT_DATA as usize;

/// Slots that are left, for what the stack sends on its own account, by a receive ring that is at
/// least half full and by segmentation in software. Received frames whose slots could be replaced
/// only out of the reserve are copied to the heap.
pub(crate) const RESERVE: usize = 64;

/// No slot: the end of a list.
const NONE: u32 = u32::MAX;
/// The remote list of a pool that has closed.
const CLOSED: u32 = u32::MAX - 1;
/// Keeps the count of frames of an open pool far from zero; see [`Home::forget`].
const OPEN: i64 = 1 << 40;

/// What frames know of their pool.
pub(crate) struct Home {
    memory: Arc<DmaMemory>,
    slots: NonNull<u8>,
    count: u32,
    /// The thread on which `local` may be touched; 0 is none.
    owner: AtomicU64,
    local: UnsafeCell<Vec<u32>>,
    /// Free long slots, whose numbers follow those of the slots.
    long: UnsafeCell<Vec<u32>>,
    /// Free links, whose numbers follow those of the long slots.
    links: UnsafeCell<Vec<u32>>,
    /// The number of the first link.
    first_link: u32,
    /// Head of the list of what other threads returned: slots of both kinds, and links.
    remote: AtomicU32,
    /// The next one in the remote list, for each number.
    next: Box<[AtomicU32]>,
    /// The chunk whose bytes a link shows, for each link. Belongs to whoever holds the link.
    attached: Box<[UnsafeCell<Option<Chunk>>]>,
    /// The next segment of a chain, for each number. Belongs to whoever holds its frame.
    pub(crate) tails: Box<[UnsafeCell<Option<Frame>>]>,
    /// The offload of a packet that has one, for each slot of both kinds. Belongs to the same.
    pub(crate) offloads: Box<[UnsafeCell<Offload>]>,
    /// References held by chunks, for each slot of both kinds.
    pub(crate) references: Box<[AtomicU32]>,
    /// `OPEN` while the pool lives, then the number of frames and links that are still out.
    remaining: AtomicI64,
    shared: Shared,
}

// SAFETY: `local`, `long` and `links` are only touched by the owner thread (`is_owner`) or, while
// there is no owner, by the one holder of the `UnboundPool`. `tails[i]`, `offloads[i]` and
// `attached[i]` are only touched by the unique holder of slot or link i. Everything else is atomic
// or immutable.
// `slots` points into `memory`.
unsafe impl Send for Home {}
// SAFETY: as above.
unsafe impl Sync for Home {}

#[cfg(not(virtroupe_loom))]
thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

#[cfg(virtroupe_loom)]
loom::thread_local! {
    static THREAD: Cell<u64> = Cell::new(0);
}

/// A number that no other thread of this process has or ever had.
fn current_thread() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    THREAD.with(|thread| {
        if thread.get() == 0 {
            thread.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        thread.get()
    })
}

impl Home {
    /// The address of the first byte of `slot`.
    pub(crate) fn slot_address(&self, slot: u32) -> NonNull<u8> {
        debug_assert!(slot < self.count);
        // SAFETY: every slot number comes from this home's stack, so it is below `count`, and
        // `count * SLOT_STRIDE` bytes from `slots` are inside the mapping (`UnboundPool::bytes`).
        unsafe { self.slots.add(slot as usize * SLOT_STRIDE) }
    }

    /// Where the slots live.
    pub(crate) fn memory(&self) -> &Arc<DmaMemory> {
        &self.memory
    }

    fn is_owner(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == current_thread()
    }

    /// Takes back a slot whose frame is gone.
    ///
    /// # Safety
    /// `home` is alive, and the caller held the only frame of `slot` and uses it no more.
    pub(crate) unsafe fn take_back(home: NonNull<Home>, slot: u32) {
        // SAFETY: alive by contract.
        let this = unsafe { home.as_ref() };
        if this.is_owner() {
            // SAFETY: this is the owner thread, and no method that borrows the stack can drop
            // a frame while it does.
            unsafe { (*this.local.get()).push(slot) };
        } else {
            // SAFETY: alive, and out until now, by contract.
            unsafe { Home::give_remote(home, slot) };
        }
    }

    /// Returns a slot or link from a thread that is not the owner's.
    ///
    /// # Safety
    /// As for [`take_back`](Self::take_back).
    unsafe fn give_remote(home: NonNull<Home>, slot: u32) {
        if !batch::add(home, slot) {
            // SAFETY: alive, and a list of one.
            unsafe { Home::push_remote(home, slot, slot, 1) };
        }
    }

    /// Moves what other threads returned to the stacks; gives the number of slots.
    ///
    /// # Safety
    /// The owner thread, and nobody borrows the stacks.
    #[cold]
    unsafe fn collect(&self) -> usize {
        if self.remote.load(Ordering::Relaxed) == NONE {
            return 0;
        }
        // SAFETY: by contract.
        let (local, links) = unsafe { (&mut *self.local.get(), &mut *self.links.get()) };
        // SAFETY: by contract.
        let long = unsafe { &mut *self.long.get() };
        let before = local.len();
        // Acquire: pairs with the Release of those who pushed.
        let mut slot = self.remote.swap(NONE, Ordering::Acquire);
        while let Some(next) = self.next.get(slot as usize) {
            let following = next.load(Ordering::Relaxed);
            if slot < self.count {
                local.push(slot);
            } else if slot < self.first_link {
                long.push(slot);
            } else {
                links.push(slot);
            }
            slot = following;
        }
        local.len() - before
    }

    /// Gives a list of slots and links, first to last, to the owner.
    ///
    /// # Safety
    /// `home` is alive, and they are out and held by nobody else.
    unsafe fn push_remote(home: NonNull<Home>, first: u32, last: u32, count: u32) {
        // SAFETY: alive by contract, until the last frame is accounted for.
        let this = unsafe { home.as_ref() };
        let mut head = this.remote.load(Ordering::Relaxed);
        while head != CLOSED {
            if let Some(next) = this.next.get(last as usize) {
                next.store(head, Ordering::Relaxed);
            }
            // Release: the owner that takes the list sees the links and all uses of the slots.
            match this.remote.compare_exchange_weak(
                head,
                first,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
        // SAFETY: the pool has closed, so these frames are among those counted.
        unsafe { Home::forget(home, i64::from(count)) };
    }

    /// Accounts for `count` frames that came back after the pool closed, and frees the home
    /// with the last one.
    ///
    /// # Safety
    /// `home` is alive, and the caller uses it no more.
    unsafe fn forget(home: NonNull<Home>, count: i64) {
        // SAFETY: alive by contract.
        let this = unsafe { home.as_ref() };
        this.shared.used();
        // Release: what we did here happens before it is freed. Acquire, for who frees it.
        let before = this.remaining.fetch_sub(count, Ordering::AcqRel);
        if before == count {
            this.shared.freed();
            // SAFETY: it was leaked from a Box in `UnboundPool::new`; the count reaches zero
            // once, after the pool closed, so nobody else refers to it.
            drop(unsafe { Box::from_raw(home.as_ptr()) });
        }
    }
}

/// A pool that is not yet tied to a thread.
pub struct UnboundPool {
    home: NonNull<Home>,
}

// SAFETY: without an owner thread, all frames go home through the remote list, and the local
// stack is reached only through this unique value.
unsafe impl Send for UnboundPool {}

impl UnboundPool {
    /// Makes `count` slots, and long ones, out of [`bytes`](Self::bytes) of `memory` at `offset`.
    ///
    /// Returns `None` if they do not fit into the memory. The bytes must be used by nobody
    /// else; `device::layout` lays them out.
    pub(crate) fn new(memory: Arc<DmaMemory>, offset: usize, count: u32) -> Option<Self> {
        let slots = memory.range(offset, Self::bytes(count))?;
        let first_link = count.checked_add(long::count(count))?;
        let end = first_link.checked_add(count);
        let numbers = 0..end.filter(|end| *end <= Frame::SLOT_LIMIT)?;
        let home = Home {
            memory,
            slots,
            count,
            owner: AtomicU64::new(0),
            // The lowest slot on top: fresh pools use few pages.
            local: UnsafeCell::new((0..count).rev().collect()),
            long: UnsafeCell::new((count..first_link).rev().collect()),
            links: UnsafeCell::new((first_link..numbers.end).rev().collect()),
            first_link,
            remote: AtomicU32::new(NONE),
            next: numbers.clone().map(|_| AtomicU32::new(NONE)).collect(),
            attached: (0..count).map(|_| UnsafeCell::new(None)).collect(),
            tails: numbers.map(|_| UnsafeCell::new(None)).collect(),
            offloads: (0..first_link)
                .map(|_| UnsafeCell::new(Offload::NONE))
                .collect(),
            references: (0..first_link).map(|_| AtomicU32::new(0)).collect(),
            remaining: AtomicI64::new(OPEN),
            shared: Shared::default(),
        };
        Some(UnboundPool {
            home: NonNull::from(Box::leak(Box::new(home))),
        })
    }

    /// Bytes of memory of a pool of `count` slots.
    pub(crate) fn bytes(count: u32) -> usize {
        count as usize * SLOT_STRIDE + long::count(count) as usize * LONG_SLOT
    }

    /// Ties the pool to the current thread.
    pub fn bind(self) -> Pool {
        // SAFETY: a home lives at least as long as its pool.
        unsafe { self.home.as_ref() }
            .owner
            .store(current_thread(), Ordering::Relaxed);
        let pool = Pool { home: self.home };
        std::mem::forget(self);
        pool
    }
}

impl Drop for UnboundPool {
    fn drop(&mut self) {
        close(self.home);
    }
}

/// The owner's side of a pool of packet slots. Not `Send`: see [`UnboundPool`].
pub struct Pool {
    home: NonNull<Home>,
}

impl Pool {
    fn home(&self) -> &Home {
        // SAFETY: a home lives at least as long as its pool.
        unsafe { self.home.as_ref() }
    }

    pub(crate) fn home_pointer(&self) -> NonNull<Home> {
        self.home
    }

    fn local(&mut self) -> &mut Vec<u32> {
        // SAFETY: this is the owner thread, since a `Pool` can not leave it, and `&mut self`
        // together with `take_back` never being called while the result is in use makes it
        // the only reference.
        unsafe { &mut *self.home().local.get() }
    }

    /// The number of slots.
    pub fn capacity(&self) -> usize {
        self.home().count as usize
    }

    /// Slots that can be taken now, without those on the remote list.
    pub fn available(&self) -> usize {
        // SAFETY: the owner thread, and the reference ends with this expression.
        unsafe { (*self.home().local.get()).len() }
    }

    /// Moves what other threads returned to the local stack; gives their number.
    pub fn collect(&mut self) -> usize {
        // SAFETY: the owner thread, and `&mut self` means that nobody borrows the stacks.
        unsafe { self.home().collect() }
    }

    /// Makes sure that at least `wanted` slots are available, if the remote list can help.
    pub(crate) fn ensure(&mut self, wanted: usize) -> usize {
        if self.available() < wanted {
            self.collect();
        }
        self.available()
    }

    /// Takes one slot. The caller must return it by [`Pool::give`] or make it a frame.
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.local().pop()
    }

    /// Takes `count` slots, or as many as there are. The caller must return each or make it a
    /// frame.
    pub(crate) fn take_many(&mut self, count: usize) -> std::vec::Drain<'_, u32> {
        let local = self.local();
        let rest = local.len().saturating_sub(count);
        local.drain(rest..)
    }

    /// The address of a taken slot.
    pub(crate) fn slot_address(&self, slot: u32) -> NonNull<u8> {
        self.home().slot_address(slot)
    }

    /// The address of the first slot; slot n is n strides behind it.
    pub(crate) fn slots(&self) -> NonNull<u8> {
        self.home().slots
    }

    /// Returns slots that `take` or a frame's `into_slot` gave.
    pub(crate) fn give(&mut self, slot: u32) {
        self.local().push(slot);
    }

    /// As [`give`](Self::give), for many.
    pub(crate) fn give_many(&mut self, slots: &[u32]) {
        self.local().extend_from_slice(slots);
    }

    /// An empty frame with [`virtroupe_wire::buffer::HEADROOM`] bytes of headroom; `None` if no
    /// slot is free.
    pub fn frame(&mut self) -> Option<Frame> {
        if self.available() == 0 {
            self.collect();
        }
        let slot = self.take()?;
        Some(self.frame_of(slot, SLOT_DATA, 0))
    }

    /// Makes a frame of a taken slot.
    pub(crate) fn frame_of(&self, slot: u32, start: u16, length: u16) -> Frame {
        Frame::in_slot(
            self.home,
            self.home().slot_address(slot),
            slot,
            start,
            length,
        )
    }
}

impl Allocator for Pool {
    type Buffer = Frame;

    fn allocate(&mut self, capacity: usize) -> Option<Frame> {
        if capacity > SLOT_ROOM {
            return None;
        }
        self.frame()
    }

    fn longest_segment(&self) -> usize {
        SLOT_ROOM
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        close(self.home);
    }
}

/// Closes the pool behind `home`; frees the home, or leaves that to the last frame.
fn close(home: NonNull<Home>) {
    // SAFETY: the pool, whose drop calls this once, kept it alive.
    let this = unsafe { home.as_ref() };
    // From here on every frame goes through the remote list, where it finds it closed.
    this.owner.store(0, Ordering::Relaxed);
    let mut returned = 0;
    let mut slot = this.remote.swap(CLOSED, Ordering::AcqRel);
    while let Some(next) = this.next.get(slot as usize) {
        slot = next.load(Ordering::Relaxed);
        returned += 1;
    }
    // SAFETY: the dropping thread holds the pool, so nobody else touches the stacks.
    let (slots, links) = unsafe { ((*this.local.get()).len(), (*this.links.get()).len()) };
    // SAFETY: as above.
    let free = slots + links + unsafe { (*this.long.get()).len() };
    let out = this.tails.len() as i64 - returned - free as i64;
    // `remaining` is OPEN less what came back since the swap; leave exactly what is still out.
    // SAFETY: not used after this call.
    unsafe { Home::forget(home, OPEN - out) };
}

#[cfg(all(test, virtroupe_loom))]
mod interleavings;

#[cfg(all(test, not(virtroupe_loom)))]
pub(crate) mod tests;
