//! What is closed by its name is gone at once for who has a handle.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use virtroupe_wire::tcp::{ListenOptions, TcpOptions};

use super::shares::Proxy;
use super::*;
use crate::tcp::TcpSendError;

#[test]
fn who_reads_or_writes_finds_a_connection_gone_that_is_closed_by_its_name() {
    let mut proxy = Proxy::new(FeatureBits::CSUM, 64, TxReadyPolicy::Fair);
    let server = SocketAddr::from(([10, 0, 0, 1], 80));
    let listening = proxy
        .shard
        .tcp
        .engine
        .listen(server, ListenOptions::default());
    listening.expect("free");
    let connecting = proxy
        .shard
        .connect_tcp(None, server, &TcpOptions::default());
    let id = connecting.expect("a port");
    proxy.turn();
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
