//! What is sent is spread over the round trip.

use std::time::Duration;

use virtroupe_wire::tcp::TcpOptions;

use crate::FAMILY;
use crate::network::{Network, Path};
use crate::streams::transfer;
use crate::support::{content, milliseconds, options, seconds};

/// Sends all the time over a path of 50 ms there and back, after a second in which the window has
/// grown. Returns for each millisecond of the next second how many bytes left, and the window.
fn send_for_a_second(options: TcpOptions, most_payload: u32) -> (Vec<usize>, u64) {
    let path = Path {
        delay: milliseconds(25),
        rate: 12_500_000,
        queue: 10_000,
        ..Path::default()
    };
    let mut network = Network::new(FAMILY, path, 3);
    network.engines[0].set_most_payload(most_payload);
    let options = TcpOptions {
        receive_buffer: 400_000,
        initial_receive_buffer: 400_000,
        ..options
    };
    let (client, server) = network.open(options);
    let go = |network: &mut Network, time: Duration| {
        let end = network.now + time;
        while network.now < end {
            let _ = network.engines[0].write(network.now, client, content(0, 0, 50_000));
            network.step();
            while network.engines[1].read(network.now, server).is_some() {}
        }
    };
    go(&mut network, seconds(1));
    network.record = Some(Vec::new());
    let start = network.now;
    go(&mut network, seconds(1));
    let mut bytes = vec![0; 1000];
    for (at, packet) in network.record.take().expect("it is recorded") {
        let slot = at.since(start).as_millis() as usize;
        if packet.to == 1 && slot < 1000 {
            bytes[slot] += packet.bytes.len();
        }
    }
    let stats = network.engines[0].stats(client).expect("it is there");
    (bytes, stats.congestion_window)
}

#[test]
fn a_window_is_spread_over_the_round_trip() {
    for most_payload in [0, 60_000] {
        let (bytes, _) = send_for_a_second(options(), most_payload);
        let total: usize = bytes.iter().sum();
        let most = *bytes.iter().max().expect("there are some");
        let busy = bytes.iter().filter(|bytes| **bytes > 0).count();
        println!("{total} bytes, {busy} ms busy, at most {most} in one");
        // 400 kB in 50 ms are 8 kB in each.
        assert!(total > 7_000_000, "{total}");
        assert!(busy > 600, "{busy}");
        assert!(most < 40_000, "{most}");
    }
}

#[test]
fn pacing_can_be_turned_off() {
    let burst = |pacing| {
        let path = Path {
            delay: milliseconds(25),
            ..Path::default()
        };
        let mut network = Network::new(FAMILY, path, 3);
        let options = TcpOptions {
            pacing,
            ..options()
        };
        let (id, _) = network.open(options);
        network.engines[0]
            .write(network.now, id, content(0, 0, 400_000))
            .expect("there is room");
        // The first round, and what it allows: twenty segments.
        network.pass(milliseconds(49));
        network.record = Some(Vec::new());
        network.pass(milliseconds(10));
        network.record.take().expect("it is recorded").len()
    };
    let (paced, at_once) = (burst(true), burst(false));
    assert!(at_once >= 15, "{at_once}");
    assert!(paced < at_once, "{paced} of {at_once}");
}

/// It must not be what limits a stream: neither on a long path nor on a short one.
#[test]
fn pacing_costs_no_goodput() {
    for (delay, rate) in [
        (Duration::from_micros(20), 1_250_000_000),
        (Duration::from_micros(200), 1_250_000_000),
        (milliseconds(2), 125_000_000),
        (milliseconds(25), 12_500_000),
    ] {
        let goodput = |pacing| {
            let path = Path {
                delay,
                rate,
                queue: 10_000,
                ..Path::default()
            };
            let mut network = Network::new(FAMILY, path, 5);
            network.engines[0].set_most_payload(60_000);
            let options = TcpOptions {
                pacing,
                ..options()
            };
            let took = transfer(&mut network, options, [10_000_000, 0]);
            10e6 / took.as_secs_f64()
        };
        let ratio = goodput(true) / goodput(false);
        println!("{delay:?}, {rate} bytes/s: {ratio:.3} of the goodput without pacing");
        assert!(ratio > 0.93, "{delay:?}: {ratio}");
    }
}
