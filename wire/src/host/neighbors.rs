//! The neighbour table: which Ethernet address belongs to which IPv4 address on the link.
//!
//! The states are those of RFC 4861 section 7.3.2, with ARP requests as the probes:
//!
//! ```text
//!            packet                  answer                time
//! (nothing) --------> Incomplete --------------> Reachable -----> Stale
//!                        | no answer                 ^              | packet
//!                        v                           |   answer     v
//!                     Failed <------------------------------------ Probe
//! ```
//!
//! What is believed: an answer to a question that is open (Incomplete or Probe); the sender of a
//! request that asks for us (it becomes Stale, so that it is verified on first use); and a
//! gratuitous packet, but only about a neighbour that is already in the table.
//!
//! Eviction: a full table looks at up to 64 entries from a hand that moves on, and evicts Failed
//! before Stale before Reachable, the longest unused first. Static, Incomplete and Probe entries
//! stay. A neighbour that merely asked for us evicts only Failed and Stale ones, so that a flood
//! of requests can not push out those that we talk to. At most half the table is Incomplete.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::config::Limits;
use super::random::{KeyedHash, Random};
use crate::drops::DropReason;
use crate::mac::MacAddr;
use crate::time::Instant;
use crate::udp::UdpSocketId;

/// Entries that one eviction looks at.
const EVICTION_STEPS: usize = 64;

/// The state of a neighbour, as statistics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeighborState {
    /// Set by the configuration; never asked for, never changed.
    Static,
    /// Asked for; packets wait.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Known, but not verified lately; asked again when next used.
    Stale,
    /// Known and asked again; packets go to the known address.
    Probe,
    /// Did not answer; packets are refused for a while.
    Failed,
}

/// A neighbour, as statistics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborEntry {
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address, if known.
    pub mac: Option<MacAddr>,
    /// Its state.
    pub state: NeighborState,
}

/// A frame that waits for a neighbour; only its Ethernet destination is missing.
#[derive(Debug)]
pub(super) struct Waiting<B> {
    pub(super) frame: B,
    /// As how many the queue counts it: a train as its datagrams, since it holds their memory.
    pub(super) frames: usize,
    /// Whom to tell if the neighbour does not answer.
    pub(super) socket: Option<Sender>,
}

/// The socket that a frame came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) id: UdpSocketId,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// How to reach a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolution {
    /// Send to this address. It may be remembered until `until` unless the table's generation
    /// changes; with `ask`, also send it a request.
    Known {
        mac: MacAddr,
        until: Instant,
        ask: bool,
    },
    /// Enqueue up to `room` frames; with `ask`, also broadcast a request.
    Wait { room: usize, ask: bool },
}

/// What is due at a deadline.
#[derive(Debug)]
pub(super) enum Due<B> {
    /// Ask again: broadcast, or the known address.
    Ask(Ipv4Addr, Option<MacAddr>),
    /// The neighbour did not answer; these packets waited for it.
    Failed(Vec<Waiting<B>>),
}

#[derive(Debug)]
enum State<B> {
    Free,
    Static,
    Incomplete {
        attempts: u32,
        deadline: Instant,
        queue: Vec<Waiting<B>>,
    },
    Reachable {
        until: Instant,
    },
    Stale,
    Probe {
        attempts: u32,
        deadline: Instant,
    },
    Failed {
        until: Instant,
    },
}

#[derive(Debug)]
struct Entry<B> {
    address: Ipv4Addr,
    mac: MacAddr,
    used: Instant,
    state: State<B>,
}

/// The neighbour table.
#[derive(Debug)]
pub(super) struct Neighbors<B> {
    index: HashMap<Ipv4Addr, usize, KeyedHash>,
    entries: Vec<Entry<B>>,
    free: Vec<usize>,
    /// Deadlines of Incomplete and Probe entries.
    deadlines: BTreeSet<(Instant, usize)>,
    hand: usize,
    /// Entries that are neither Free nor Static.
    dynamic: usize,
    incomplete: usize,
    /// Changes whenever something that `Resolution::Known` said may be wrong.
    generation: u64,
    most: usize,
    queue: usize,
    attempts: u32,
    interval: Duration,
    reachable: Duration,
    unreachable: Duration,
}

impl<B> Neighbors<B> {
    pub(super) fn new(limits: &Limits, random: &mut Random) -> Self {
        Neighbors {
            index: HashMap::with_hasher(random.hasher()),
            entries: Vec::new(),
            free: Vec::new(),
            deadlines: BTreeSet::new(),
            hand: 0,
            dynamic: 0,
            incomplete: 0,
            generation: 0,
            most: limits.neighbors,
            queue: limits.neighbor_queue,
            attempts: limits.neighbor_attempts,
            interval: limits.neighbor_interval,
            reachable: limits.neighbor_reachable,
            unreachable: limits.neighbor_unreachable,
        }
    }

