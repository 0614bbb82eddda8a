//! A snapshot of every counter.

use std::fmt;

use virtroupe_actors::stats::CpuStats;
use virtroupe_wire::Drops;

/// Every counter of the stack, at one moment.
///
/// For each cpu, packets that came from the device or from ourselves are `delivered` to a
/// socket, `consumed` by the engines, `rx_dropped`, or held as fragments: see
/// [`HostCounters`](virtroupe_wire::host::HostCounters). What was delivered to a socket, and
/// what a subscription took or got a copy of, is then `delivered` or `undelivered` to its actor,
/// or still on its way there. Segments that were delivered to TCP are accepted by its engine or
/// dropped. For each sender `offered = accepted + refused`. What was
/// `rx_dropped`, undelivered or refused, and what was accepted and could not be sent, is in the
/// drops under its reason.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// One entry for each cpu.
    pub cpus: Vec<CpuStats>,
}

impl Stats {
    /// Frames received from the device.
    pub fn received_frames(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.received_frames).sum()
    }

    /// Frames handed to the device.
    pub fn sent_frames(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.sent_frames).sum()
    }

    /// Drops over all cpus, by reason.
    pub fn drops(&self) -> Drops {
        let mut all = Drops::default();
        for cpu in &self.cpus {
            all += &cpu.shard.drops;
        }
        all
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for cpu in &self.cpus {
            writeln!(
                f,
                "cpu {}: received {} frames ({} copied), sent {}, pool {} of {} free, {} polls, {} sleeps",
                cpu.cpu,
                cpu.received_frames,
                cpu.copied_frames,
                cpu.sent_frames,
                cpu.pool_free,
                cpu.pool_size,
                cpu.poll.polls,
                cpu.poll.sleeps,
            )?;
        }
        for cpu in &self.cpus {
            let tcp = &cpu.shard.tcp;
            if tcp.engine.rx_segments + tcp.engine.tx_segments > 0 {
                writeln!(
                    f,
                    "cpu {}: TCP received {} segments and {} bytes, sent {} and {} ({} again), {} connections, {} opened, {} resets received",
                    cpu.cpu,
                    tcp.engine.rx_segments,
                    tcp.engine.rx_bytes,
                    tcp.engine.tx_segments,
                    tcp.engine.tx_bytes,
                    tcp.engine.retransmits,
                    tcp.usage.connections,
                    tcp.engine.opened,
                    tcp.engine.resets_received,
                )?;
            }
        }
        for (reason, count) in self.drops().nonzero() {
            writeln!(f, "dropped {}: {count}", reason.name())?;
        }
        Ok(())
    }
}
