//! Sockets that are not bound on every cpu: their flows do not go by the hash alone.
//!
//! [`Exceptions`] knows on which cpus each local address and port is bound. What is bound on all
//! of them needs no exception, nor does what is bound on none (there is nobody to reach). Between
//! lie a socket that lives on one cpu, which gets everything, and a socket of several cpus, of
//! which one more or less is there at the moment: each flow goes to its owner by hash if that is
//! one of them, and otherwise always to the same other one.
//!
//! When a binding is bound on one cpu more, flows come to be that cpu's. Those that are a connection
//! of another cpu by then stay there: it has them [kept](Exceptions::keep).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::PlacementError;
use super::flow::{Flow, Transport};

/// The most local addresses and ports that are known at once.
pub const MOST_BINDINGS: usize = 1 << 17;

/// The most flows that each cpu keeps at once. A bound of each cpu's own, so that no cpu's flows are
/// in the way of another's, and all copies of the exceptions have the same, whoever was heard first.
pub const MOST_KEPT: usize = 1 << 16;

/// Ports in one page of a table.
const PAGE: usize = 256;

/// The local end of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// UDP or TCP.
    pub transport: Transport,
    /// The local port.
    pub port: u16,
    /// The local address; unspecified (0.0.0.0 or ::) means every address of its version.
    pub address: IpAddr,
}

/// On which cpus sockets are bound, in a form that is quick to ask. Each shard has a copy; all
/// copies are told of every [`bind`](Exceptions::bind) and [`unbind`](Exceptions::unbind), in any
/// order as long as those of one binding on one cpu keep theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceptions {
    cpus: u16,
    bindings: BTreeMap<Binding, CpuSet>,
    /// By transport and version: what `bindings` says about each port, in short.
    tables: [PortTable; 4],
    /// Ports of all tables that are not `ByHash`.
    active: usize,
    /// Flows that stay on a cpu whatever the bindings say.
    kept: HashMap<Flow, u16>,
    /// What each cpu has kept, by transport, version and local port, and then by cpu. None is empty.
    kept_at: BTreeMap<(usize, u16, u16), Kept>,
    /// How many flows each cpu keeps. No count is 0.
    kept_by: BTreeMap<u16, usize>,
}

/// Flows to one port that one cpu keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    /// What was asked for; some were let go since, or found no room.
    flows: Arc<[Flow]>,
    /// How many are kept.
    count: usize,
}

/// The cpus of one binding, in ascending order. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CpuSet(Vec<u16>);

/// What to do with a flow to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Rule {
    /// Every binding there is is on all cpus.
    #[default]
    ByHash,
    /// The only binding is to every address, on this cpu.
    To(u16),
    /// It depends on address or hash: `bindings` knows.
    Ask,
}

/// A [`Rule`] for each port, in pages that are made when a rule in them first differs from
/// `ByHash`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PortTable {
    pages: Vec<Option<Box<[Rule; PAGE]>>>,
}

impl Exceptions {
    /// No bindings, on `cpus` cpus.
    pub fn new(cpus: u16) -> Self {
        Exceptions {
            cpus,
            bindings: BTreeMap::new(),
            tables: std::array::from_fn(|_| PortTable::new()),
            active: 0,
            kept: HashMap::new(),
            kept_at: BTreeMap::new(),
            kept_by: BTreeMap::new(),
        }
    }

