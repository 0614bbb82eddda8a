//! The UDP API over a link.

use std::time::Duration;

use actix::prelude::*;
use virtroupe::actors::services::BindUdp;
use virtroupe::driver::embedded::LinkConfig;
use virtroupe::{BindError, SocketEvent, UdpErrorKind, UdpReceived};

use super::support::{Probe, Seen, Send, Stop, address, datagram, pair, within};

#[actix::test]
async fn a_datagram_goes_there_and_its_echo_comes_back() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (_echo, mut at_server) = Probe::start(&server, "0.0.0.0:7", true)
        .await
        .expect("bound");
    let (probe, mut at_client) = Probe::start(&client, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    let (outcome, refused) =
        within(probe.send(Send(vec![datagram(address("10.0.0.2:7"), b"hello")])))
            .await
            .expect("alive");
    assert_eq!(
        (outcome.accepted, outcome.refused, refused.len()),
        (1, 0, 0)
    );
    let there = Seen::Datagram {
        source: address("10.0.0.1:5000"),
        destination: address("10.0.0.2:7"),
        payload: b"hello".to_vec(),
    };
    assert_eq!(within(at_server.recv()).await, Some(there));
    let back = Seen::Datagram {
        source: address("10.0.0.2:7"),
        destination: address("10.0.0.1:5000"),
        payload: b"hello".to_vec(),
    };
    assert_eq!(within(at_client.recv()).await, Some(back));
    client.shutdown().await;
    server.shutdown().await;
}

/// Lengths around every boundary: none, one frame, one byte more, and the longest of all.
#[actix::test]
async fn datagrams_of_every_size_class_survive_fragmentation_both_ways() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (_echo, _at_server) = Probe::start(&server, "0.0.0.0:7", true)
        .await
        .expect("bound");
    let (probe, mut at_client) = Probe::start(&client, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    for length in [
        0, 1, 22, 1471, 1472, 1473, 2952, 2953, 8000, 40_000, 65_506, 65_507,
    ] {
        let sent: Vec<u8> = (0..length)
            .map(|at: usize| (at * 7 + length) as u8)
            .collect();
        let (outcome, _) = within(probe.send(Send(vec![datagram(address("10.0.0.2:7"), &sent)])))
            .await
            .expect("alive");
        assert_eq!(outcome.accepted, 1, "{length} bytes");
        match within(at_client.recv()).await {
            Some(Seen::Datagram { payload, .. }) => assert!(payload == sent, "{length} bytes"),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    client.shutdown().await;
    server.shutdown().await;
}

#[actix::test]
async fn a_closed_port_is_reported_to_the_socket_that_sent() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (probe, mut seen) = Probe::start(&client, "0.0.0.0:0", false)
        .await
        .expect("bound");
    let peer = address("10.0.0.2:9999");
    within(probe.send(Send(vec![datagram(peer, b"anybody?")])))
        .await
        .expect("alive");
    match within(seen.recv()).await {
        Some(Seen::Event(SocketEvent::Failed(error))) => {
            assert_eq!(
                (error.peer, error.kind),
                (peer, UdpErrorKind::PortUnreachable)
            );
        }
        other => panic!("{other:?}"),
    }
    client.shutdown().await;
    server.shutdown().await;
}

#[actix::test]
async fn a_port_is_free_again_when_its_actor_has_stopped() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (first, mut seen) = Probe::start(&client, "0.0.0.0:4000", false)
        .await
        .expect("bound");
    match Probe::start(&client, "0.0.0.0:4000", false).await {
        Err(BindError::Host(error)) => {
            assert!(
                error.to_string().contains("0.0.0.0:4000 is in use"),
                "{error}"
            );
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("bound twice"),
    }
    within(first.send(Stop)).await.expect("alive");
    // The channel closes when the actor is dropped.
    assert_eq!(within(seen.recv()).await, None);
    assert!(Probe::start(&client, "0.0.0.0:4000", false).await.is_ok());
    client.shutdown().await;
    server.shutdown().await;
}

/// On this arbiter, so it has no handle whose drop closes its socket.
struct Remote;

impl Actor for Remote {
    type Context = Context<Self>;
}

impl Handler<UdpReceived> for Remote {
    type Result = ();

    fn handle(&mut self, _: UdpReceived, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

#[actix::test]
async fn a_port_of_an_actor_on_another_arbiter_is_free_again_after_it_has_stopped() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let bind = || BindUdp {
        local: address("0.0.0.0:4000"),
        received: Remote.start().recipient(),
        events: None,
    };
    let queue = server.cpu(0).expect("a cpu");
    let bound = within(queue.send(bind())).await.expect("alive");
    assert!(bound.is_ok());
    let again = within(queue.send(bind())).await.expect("alive");
    assert!(again.is_err(), "bound twice");
    let (probe, _) = Probe::start(&client, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    // The first datagram stops it, a later one finds it gone.
    within(async {
        loop {
            let hello = datagram(address("10.0.0.2:4000"), b"hello");
            probe.send(Send(vec![hello])).await.expect("alive");
            if queue.send(bind()).await.expect("alive").is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    client.shutdown().await;
    server.shutdown().await;
}

#[actix::test]
async fn what_is_sent_to_an_own_address_arrives_without_a_device() {
    let (client, server, link) = pair(LinkConfig::default()).await;
    let (_echo, _) = Probe::start(&client, "10.0.0.1:7", true)
        .await
        .expect("bound");
    let (probe, mut seen) = Probe::start(&client, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    within(probe.send(Send(vec![datagram(address("10.0.0.1:7"), b"me")])))
        .await
        .expect("alive");
    assert!(
        matches!(within(seen.recv()).await, Some(Seen::Datagram { payload, .. }) if payload == b"me")
    );
    assert_eq!(link.outbound().offered, 0);
    client.shutdown().await;
    server.shutdown().await;
}
