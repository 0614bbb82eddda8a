use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use virtroupe_driver::embedded::{
    EmbeddedConfig, EmbeddedStepper, EmbeddedTransport, Link, LinkConfig,
};
use virtroupe_driver::memory::HugePages;
use virtroupe_driver::{Device, DeviceOptions, FeatureBits};
use virtroupe_wire::arp::{ArpOperation, ArpPacket};
use virtroupe_wire::ethernet::{self, EthernetHeader};
use virtroupe_wire::host::HostConfig;
use virtroupe_wire::offload::{ChecksumState, PartialChecksum, SegmentKind, Segmentation};
use virtroupe_wire::{Buffer, MacAddr, Offload, Payload};

use super::*;
use crate::clock::Clock;
use crate::egress::QueueEgress;
use crate::ports::Ports;
use crate::registry::PortRegistry;
use crate::shard::{ShardParts, TxReadyPolicy};

const OUR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// A shard with a queue of a device that completes and cuts nothing.
struct Rig {
    shard: Shard,
    stepper: EmbeddedStepper,
    _device: Device,
}

impl Rig {
    fn new(queue_size: u16) -> Self {
        let (end, _other) = Link::pair(LinkConfig::default());
        let config = EmbeddedConfig {
            features: FeatureBits::VERSION_1 | FeatureBits::MAC,
            mac: OUR,
            ..EmbeddedConfig::default()
        };
        let (transport, _, stepper) = EmbeddedTransport::inline(config, end).expect("a device");
        let options = DeviceOptions {
            queue_size,
            huge_pages: HugePages::Never,
            ..DeviceOptions::default()
        };
        let (device, mut pairs) = Device::initialize(Box::new(transport), &options).expect("ready");
        let host = HostConfig {
            mac: OUR,
            addresses: vec!["10.0.0.1/24".parse().expect("an address")],
            ..HostConfig::default()
        };
        let pair = pairs.pop().expect("a pair").bind();
        let shard = Shard::new(ShardParts {
            cpu: 0,
            clock: Clock::new(),
            features: device.features().clone(),
            host: Host::new(host, 1).expect("valid settings"),
            tcp: None,
            tcp_seed: 1,
            ports: Rc::new(RefCell::new(Ports {
                egress: Egress::Queue(Box::new(QueueEgress::new(pair, Vec::new()))),
                further: Vec::new(),
                crossings: None,
            })),
            registry: PortRegistry::default(),
            patience: Duration::ZERO,
            policy: TxReadyPolicy::default(),
        });
        Rig {
            shard,
            stepper,
            _device: device,
        }
    }

    fn bind(&mut self) -> UdpSocketId {
        let local = "0.0.0.0:7".parse().expect("an address");
        self.shard.host.bind_udp(local).expect("free")
    }

    fn receive(&mut self, frame: Frame) {
        let (now, ports) = (self.shard.clock.now(), self.shard.ports.clone());
        let egress = &mut ports.borrow_mut().egress;
        self.shard.receive(now, &mut vec![frame], egress.pool());
    }

    /// Flushes. Returns frames that the device got and frames that the driver dropped so far.
    fn flush(&mut self) -> (u64, u64) {
        let ports = self.shard.ports.clone();
        let egress = &mut ports.borrow_mut().egress;
        self.shard.flush(egress).expect("a sound device");
        let counters = *egress.pair().expect("a queue").transmit_counters();
        (counters.frames, counters.drops.total())
    }
}

/// A train of so many datagrams to the peer.
fn train(datagrams: usize) -> UdpSend<Frame> {
    let peer = "10.0.0.2:7".parse().expect("an address");
    UdpSend {
        segment_size: Some(100),
        ..UdpSend::new(peer, Payload::Bytes(vec![7; datagrams * 100].into()))
    }
}

fn answer() -> Frame {
    let header = EthernetHeader {
        destination: OUR,
        source: PEER,
        ethertype: ethernet::ARP,
    };
    let packet = ArpPacket {
        operation: ArpOperation::Reply,
        sender_mac: PEER,
        sender: [10, 0, 0, 2].into(),
        target_mac: OUR,
        target: [10, 0, 0, 1].into(),
    };
    Frame::on_heap(&[&header.to_bytes()[..], &packet.to_bytes()[..]].concat())
}

/// It waited for its neighbour first and for room then, and comes in during the flush.
#[test]
fn a_train_that_waited_for_room_is_cut_before_the_device_gets_it() {
    let mut rig = Rig::new(256);
    let socket = rig.bind();
    let outcome = rig.shard.send_udp(socket, &mut vec![train(5)]);
    assert_eq!(outcome.accepted, 1);
    assert_eq!(rig.flush(), (1, 0), "the question");
    rig.shard.host.set_transmit_room(0);
    rig.receive(answer());
    assert_eq!(rig.flush(), (6, 0));
}

#[test]
fn a_frame_of_an_application_that_asks_for_an_offload_gets_it() {
    let mut rig = Rig::new(256);
    let mut bytes = vec![0; 42 + 2500];
    bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
    bytes[23] = 17;
    let mut frame = Frame::on_heap(&bytes);
    frame.set_offload(Offload {
        checksum: ChecksumState::Partial(PartialChecksum {
            start: 34,
            offset: 6,
        }),
        segmentation: Some(Segmentation {
            kind: SegmentKind::Udp,
            size: 1000,
            header_length: 42,
        }),
    });
    let outcome = rig.shard.transmit_frames(None, &mut vec![frame]);
    assert_eq!(outcome.accepted, 1);
    assert_eq!(rig.flush(), (3, 0));
}

/// Half of the ring is free as far as anybody has looked, and nothing else would make anybody look.
#[test]
fn a_long_train_is_refused_only_if_the_device_really_has_no_room() {
    let mut rig = Rig::new(128);
    let socket = rig.bind();
    assert_eq!(rig.shard.send_udp(socket, &mut vec![train(1)]).accepted, 1);
    rig.receive(answer());
    rig.shard.send_udp(socket, &mut vec![train(62)]);
    assert_eq!(rig.flush(), (64, 0));
    let refused = rig.shard.send_udp(socket, &mut vec![train(100)]);
    assert_eq!(refused.reason, Some(DropReason::RingFull));
    rig.stepper.step(rig.shard.clock.now());
    assert_eq!(rig.flush(), (64, 0));
    let outcome = rig.shard.send_udp(socket, &mut vec![train(100)]);
    assert_eq!(outcome.accepted, 1);
    assert_eq!(rig.flush(), (164, 0));
}

mod memory;
mod names;
mod shares;
mod times;
