//! Who lets go of a connection, by its name or by its last handle.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use virtroupe_wire::tcp::{ConnectionId, ListenOptions, TcpOptions, TcpState};

use super::memory::Flag;
use super::shares::Proxy;
use super::*;
use crate::tcp::TcpSendError;

/// A proxy with a connection to itself.
fn connected() -> (Proxy, ConnectionId) {
    let mut proxy = Proxy::new(FeatureBits::CSUM, 64, TxReadyPolicy::Fair);
    let shard = &mut proxy.shard;
    let server = SocketAddr::from(([10, 0, 0, 1], 80));
    let listening = shard.tcp.engine.listen(server, ListenOptions::default());
    listening.expect("free");
    let connecting = shard.connect_tcp(None, server, &TcpOptions::default());
    let id = connecting.expect("a port");
    proxy.turn();
    let state = proxy.shard.tcp.engine.state(id);
    assert_eq!(state, Some(TcpState::Established));
    (proxy, id)
}

#[test]
fn who_reads_or_writes_finds_a_connection_gone_that_is_closed_by_its_name() {
    let (mut proxy, id) = connected();
    let shard = &mut proxy.shard;
    let cx = Context::from_waker(Waker::noop());
    assert!(shard.poll_end(id, cx.waker()).is_pending(), "it is open");
    shard.close_tcp(id);
    // Before the next turn: it must not look as if the peer had finished.
    match shard.poll_end(id, cx.waker()) {
        Poll::Ready(Err(error)) => assert_eq!(error.kind(), ErrorKind::ConnectionAborted),
        other => panic!("{other:?}"),
    }
    let written = shard.write_tcp(id, &[IoSlice::new(b"late")]);
    assert_eq!(written, Err(TcpSendError::Finished));
    // Nobody would wake who waited.
    let ready = shard.poll_ready_tcp(id, &cx);
    assert_eq!(ready, Poll::Ready(Err(TcpSendError::Finished)));
}

#[test]
fn a_stream_that_is_dropped_wakes_the_loop_that_closes_it() {
    let (mut proxy, id) = connected();
    let shard = &mut proxy.shard;
    let flag = Arc::new(Flag::default());
    shard.set_sleeper(Some(flag.clone().into()));
    shard.drop_tcp(id);
    assert!(flag.0.load(Ordering::Relaxed), "it sleeps on");
    let now = shard.clock.now();
    assert!(shard.has_tcp_work(), "another loop would sleep");
    assert_eq!(shard.next_deadline(now), Some(now));
    shard.set_sleeper(None);
    shard.begin_turn(now);
    assert_eq!(shard.tcp.engine.state(id), None);
    assert!(shard.tcp.engine.has_output(), "its end is to be sent");
    proxy.turn();
    assert!(!proxy.shard.has_tcp_work());
}

#[test]
fn a_stream_that_was_dropped_when_all_are_reset_is_reset_too() {
    let (mut proxy, id) = connected();
    let shard = &mut proxy.shard;
    shard.drop_tcp(id);
    drop(shard.drain_tcp());
    shard.reset_tcp();
    shard.begin_turn(shard.clock.now());
    proxy.turn();
    let left = proxy.shard.tcp.engine.usage().connections;
    assert_eq!(left, 1, "the other end is its listener's");
    assert!(!proxy.shard.has_tcp_work());
}
