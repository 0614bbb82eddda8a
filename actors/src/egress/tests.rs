use std::sync::Arc;

use virtroupe_driver::embedded::{EmbeddedConfig, EmbeddedTransport, Link, LinkConfig};
use virtroupe_driver::memory::HugePages;
use virtroupe_driver::{Device, DeviceOptions};
use virtroupe_wire::Buffer;

use super::*;
use crate::credits::Credits;
use crate::lane::lane;

/// A frame in so many segments.
fn frame(pool: &mut Pool, segments: usize) -> Frame {
    let mut segment = || {
        let mut frame = pool.frame().expect("a slot is free");
        assert!(frame.extend_from_slice(&[0; 60]));
        frame
    };
    let mut frame = segment();
    for _ in 1..segments {
        frame.append(segment());
    }
    frame
}

#[test]
fn a_long_chain_of_the_own_cpu_is_waited_for_and_not_overtaken_by_those_of_others() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (transport, _handle, _stepper) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    let options = DeviceOptions {
        queue_size: 16,
        pool_frames: 160,
        indirect: false,
        huge_pages: HugePages::Never,
        ..DeviceOptions::default()
    };
    let (_device, mut pairs) = Device::initialize(Box::new(transport), &options).expect("ready");
    let (mut sender, receiver) = lane(16, Arc::default());
    let served = Served::new(receiver, Arc::new(Credits::new(16)), Arc::default());
    let pair = pairs.pop().expect("a pair").bind();
    let mut egress = QueueEgress::new(pair, vec![served]);
    let mut others: Vec<_> = (0..14).map(|_| frame(egress.pair.pool(), 1)).collect();
    sender.push(&mut others);
    let mut own = Vec::new();
    assert_eq!(egress.transmit_for_all(&mut own), Ok(14));
    own.push(frame(egress.pair.pool(), 4));
    others.extend((0..2).map(|_| frame(egress.pair.pool(), 1)));
    sender.push(&mut others);
    for _ in 0..3 {
        assert_eq!(egress.transmit_for_all(&mut own), Ok(0));
    }
    assert_eq!((own.len(), sender.waiting()), (1, 2));
    assert_eq!(egress.pair.transmit_room(), 2, "kept for the chain");
}
