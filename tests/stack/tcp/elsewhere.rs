//! TCP for code on other threads: the stream that is `Send`, and the services by message.

use std::io::ErrorKind;

use actix::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
use super::support::{bytes, connect, echo_server, listen};

#[actix::test]
async fn a_stream_can_be_used_on_another_thread() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    echo_server(&server, "10.0.0.2:7").await;
    let stream = client.run_on(0, |local: LocalStack| async move {
        connect(&local, address("10.0.0.2:7")).await.into_send()
    });
    let mut stream = within(stream).await.expect("it runs");
    assert_eq!(stream.peer_addr(), Some(address("10.0.0.2:7")));
    let sent = bytes(4, 2 << 20);
    let expected = sent.clone();
    let received = within(async {
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let mut received = Vec::new();
        let write = async {
            writer.write_all(&sent).await.expect("taken");
            writer.shutdown().await.expect("finished");
        };
        let (read, ()) = tokio::join!(reader.read_to_end(&mut received), write);
        read.expect("no error");
        received
    });
    assert!(received.await == expected);
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

#[actix::test]
async fn what_is_written_before_a_sent_stream_is_dropped_arrives_and_a_reset_is_told() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (seen, mut received) = unbounded_channel();
    let started = server.run_on(0, |local: LocalStack| async move {
        let listener = listen(&local, "10.0.0.2:7").await;
        actix::spawn(async move {
            let mut first = listener.accept().await.expect("a connection");
            let mut all = Vec::new();
            first.read_to_end(&mut all).await.expect("no error");
            let _ = seen.send(all);
            let second = listener.accept().await.expect("a connection");
            second.abort();
        });
    });
    within(started).await.expect("it runs");
    let open = || {
        client.run_on(0, |local: LocalStack| async move {
            connect(&local, address("10.0.0.2:7")).await.into_send()
        })
    };
    let mut stream = within(open()).await.expect("it runs");
    within(stream.write_all(&bytes(1, 100_000)))
        .await
        .expect("taken");
    drop(stream);
    assert!(within(received.recv()).await == Some(bytes(1, 100_000)));
    let mut stream = within(open()).await.expect("it runs");
    let error = within(stream.read_u8()).await.expect_err("it was reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

/// The pipe to a reader that does not read is full, and so is that from the writer.
#[actix::test]
async fn who_writes_to_a_sent_stream_without_reading_learns_of_a_reset() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let started = server.run_on(0, |local: LocalStack| async move {
        let listener = listen(&local, "10.0.0.2:7").await;
        actix::spawn(async move {
            let mut stream = listener.accept().await.expect("a connection");
            stream.write_all(&bytes(1, 600_000)).await.expect("taken");
            stream.abort();
        });
    });
    within(started).await.expect("it runs");
    let stream = client.run_on(0, |local: LocalStack| async move {
        connect(&local, address("10.0.0.2:7")).await.into_send()
    });
    let mut stream = within(stream).await.expect("it runs");
    let written = within(stream.write_all(&bytes(2, 32 << 20))).await;
    assert_eq!(
        written.expect_err("it was reset").kind(),
        ErrorKind::ConnectionReset
    );
    drop(stream);
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

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