    /// Adds a static neighbour.
    pub(super) fn insert_static(&mut self, address: Ipv4Addr, mac: MacAddr) {
        self.insert(Instant::ZERO, address, mac, State::Static);
    }

    /// A number that changes whenever a remembered resolution may be wrong.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The next deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Every neighbour, in no particular order.
    pub(super) fn snapshot(&self) -> Vec<NeighborEntry> {
        self.entries.iter().filter_map(Entry::snapshot).collect()
    }

    /// How to reach the neighbour `address`, for a packet that is about to be sent.
    pub(super) fn resolve(
        &mut self,
        now: Instant,
        address: Ipv4Addr,
    ) -> Result<Resolution, DropReason> {
        let slot = match self.index.get(&address) {
            Some(slot) => *slot,
            None => return self.start(now, address),
        };
        let (interval, queue) = (self.interval, self.queue);
        let Some(entry) = self.entries.get_mut(slot) else {
            return Err(DropReason::NeighborUnreachable);
        };
        entry.used = now;
        let mac = entry.mac;
        match &entry.state {
            State::Static => Ok(Resolution::known(mac, Instant::from_nanos(u64::MAX))),
            State::Reachable { until } if now < *until => Ok(Resolution::known(mac, *until)),
            State::Reachable { .. } | State::Stale => {
                let deadline = now + interval;
                entry.state = State::Probe {
                    attempts: 1,
                    deadline,
                };
                self.deadlines.insert((deadline, slot));
                Ok(Resolution::Known {
                    mac,
                    until: now,
                    ask: true,
                })
            }
            State::Probe { .. } => Ok(Resolution::known(mac, now)),
            State::Incomplete { queue: waiting, .. } => Ok(Resolution::Wait {
                room: queue.saturating_sub(waiting.iter().map(|waiting| waiting.frames).sum()),
                ask: false,
            }),
            State::Failed { until } if now < *until => Err(DropReason::NeighborUnreachable),
            State::Failed { .. } | State::Free => {
                self.remove(slot);
                self.start(now, address)
            }
        }
    }

    /// Makes a frame wait for `address`, for which [`resolve`](Self::resolve) said `Wait`.
    /// Gives it back if there is no such entry.
    pub(super) fn enqueue(&mut self, address: Ipv4Addr, waiting: Waiting<B>) -> Option<Waiting<B>> {
        match self.entry_mut(address).map(|entry| &mut entry.state) {
            Some(State::Incomplete { queue, .. }) => {
                queue.push(waiting);
                None
            }
            _ => Some(waiting),
        }
    }

