//! TCP for actors on other arbiters: the services by message.

use std::io::ErrorKind;

use actix::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use virtroupe::actors::tcp::services::{
    AbortTcp, ClaimTcp, CloseListener, CloseTcp, ConnectTcp, FinishTcp, ListenTcp, SendTcp,
    TcpReceivers,
};
use virtroupe::driver::embedded::LinkConfig;
use virtroupe::{
    ListenOptions, LocalStack, TcpAccepted, TcpEvent, TcpEventKind, TcpOptions, TcpPayload,
    TcpReceived,
};

use super::super::support::{address, pair, within};
use super::support::{connect, echo_server};

#[actix::test]
async fn who_reads_from_a_connection_that_is_aborted_by_name_is_told() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    echo_server(&server, "10.0.0.2:7").await;
    let (name, named) = tokio::sync::oneshot::channel();
    let reading = client.run_on(0, |local: LocalStack| async move {
        let mut stream = connect(&local, address("10.0.0.2:7")).await;
        let _ = name.send(stream.id());
        stream.read_u8().await.expect_err("it was aborted").kind()
    });
    let aborting = async {
        let id = named.await.expect("connected");
        // Its reader waits by then.
        tokio::task::yield_now().await;
        let cpu = client.cpu(0).expect("a cpu");
        cpu.send(AbortTcp(id)).await.expect("alive");
    };
    let (kind, ()) = within(async { tokio::join!(reading, aborting) }).await;
    assert_eq!(kind.expect("it runs"), ErrorKind::ConnectionAborted);
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

/// What a [`Remote`] actor gets.
#[derive(Debug)]
enum Got {
    Accepted(TcpAccepted),
    Bytes(Vec<u8>),
    Event(TcpEventKind),
}

/// An actor on an arbiter of its own.
struct Remote(UnboundedSender<Got>);

impl Actor for Remote {
    type Context = Context<Self>;
}

impl Handler<TcpAccepted> for Remote {
    type Result = ();

    fn handle(&mut self, accepted: TcpAccepted, _: &mut Self::Context) {
        let _ = self.0.send(Got::Accepted(accepted));
    }
}

impl Handler<TcpReceived> for Remote {
    type Result = ();

    fn handle(&mut self, received: TcpReceived, _: &mut Self::Context) {
        let _ = self.0.send(Got::Bytes(received.to_vec()));
    }
}

impl Handler<TcpEvent> for Remote {
    type Result = ();

    fn handle(&mut self, event: TcpEvent, _: &mut Self::Context) {
        let _ = self.0.send(Got::Event(event.kind));
    }
}

#[actix::test]
async fn an_actor_elsewhere_listens_connects_and_talks_by_messages() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (seen, mut at_server) = unbounded_channel();
    let remote = Remote(seen).start();
    let server_cpu = server.cpu(0).expect("a cpu");
    let (listener, local) = within(server_cpu.send(ListenTcp {
        local: address("10.0.0.2:0"),
        options: ListenOptions::default(),
        accepted: remote.clone().recipient(),
    }))
    .await
    .expect("alive")
    .expect("free");
    let (seen, mut at_client) = unbounded_channel();
    let caller = Remote(seen).start();
    let client_cpu = client.cpu(0).expect("a cpu");
    let (id, _) = within(client_cpu.send(ConnectTcp {
        peer: local,
        options: TcpOptions::default(),
        receivers: TcpReceivers {
            received: caller.clone().recipient(),
            events: Some(caller.recipient()),
        },
    }))
    .await
    .expect("alive")
    .expect("accepted");
    let Some(Got::Accepted(accepted)) = within(at_server.recv()).await else {
        panic!("no connection");
    };
    let receivers = TcpReceivers {
        received: remote.clone().recipient(),
        events: Some(remote.recipient()),
    };
    let claimed = within(server_cpu.send(ClaimTcp {
        accepted,
        receivers,
    }));
    let at = claimed.await.expect("alive").expect("of this cpu");
    let payload = TcpPayload::from(b"by message".to_vec());
    let connection = id;
    let outcome = within(client_cpu.send(SendTcp {
        connection,
        payload,
    }));
    assert_eq!(outcome.await.expect("alive").accepted, 10);
    match within(at_server.recv()).await {
        Some(Got::Bytes(bytes)) => assert_eq!(bytes, b"by message"),
        other => panic!("{other:?}"),
    }
    within(server_cpu.send(FinishTcp(at))).await.expect("alive");
    match within(at_client.recv()).await {
        Some(Got::Event(TcpEventKind::EndOfStream)) => {}
        other => panic!("{other:?}"),
    }
    within(client_cpu.send(CloseTcp(id))).await.expect("alive");
    let mut events = Vec::new();
    while events.len() < 3 {
        match within(at_server.recv()).await {
            Some(Got::Event(kind)) => events.push(kind),
            other => panic!("{other:?}"),
        }
    }
    assert!(events.contains(&TcpEventKind::Ended(None)), "{events:?}");
    within(server_cpu.send(CloseListener(listener)))
        .await
        .expect("alive");
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}
