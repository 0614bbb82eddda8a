//! A device that breaks the rules of its rings: what came before is delivered, and then all is told.

use etherparse::PacketBuilder;
use virtroupe::driver::features::FeatureBits;
use virtroupe::{CloseReason, Lifecycle, MacAddr, SocketEvent, Supervisor};

use super::support::{Probe, Seen, Send, address, config, within};
use crate::hostile::{HEADER, HostileDevice, HostileTransport, RX};

/// The stack's.
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// No receive buffer has this number.
const UNKNOWN: u32 = 9999;

fn frame(text: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC.0)
        .ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64)
        .udp(5000, 7);
    let mut frame = Vec::new();
    builder.write(&mut frame, text).expect("it fits");
    frame
}

/// Delivers `texts`, and, seen together with them, a buffer that nobody posted.
fn deliver_and_break(device: &HostileDevice, texts: &[&[u8]]) {
    let mut index = device.used_index(RX);
    for text in texts {
        let id = device.available_entry(RX, index);
        let packet = [&[0; HEADER][..], &frame(text)].concat();
        device.write(device.descriptor(RX, id).offset, &packet);
        device.set_used_entry(RX, index, u32::from(id), packet.len() as u32);
        index = index.wrapping_add(1);
    }
    device.set_used_entry(RX, index, UNKNOWN, 100);
    device.set_used_index(RX, index.wrapping_add(1));
    device.interrupt(RX);
}

#[actix::test]
async fn frames_before_a_violation_are_delivered() {
    // The violation is in the burst of the frames, in the second of one poll, or in a later poll.
    for burst in [64, 2, 1] {
        let features = FeatureBits::VERSION_1 | FeatureBits::MAC;
        let (mut transport, parts) = HostileTransport::new(features);
        transport.config.mac = Some(MAC);
        let mut config = config(1);
        config.poll.burst = burst;
        config.poll.bursts_per_poll = 2;
        let stack = within(Supervisor::start_on(Box::new(transport), config)).await;
        let stack = stack.expect("the stack starts");
        let (probe, mut seen) = Probe::start(&stack, "10.0.0.1:7", false)
            .await
            .expect("bound");
        // It answers when it takes what is delivered.
        within(probe.send(Send(Vec::new()))).await.expect("alive");
        deliver_and_break(&HostileDevice::new(&parts), &[b"first", b"second"]);
        for text in [b"first".to_vec(), b"second".to_vec()] {
            let datagram = Seen::Datagram {
                source: address("10.0.0.9:5000"),
                destination: address("10.0.0.1:7"),
                payload: text,
            };
            assert_eq!(within(seen.recv()).await, Some(datagram), "burst {burst}");
        }
        let closed = within(seen.recv()).await;
        assert!(
            matches!(
                closed,
                Some(Seen::Event(SocketEvent::Closed(CloseReason::DeviceLost(_))))
            ),
            "burst {burst}: {closed:?}"
        );
        let ended = within(stack.ended()).await;
        assert!(matches!(ended, Lifecycle::DeviceLost(_)), "{ended:?}");
        within(stack.shutdown()).await;
    }
}
