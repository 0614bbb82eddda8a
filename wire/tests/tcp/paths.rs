//! Paths that have become narrow, and wide again (RFC 4821, RFC 8899).

use virtroupe_wire::tcp::ConnectionId;

use crate::FAMILY;
use crate::network::{Network, Path};
use crate::support::{Family, content, milliseconds, options, seconds};

/// Bytes of IP and TCP headers, with timestamps.
const HEADERS: u16 = match FAMILY {
    Family::V4 => 20 + 32,
    Family::V6 => 40 + 32,
};

/// A connection over a path that takes packets of 1280 bytes, as it has found out.
fn narrowed() -> (Network, ConnectionId, ConnectionId) {
    let path = Path {
        delay: milliseconds(10),
        ..Path::default()
    };
    let mut network = Network::new(FAMILY, path, 1);
    network.paths[0].mtu = 1280;
    let (client, server) = network.open(options());
    send(&mut network, (client, server));
    network.pass(seconds(30));
    assert_eq!(size(&network, client), 1280 - HEADERS);
    (network, client, server)
}

fn size(network: &Network, id: ConnectionId) -> u16 {
    network.engines[0]
        .stats(id)
        .expect("it is there")
        .segment_size
}

/// Sends 200 kB, and waits until they are acknowledged.
fn send(network: &mut Network, (client, server): (ConnectionId, ConnectionId)) {
    network.engines[0]
        .write(network.now, client, content(0, 0, 200_000))
        .expect("there is room");
    for _ in 0..400 {
        network.pass(milliseconds(100));
        while network.engines[1].read(network.now, server).is_some() {}
        let stats = network.engines[0].stats(client).expect("it is there");
        if stats.unacknowledged == 0 {
            return;
        }
    }
    panic!("it hangs");
}

#[test]
fn a_probe_that_is_lost_is_no_sign_of_congestion() {
    let (mut network, client, server) = narrowed();
    network.pass(seconds(600));
    let before = *network.engines[0].counters();
    let threshold = |network: &Network| {
        let stats = network.engines[0].stats(client).expect("it is there");
        stats.slow_start_threshold
    };
    let threshold_before = threshold(&network);
    for _ in 0..20 {
        send(&mut network, (client, server));
        network.pass(seconds(5));
    }
    let counters = network.engines[0].counters();
    assert_eq!(size(&network, client), 1280 - HEADERS, "still");
    assert_eq!(counters.timeouts, before.timeouts);
    assert_eq!(counters.recoveries, before.recoveries);
    assert_eq!(threshold(&network), threshold_before);
    let again = counters.retransmits - before.retransmits;
    assert!((2..20).contains(&again), "a few probes: {again}");
}

#[test]
fn a_path_that_became_a_little_wider_is_used_as_far_as_it_goes() {
    let (mut network, client, server) = narrowed();
    network.paths[0].mtu = 1400;
    network.pass(seconds(600));
    for _ in 0..20 {
        send(&mut network, (client, server));
        network.pass(seconds(6));
    }
    let size = size(&network, client);
    assert!(
        (1400 - HEADERS - 32..=1400 - HEADERS).contains(&size),
        "{size}"
    );
    // And ten minutes later the whole of it.
    network.paths[0].mtu = 1500;
    network.pass(seconds(600));
    send(&mut network, (client, server));
    assert_eq!(self::size(&network, client), 1500 - HEADERS);
}
