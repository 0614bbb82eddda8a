//! From when deadlines count that applications ask for.

use std::net::SocketAddr;

use virtroupe_wire::tcp::{ConnectionId, ListenOptions, TcpOptions, TcpState};

use super::shares::Proxy;
use super::*;

/// Not from the beginning of a turn that the application has made long.
#[test]
fn the_time_to_close_counts_from_the_close() {
    let drops = |shard: &mut Shard, id| {
        shard.drop_tcp(id);
        shard.begin_turn(shard.clock.now());
    };
    counts_from(Shard::close_tcp);
    counts_from(drops);
}

fn counts_from(close: impl Fn(&mut Shard, ConnectionId)) {
    let mut proxy = Proxy::new(FeatureBits::CSUM, 64, TxReadyPolicy::Fair);
    let server = SocketAddr::from(([10, 0, 0, 1], 80));
    let shard = &mut proxy.shard;
    let listening = shard.tcp.engine.listen(server, ListenOptions::default());
    listening.expect("free");
    let close_timeout = Duration::from_millis(1);
    let options = TcpOptions {
        close_timeout,
        ..TcpOptions::default()
    };
    let connecting = shard.connect_tcp(None, server, &options);
    let id = connecting.expect("a port");
    proxy.turn();
    let shard = &mut proxy.shard;
    shard.begin_turn(shard.clock.now());
    std::thread::sleep(2 * close_timeout);
    let before = shard.clock.now();
    close(shard, id);
    let after = shard.clock.now();
    for (now, is_given_up) in [
        (before + (close_timeout - Duration::from_nanos(1)), false),
        (after + 2 * close_timeout, true),
    ] {
        shard.tcp.engine.handle_timeout(now);
        let mut states = shard.tcp.engine.state_counts();
        assert_eq!(
            states.any(|(state, count)| state == TcpState::Closed && count > 0),
            is_given_up
        );
    }
}