    /// Whether every flow goes by its hash.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.active == 0
    }

    /// The cpus on which `binding` is bound, in ascending order.
    pub fn bound_on(&self, binding: Binding) -> &[u16] {
        self.bindings
            .get(&binding)
            .map_or(&[], |set| set.0.as_slice())
    }

    /// A socket is bound to `binding` on `cpu`. No change if that was known.
    ///
    /// # Errors
    /// `UnknownCpu` if there is no such cpu, `TooManyBindings` if [`MOST_BINDINGS`] are known.
    pub fn bind(&mut self, binding: Binding, cpu: u16) -> Result<(), PlacementError> {
        if cpu >= self.cpus {
            let cpus = self.cpus;
            return Err(PlacementError::UnknownCpu { cpu, cpus });
        }
        if self.bindings.len() >= MOST_BINDINGS && !self.bindings.contains_key(&binding) {
            return Err(PlacementError::TooManyBindings);
        }
        let set = self.bindings.entry(binding).or_insert(CpuSet(Vec::new()));
        set.insert(cpu);
        self.refresh(binding);
        Ok(())
    }

    /// The socket that is bound to `binding` on `cpu` was closed. No change if none is known.
    pub fn unbind(&mut self, binding: Binding, cpu: u16) {
        if let Some(set) = self.bindings.get_mut(&binding) {
            set.0.retain(|other| *other != cpu);
            if set.0.is_empty() {
                self.bindings.remove(&binding);
            }
            self.refresh(binding);
        }
    }

    /// Has exactly `flows`, all to one local port over one transport and IP version, stay on `cpu` of
    /// those to that port: connections that it had before somebody else was bound there. Returns
    /// how many there is room for ([`MOST_KEPT`]): those behind go by binding and hash. Takes time
    /// in proportion to the flows of the cpu at this port, before and after.
    pub fn keep(
        &mut self,
        transport: Transport,
        port: u16,
        is_ipv6: bool,
        cpu: u16,
        flows: Arc<[Flow]>,
    ) -> usize {
        let key = (table(transport, is_ipv6), port, cpu);
        if let Some(old) = self.kept_at.remove(&key) {
            self.forget(&old.flows, cpu);
        }
        let room = MOST_KEPT.saturating_sub(self.kept_by.get(&cpu).copied().unwrap_or(0));
        let mut count = 0;
        for flow in flows.iter().take(room) {
            // The last that says so has it.
            match self.kept.insert(*flow, cpu) {
                Some(other) if other == cpu => {}
                Some(other) => {
                    self.count_forgotten(flow, other);
                    count += 1;
                }
                None => count += 1,
            }
        }
        let taken = flows.len().min(room);
        if count > 0 {
            *self.kept_by.entry(cpu).or_default() += count;
            self.kept_at.insert(key, Kept { flows, count });
        }
        self.refresh(Binding::at(transport, port, is_ipv6));
        taken
    }

    /// Whether `flow` stays on `cpu` whatever the bindings say.
    pub fn is_kept(&self, flow: &Flow, cpu: u16) -> bool {
        self.kept.get(flow) == Some(&cpu)
    }

    /// `flows` of `cpu` are over: what comes for them goes by binding and hash again. What is not
    /// kept there is let alone.
    pub fn let_go(&mut self, cpu: u16, flows: &[Flow]) {
        for flow in flows {
            if self.is_kept(flow, cpu) {
                self.kept.remove(flow);
                self.count_forgotten(flow, cpu);
                if let Some((transport, port, is_ipv6)) = flow.local_end() {
                    self.refresh(Binding::at(transport, port, is_ipv6));
                }
            }
        }
    }

    /// Forgets those of `flows` that are kept on `cpu`.
    fn forget(&mut self, flows: &[Flow], cpu: u16) {
        for flow in flows {
            if self.is_kept(flow, cpu) {
                self.kept.remove(flow);
                decrement(&mut self.kept_by, cpu);
            }
        }
    }

    /// One flow less is kept on `cpu`.
    fn count_forgotten(&mut self, flow: &Flow, cpu: u16) {
        decrement(&mut self.kept_by, cpu);
        let Some((transport, port, is_ipv6)) = flow.local_end() else {
            return;
        };
        let key = (table(transport, is_ipv6), port, cpu);
        if let Some(kept) = self.kept_at.get_mut(&key) {
            kept.count = kept.count.saturating_sub(1);
            if kept.count == 0 {
                self.kept_at.remove(&key);
            }
        }
    }

    /// The cpu that gets what arrives at `port` of the local address of `flow`, of `hash`, whose
    /// owner by hash is `owner`.
    #[inline]
    pub(super) fn resolve(
        &self,
        transport: Transport,
        port: u16,
        flow: impl FnOnce() -> Flow,
        hash: u32,
        owner: impl FnOnce() -> u16,
    ) -> u16 {
        if self.is_empty() {
            return owner();
        }
        let flow = flow();
        let table = self.tables.get(table(transport, flow.is_ipv6()));
        match table.map_or(Rule::ByHash, |table| table.get(port)) {
            Rule::ByHash => owner(),
            Rule::To(cpu) => cpu,
            Rule::Ask => self.ask(transport, port, &flow, hash, owner()),
        }
    }

    #[inline(never)]
    fn ask(&self, transport: Transport, port: u16, flow: &Flow, hash: u32, owner: u16) -> u16 {
        match self.kept.get(flow) {
            Some(cpu) => *cpu,
            None => self.by_binding(transport, port, flow.local_address(), hash, owner),
        }
    }

    /// As [`resolve`](Self::resolve), for a flow that begins now: without regard to what is kept.
    ///
    /// A socket bound to the address itself comes before one bound to every address, as it does
    /// when the datagram is delivered.
    pub(super) fn by_binding(
        &self,
        transport: Transport,
        port: u16,
        address: IpAddr,
        hash: u32,
        owner: u16,
    ) -> u16 {
        let binding = Binding {
            transport,
            port,
            address,
        };
        self.bindings
            .get(&binding)
            .or_else(|| self.bindings.get(&binding.of_every_address()))
            .map_or(owner, |set| set.choose(hash, owner))
    }

    /// Brings the rule of the port of `binding` up to date.
    fn refresh(&mut self, binding: Binding) {
        let rule = self.rule(binding);
        if let Some(table) = self
            .tables
            .get_mut(table(binding.transport, binding.address.is_ipv6()))
        {
            let old = table.set(binding.port, rule);
            self.active += usize::from(rule != Rule::ByHash);
            self.active -= usize::from(old != Rule::ByHash);
        }
    }

    fn rule(&self, binding: Binding) -> Rule {
        let table = table(binding.transport, binding.address.is_ipv6());
        let (first, last) = ((table, binding.port, 0), (table, binding.port, u16::MAX));
        if self.kept_at.range(first..=last).next().is_some() {
            return Rule::Ask;
        }
        let every = binding.of_every_address();
        // Addresses are in order within a version, the unspecified one first.
        let last = Binding {
            address: last_address(binding.address),
            ..binding
        };
        let mut at_port = self.bindings.range(every..=last);
        if at_port
            .clone()
            .all(|(_, set)| set.0.len() == usize::from(self.cpus))
        {
            return Rule::ByHash;
        }
        match (at_port.next(), at_port.next()) {
            (Some((first, CpuSet(cpus))), None) if *first == every => match cpus.as_slice() {
                [cpu] => Rule::To(*cpu),
                _ => Rule::Ask,
            },
            _ => Rule::Ask,
        }
    }
}

