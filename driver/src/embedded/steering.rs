//! Receive steering: the queue on which the driver gets a frame.
//!
//! Like a Linux TAP interface with several queues, the device receives a flow on the queue from
//! which the driver last sent a packet of that flow, and spreads flows that it has not seen sent
//! by their hash (virtio 1.3, section 5.1.6.5.5, 'automatic receive steering').

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// Flows remembered. A new flow takes the place of another with the same low hash bits.
const FLOWS: usize = 4096;

/// The table, shared by all queues of a device. An entry is a relaxed atomic: nothing else is
/// ordered by it, and a lost race only steers a packet as the hash would.
#[derive(Debug)]
pub(super) struct Steering {
    active: AtomicU16,
    /// The upper 24 bits of the flow's hash, and the queue plus one.
    flows: Vec<AtomicU32>,
}

impl Steering {
    pub(super) fn new() -> Self {
        Steering {
            active: AtomicU16::new(1),
            flows: (0..FLOWS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Steers to the first `pairs` queues from now on, and forgets every flow.
    pub(super) fn activate(&self, pairs: u16) {
        for flow in &self.flows {
            flow.store(0, Ordering::Relaxed);
        }
        self.active.store(pairs.max(1), Ordering::Relaxed);
    }

    /// Remembers that the driver sent `frame` from `queue`.
    pub(super) fn sent(&self, frame: &[u8], queue: u16) {
        if self.active.load(Ordering::Relaxed) <= 1 {
            return;
        }
        let hash = flow_hash(frame);
        if let (Some(flow), Ok(queue)) = (self.flow(hash), u8::try_from(queue + 1)) {
            let entry = hash & !0xff | u32::from(queue);
            if flow.load(Ordering::Relaxed) != entry {
                flow.store(entry, Ordering::Relaxed);
            }
        }
    }

    /// The queue on which the driver receives `frame`.
    pub(super) fn steer(&self, frame: &[u8]) -> usize {
        let active = usize::from(self.active.load(Ordering::Relaxed));
        if active <= 1 {
            return 0;
        }
        let hash = flow_hash(frame);
        let entry = self.flow(hash).map_or(0, |f| f.load(Ordering::Relaxed));
        let queue = (entry & 0xff) as usize;
        if queue != 0 && queue <= active && (entry ^ hash) & !0xff == 0 {
            return queue - 1;
        }
        (hash as usize * active) >> 32
    }

    fn flow(&self, hash: u32) -> Option<&AtomicU32> {
        self.flows.get(hash as usize % FLOWS)
    }
}

/// A hash that is the same for both directions of a flow: over addresses and ports of UDP and
/// TCP, over the addresses of other IP packets and of fragments, and over the Ethernet addresses
/// of everything else.
pub(super) fn flow_hash(frame: &[u8]) -> u32 {
    let ethertype = field(frame, 12, 2);
    let (source, destination, protocol) = match ethertype {
        0x0800 => {
            let first = frame.get(14).copied().unwrap_or(0);
            let header = 14 + usize::from(first & 0xf) * 4;
            let protocol = field(frame, 23, 1);
            let fragment = field(frame, 20, 2) & 0x3fff != 0;
            let ports = ports(frame, header, if fragment { 0 } else { protocol });
            (
                mix(field(frame, 26, 4), ports.0),
                mix(field(frame, 30, 4), ports.1),
                protocol,
            )
        }
        0x86dd => {
            let protocol = field(frame, 20, 1);
            let ports = ports(frame, 54, protocol);
            let address = |at| mix(field(frame, at, 8), field(frame, at + 8, 8));
            (
                mix(address(22), ports.0),
                mix(address(38), ports.1),
                protocol,
            )
        }
        other => (field(frame, 6, 6), field(frame, 0, 6), other),
    };
    // A sum does not tell the two ends apart, so a reply has the hash of its request.
    let sum = mix(source, 1).wrapping_add(mix(destination, 1));
    let hash = mix(sum, protocol);
    u32::try_from(hash >> 32).unwrap_or(0)
}

fn ports(frame: &[u8], at: usize, protocol: u64) -> (u64, u64) {
    match protocol {
        6 | 17 => (field(frame, at, 2), field(frame, at + 2, 2)),
        _ => (0, 0),
    }
}

/// `length` bytes at `at` as one number; bytes that are missing count as none.
fn field(frame: &[u8], at: usize, length: usize) -> u64 {
    frame
        .get(at..)
        .unwrap_or_default()
        .iter()
        .take(length)
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A multiplicative mixer (the finaliser of SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(source: u8, destination: u8, ports: (u16, u16)) -> Vec<u8> {
        let mut frame = vec![0; 42];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[23] = 17;
        frame[29] = source;
        frame[33] = destination;
        frame[34..36].copy_from_slice(&ports.0.to_be_bytes());
        frame[36..38].copy_from_slice(&ports.1.to_be_bytes());
        frame
    }

    #[test]
    fn a_reply_arrives_where_its_flow_was_sent() {
        let steering = Steering::new();
        steering.activate(4);
        for port in 0..100 {
            let queue = port % 4;
            steering.sent(&udp(1, 2, (1000 + port, 7)), queue);
            let reply = udp(2, 1, (7, 1000 + port));
            assert_eq!(steering.steer(&reply), usize::from(queue), "port {port}");
        }
    }

    #[test]
    fn unknown_flows_spread_and_no_frame_panics() {
        let steering = Steering::new();
        steering.activate(3);
        let mut counts = [0; 3];
        for port in 0..3000 {
            counts[steering.steer(&udp(1, 2, (port, 7)))] += 1;
        }
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
        let whole = udp(1, 2, (3, 4));
        for length in 0..whole.len() {
            assert!(steering.steer(&whole[..length]) < 3);
        }
    }

    #[test]
    fn one_queue_gets_everything() {
        let steering = Steering::new();
        steering.activate(4);
        steering.sent(&udp(1, 2, (9, 7)), 3);
        steering.activate(1);
        assert_eq!(steering.steer(&udp(2, 1, (7, 9))), 0);
    }
}