    /// A neighbour answered. Returns the frames that waited for it, or `None` if nothing was
    /// asked: then nothing is believed.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        address: Ipv4Addr,
        mac: MacAddr,
        random: &mut Random,
    ) -> Option<Vec<Waiting<B>>> {
        let slot = *self.index.get(&address)?;
        let state = &self.entries.get(slot)?.state;
        if !matches!(state, State::Incomplete { .. } | State::Probe { .. }) {
            return None;
        }
        let half = self.reachable / 2;
        let spread = u32::try_from(self.reachable.as_millis()).unwrap_or(u32::MAX);
        let until = now + half + Duration::from_millis(random.below(spread).into());
        Some(self.settle(slot, mac, State::Reachable { until }))
    }

    /// A neighbour told its address unasked, about an entry that exists. Returns the frames
    /// that waited for it, or `None` if there is no entry for it (none is made) or nothing new.
    pub(super) fn update(&mut self, address: Ipv4Addr, mac: MacAddr) -> Option<Vec<Waiting<B>>> {
        let slot = *self.index.get(&address)?;
        let entry = self.entries.get(slot)?;
        let is_new = match entry.state {
            State::Free | State::Static => false,
            State::Incomplete { .. } | State::Failed { .. } => true,
            State::Reachable { .. } | State::Stale | State::Probe { .. } => entry.mac != mac,
        };
        is_new.then(|| self.settle(slot, mac, State::Stale))
    }

    /// A neighbour asked for us, and so told its own address: like [`update`](Self::update), and
    /// makes an entry if there is room for one.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        address: Ipv4Addr,
        mac: MacAddr,
    ) -> Option<Vec<Waiting<B>>> {
        if self.index.contains_key(&address) {
            return self.update(address, mac);
        }
        if self.dynamic >= self.most && !self.evict(false) {
            return None;
        }
        self.insert(now, address, mac, State::Stale);
        Some(Vec::new())
    }

    /// What is due at `now`; called until it returns `None`.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due<B>> {
        let (deadline, slot) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop_first();
        let next = now + self.interval;
        let failed = State::Failed {
            until: now + self.unreachable,
        };
        let entry = self.entries.get_mut(slot)?;
        let (attempts, deadline, known) = match &mut entry.state {
            State::Incomplete {
                attempts, deadline, ..
            } => (attempts, deadline, None),
            State::Probe { attempts, deadline } => (attempts, deadline, Some(entry.mac)),
            _ => return self.due(now),
        };
        if *attempts < self.attempts {
            *attempts += 1;
            *deadline = next;
            let address = entry.address;
            self.deadlines.insert((next, slot));
            return Some(Due::Ask(address, known));
        }
        let mac = entry.mac;
        Some(Due::Failed(self.settle(slot, mac, failed)))
    }

    /// Moves the entry in `slot` to `state` and returns the frames that waited in it.
    fn settle(&mut self, slot: usize, mac: MacAddr, state: State<B>) -> Vec<Waiting<B>> {
        self.generation += 1;
        let Some(entry) = self.entries.get_mut(slot) else {
            return Vec::new();
        };
        entry.mac = mac;
        match std::mem::replace(&mut entry.state, state) {
            State::Incomplete {
                deadline, queue, ..
            } => {
                self.deadlines.remove(&(deadline, slot));
                self.incomplete -= 1;
                queue
            }
            State::Probe { deadline, .. } => {
                self.deadlines.remove(&(deadline, slot));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Begins to resolve `address`, which is not in the table.
    fn start(&mut self, now: Instant, address: Ipv4Addr) -> Result<Resolution, DropReason> {
        let is_full = self.dynamic >= self.most;
        if self.incomplete >= self.most.div_ceil(2) || (is_full && !self.evict(true)) {
            return Err(DropReason::NeighborTableFull);
        }
        let deadline = now + self.interval;
        let state = State::Incomplete {
            attempts: 1,
            deadline,
            queue: Vec::new(),
        };
        let slot = self.insert(now, address, MacAddr::default(), state);
        self.incomplete += 1;
        self.deadlines.insert((deadline, slot));
        Ok(Resolution::Wait {
            room: self.queue,
            ask: true,
        })
    }

    fn insert(&mut self, now: Instant, address: Ipv4Addr, mac: MacAddr, state: State<B>) -> usize {
        if !matches!(state, State::Static) {
            self.dynamic += 1;
        }
        let entry = Entry {
            address,
            mac,
            used: now,
            state,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.entries.len(),
        };
        match self.entries.get_mut(slot) {
            Some(free) => *free = entry,
            None => self.entries.push(entry),
        }
        self.index.insert(address, slot);
        slot
    }

    /// Removes a dynamic entry in which nothing waits.
    fn remove(&mut self, slot: usize) {
        if let Some(entry) = self.entries.get_mut(slot) {
            entry.state = State::Free;
            self.index.remove(&entry.address);
            self.free.push(slot);
            self.dynamic -= 1;
            self.generation += 1;
        }
    }

    /// Removes the entry that is missed least, by the rule at the top of this file.
    fn evict(&mut self, may_evict_reachable: bool) -> bool {
        let mut best: Option<((u8, Instant), usize)> = None;
        for _ in 0..EVICTION_STEPS.min(self.entries.len()) {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.entries.len().max(1);
            let Some(entry) = self.entries.get(slot) else {
                continue;
            };
            let class = match entry.state {
                State::Failed { .. } => 0,
                State::Stale => 1,
                State::Reachable { .. } if may_evict_reachable => 2,
                _ => continue,
            };
            let rank = (class, entry.used);
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, slot));
            }
        }
        match best {
            Some((_, slot)) => {
                self.remove(slot);
                true
            }
            None => false,
        }
    }

    fn entry_mut(&mut self, address: Ipv4Addr) -> Option<&mut Entry<B>> {
        let slot = *self.index.get(&address)?;
        self.entries.get_mut(slot)
    }
}

impl Resolution {
    fn known(mac: MacAddr, until: Instant) -> Self {
        Resolution::Known {
            mac,
            until,
            ask: false,
        }
    }
}

impl<B> Entry<B> {
    fn snapshot(&self) -> Option<NeighborEntry> {
        let (state, is_known) = match self.state {
            State::Free => return None,
            State::Static => (NeighborState::Static, true),
            State::Incomplete { .. } => (NeighborState::Incomplete, false),
            State::Reachable { .. } => (NeighborState::Reachable, true),
            State::Stale => (NeighborState::Stale, true),
            State::Probe { .. } => (NeighborState::Probe, true),
            State::Failed { .. } => (NeighborState::Failed, false),
        };
        Some(NeighborEntry {
            address: self.address.into(),
            mac: is_known.then_some(self.mac),
            state,
        })
    }
}
