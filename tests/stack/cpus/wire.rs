//! The other side of a device's wire, in the hands of the test: it says on which queue a frame
//! arrives, and sees on which queue each frame was sent.
//!
//! The device has no thread: it moves only when the test steps it. So what is under way stays
//! under way until the test wants otherwise.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use etherparse::PacketBuilder;
use virtroupe::driver::embedded::{
    Attachment, Backend, Count, Deliver, Delivery, EmbeddedConfig, EmbeddedHandle, EmbeddedStepper,
    EmbeddedTransport, NetHeader, Packet, Port, monotonic_now,
};
use virtroupe::driver::transport::TransportError;
use virtroupe::wire::Instant;
use virtroupe::wire::host::{Neighbor, Route};
use virtroupe::wire::placement::Placement;
use virtroupe::{Config, MacAddr, Stack, Stats, Supervisor};

use crate::stack::support::{LIMIT, config, within};

/// The stack's Ethernet address, and the peer's.
pub const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// A frame as the device sent it, and on which queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub queue: u16,
    pub frame: Vec<u8>,
}

/// The wire: a backend that the test holds.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// For each queue what waits to be received.
    inbound: Vec<VecDeque<Vec<u8>>>,
    sent: Vec<Sent>,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under the lock")
    }

    /// Lets `frame` arrive on `queue`.
    pub fn offer(&self, queue: u16, frame: Vec<u8>) {
        self.lock().inbound[usize::from(queue)].push_back(frame);
    }

    /// Takes what was sent since the last call, each queue's frames in order.
    pub fn take_sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.lock().sent)
    }

    /// Frames that the stack has not received yet.
    pub fn waiting(&self) -> usize {
        self.lock().inbound.iter().map(VecDeque::len).sum()
    }
}

impl Backend for Wire {
    fn name(&self) -> String {
        "wire".into()
    }

    fn open(self: Box<Self>, device: &Attachment) -> Result<Vec<Box<dyn Port>>, TransportError> {
        self.lock().inbound = vec![VecDeque::new(); usize::from(device.pairs)];
        let port = |queue| -> Box<dyn Port> {
            let wire = Wire::clone(&self);
            Box::new(WirePort { queue, wire })
        };
        Ok((0..device.pairs).map(port).collect())
    }
}

struct WirePort {
    queue: u16,
    wire: Wire,
}

impl Port for WirePort {
    fn transmit(&mut self, _: Instant, burst: &mut [Packet]) -> Count {
        let sent = burst.iter().map(|packet| Sent {
            queue: self.queue,
            frame: packet.bytes.clone(),
        });
        self.wire.lock().sent.extend(sent);
        Count::default()
    }

    fn receive(
        &mut self,
        _: Instant,
        limit: usize,
        deliver: &mut Deliver<'_>,
    ) -> std::io::Result<usize> {
        let mut state = self.wire.lock();
        let waiting = &mut state.inbound[usize::from(self.queue)];
        let mut moved = 0;
        while moved < limit
            && let Some(frame) = waiting.front()
            && deliver(&NetHeader::default(), frame) == Delivery::Taken
        {
            waiting.pop_front();
            moved += 1;
        }
        Ok(moved)
    }
}

/// A stack, 10.0.0.1/24, on a device whose wire the test holds.
///
/// 10.0.0.9 is a router at [`PEER_MAC`] that leads to everybody else.
pub struct Rig {
    pub stack: Stack,
    pub wire: Wire,
    pub device: EmbeddedHandle,
    stepper: EmbeddedStepper,
}

/// The configuration of a rig. Nobody is given up for being slow: a loaded machine changes
/// nothing.
pub fn rig_config(queues: u16, cpus: u16) -> Config {
    let mut config = config(1).cpus(cpus).queues(queues);
    config.host.neighbors.push(Neighbor {
        address: "10.0.0.9".parse().expect("an address"),
        mac: PEER_MAC,
    });
    config.host.routes.push(Route {
        destination: "10.1.0.0/16".parse().expect("a prefix"),
        gateway: Some("10.0.0.9".parse().expect("an address")),
    });
    config.poll.patience_us = 60_000_000;
    config.options.queue_size = 256;
    config.options.pool_frames = 1024;
    config
}

impl Rig {
    pub async fn start(config: Config) -> Rig {
        let device = EmbeddedConfig {
            mac: MAC,
            queue_pairs: config.options.queue_pairs,
            ..EmbeddedConfig::default()
        };
        let wire = Wire::default();
        let (transport, device, stepper) =
            EmbeddedTransport::inline(device, wire.clone()).expect("a device");
        let stack = within(Supervisor::start_on(Box::new(transport), config)).await;
        Rig {
            stack: stack.expect("the stack starts"),
            wire,
            device,
            stepper,
        }
    }

    /// Lets the device work once.
    pub fn step(&self) -> usize {
        self.stepper.step(monotonic_now())
    }

    /// Lets the device work until `done`.
    pub async fn until(&self, mut done: impl FnMut(&Rig) -> bool) {
        within(async {
            while !done(self) {
                if self.step() == 0 {
                    tokio::time::sleep(Duration::from_micros(50)).await;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Lets the device work until `done`, which asks the stack.
    pub async fn until_stats(&self, mut done: impl FnMut(&Stats) -> bool) {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            while self.step() > 0 {}
            let stats = self.stack.stats().await.expect("running");
            if done(&stats) {
                break;
            }
            let device = self.device.stats();
            let is_late = std::time::Instant::now() > deadline;
            assert!(!is_late, "not within the limit: {stats:#?}\n{device:?}");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    /// The tables of placement, as `cpu` knows them.
    pub async fn placement(&self, cpu: u16) -> Option<Placement> {
        let placement = self
            .stack
            .run_on(cpu, |local| async move { local.placement() });
        within(placement).await.expect("the stack runs")
    }
}

/// The flow number `flow`'s address and port.
pub fn peer(flow: u32) -> SocketAddrV4 {
    SocketAddrV4::new((0x0a01_0000 + flow / 4).into(), 2000 + (flow % 4) as u16)
}

/// The inverse of [`peer`].
pub fn flow_of(peer: SocketAddrV4) -> u32 {
    (peer.ip().to_bits() - 0x0a01_0000) * 4 + u32::from(peer.port() - 2000)
}

/// A datagram to the stack, in a frame from the router.
pub fn udp_frame(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(PEER_MAC.0, MAC.0)
        .ipv4(source.ip().octets(), destination.ip().octets(), 64)
        .udp(source.port(), destination.port());
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("it fits");
    frame
}

/// Source, destination and payload of a datagram in a frame; `None` for anything else.
pub fn parse_udp(frame: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, &[u8])> {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else {
        return None;
    };
    let Some(etherparse::TransportSlice::Udp(udp)) = &packet.transport else {
        return None;
    };
    let header = ip.header();
    Some((
        SocketAddrV4::new(header.source_addr(), udp.source_port()),
        SocketAddrV4::new(header.destination_addr(), udp.destination_port()),
        udp.payload(),
    ))
}