impl Binding {
    /// The binding to every address of a version.
    fn at(transport: Transport, port: u16, is_ipv6: bool) -> Self {
        let address = match is_ipv6 {
            false => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            true => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        Binding {
            transport,
            port,
            address,
        }
    }

    fn of_every_address(self) -> Self {
        Binding::at(self.transport, self.port, self.address.is_ipv6())
    }
}

impl CpuSet {
    fn insert(&mut self, cpu: u16) {
        if let Err(at) = self.0.binary_search(&cpu) {
            self.0.insert(at, cpu);
        }
    }

    /// `owner` if it is a member, and otherwise a member that follows from `hash`.
    fn choose(&self, hash: u32, owner: u16) -> u16 {
        if self.0.binary_search(&owner).is_ok() {
            return owner;
        }
        // The upper bits; the lower ones said that the owner is none of these.
        let index = (u64::from(hash) * self.0.len() as u64) >> 32;
        self.0.get(index as usize).copied().unwrap_or(owner)
    }
}

impl PortTable {
    fn new() -> Self {
        PortTable {
            pages: (0..=usize::from(u16::MAX) / PAGE).map(|_| None).collect(),
        }
    }

    #[inline]
    fn get(&self, port: u16) -> Rule {
        let port = usize::from(port);
        match self.pages.get(port / PAGE) {
            Some(Some(page)) => page.get(port % PAGE).copied().unwrap_or_default(),
            _ => Rule::ByHash,
        }
    }

    /// Returns the rule before.
    fn set(&mut self, port: u16, rule: Rule) -> Rule {
        let port = usize::from(port);
        let Some(page) = self.pages.get_mut(port / PAGE) else {
            return Rule::ByHash;
        };
        if rule == Rule::ByHash && page.is_none() {
            return Rule::ByHash;
        }
        let page = page.get_or_insert_with(|| Box::new([Rule::ByHash; PAGE]));
        page.get_mut(port % PAGE)
            .map_or(Rule::ByHash, |entry| std::mem::replace(entry, rule))
    }
}

/// One less of `cpu`.
fn decrement(counts: &mut BTreeMap<u16, usize>, cpu: u16) {
    if let Some(count) = counts.get_mut(&cpu) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&cpu);
        }
    }
}

/// The index of a table.
#[inline]
fn table(transport: Transport, is_ipv6: bool) -> usize {
    usize::from(transport == Transport::Tcp) * 2 + usize::from(is_ipv6)
}

/// The last address of the version of `address`.
fn last_address(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([u8::MAX; 4]),
        IpAddr::V6(_) => IpAddr::from([u8::MAX; 16]),
    }
}

#[cfg(test)]
mod tests;
