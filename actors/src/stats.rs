//! What a cpu counts.

use actix::MessageResponse;
use virtroupe_driver::QueuePair;
use virtroupe_wire::Drops;
use virtroupe_wire::tcp::{TcpCounters, TcpState, TcpUsage};

use crate::cpu_actor::CpuRole;
use crate::crossings::CrossingCounters;
use crate::egress::Egress;
use crate::poll::PollCounters;
use crate::ports::Ports;
use crate::shard::{Shard, ShardCounters};

/// Everything that one cpu counted, at one moment.
#[derive(Debug, Clone, Default, MessageResponse)]
pub struct CpuStats {
    /// The logical number of the cpu.
    pub cpu: u16,
    /// What it is to the device.
    pub role: CpuRole,
    /// The queue pairs that it owns, by index.
    pub queues: Vec<u16>,
    /// Frames received from the device.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Received frames that were copied to the heap because the pool was low.
    pub copied_frames: u64,
    /// Frames handed to the device, also for other cpus.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// What crossed between this and other cpus.
    pub crossings: CrossingCounters,
    /// The virtual queue of a proxy.
    pub virtual_queue: Option<VirtualQueueStats>,
    /// Slots in the pools of the cpu.
    pub pool_size: usize,
    /// Slots that are free now.
    pub pool_free: usize,
    /// Counters of the shard and of the engines, with the drops of all of the cpu by reason.
    pub shard: ShardCounters,
    /// Counters of the poll loop.
    pub poll: PollCounters,
}

/// What TCP on one cpu counted.
#[derive(Debug, Clone, Default)]
pub struct TcpStats {
    /// Counters of the engine.
    pub engine: TcpCounters,
    /// How many connections there are, and what memory they take.
    pub usage: TcpUsage,
    /// Segments that were not acted upon, by reason. The drops of the shard have them, too.
    pub drops: Drops,
    /// How many connections are in each state; states without one are left out, and half-open
    /// connections and those in TIME-WAIT, which are records, are in `usage`.
    pub states: Vec<(TcpState, usize)>,
    /// Connections that applications have.
    pub sockets: usize,
    /// Bytes that were offered for sending by [`send`](crate::TcpStream::send) and not taken.
    pub refused_bytes: u64,
    /// Bytes that arrived, and whose receiver had stopped.
    pub undelivered_bytes: u64,
}

/// What a proxy put into its virtual queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VirtualQueueStats {
    /// Frames put in.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Credits in all.
    pub credits: usize,
    /// Credits that are free now.
    pub credits_free: usize,
}

impl CpuStats {
    pub(crate) fn collect(
        role: CpuRole,
        shard: &Shard,
        ports: &mut Ports,
        poll: PollCounters,
    ) -> Self {
        let mut stats = CpuStats {
            cpu: shard.cpu(),
            role,
            shard: shard.counters(),
            poll,
            ..CpuStats::default()
        };
        match &mut ports.egress {
            Egress::Queue(_) => {}
            Egress::Virtual(queue) => {
                queue.pool().collect();
                stats.pool_size = queue.pool().capacity();
                stats.pool_free = queue.pool().available();
                let sent = queue.sent();
                stats.virtual_queue = Some(VirtualQueueStats {
                    frames: sent.frames,
                    bytes: sent.bytes,
                    credits: queue.capacity(),
                    credits_free: queue.room(),
                });
            }
        }
        if let Some(pair) = ports.egress.pair() {
            stats.add_pair(pair);
        }
        for pair in &ports.further {
            stats.add_pair(&mut pair.borrow_mut());
        }
        if let Some(crossings) = &mut ports.crossings {
            stats.crossings = crossings.counters();
            stats.shard.drops += &stats.crossings.drops;
        }
        stats
    }

    fn add_pair(&mut self, pair: &mut QueuePair) {
        pair.pool().collect();
        let (receive, transmit) = (*pair.receive_counters(), *pair.transmit_counters());
        let (pool_size, pool_free) = pair.pool_level();
        self.queues.push(pair.index());
        self.received_frames += receive.frames;
        self.received_bytes += receive.bytes;
        self.copied_frames += receive.copied;
        self.sent_frames += transmit.frames;
        self.sent_bytes += transmit.bytes;
        self.pool_size += pool_size;
        self.pool_free += pool_free;
        self.shard.drops += &receive.drops;
        self.shard.drops += &transmit.drops;
    }
}
