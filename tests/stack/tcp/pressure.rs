//! Slow readers, full mailboxes, and many connections at once.

use std::cell::Cell;
use std::rc::Rc;

use actix::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use virtroupe::driver::embedded::LinkConfig;
use virtroupe::{LocalStack, TcpEvent, TcpEventKind, TcpReceived, TcpStream};

use super::super::support::{address, pair, within};
use super::support::{bytes, connect, echo_server, listen};

/// More than all buffers on the way hold.
const LENGTH: usize = 16 << 20;

#[actix::test]
async fn a_reader_that_waits_closes_the_window_and_loses_nothing() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (release, released) = oneshot::channel::<()>();
    let (done, all) = oneshot::channel();
    let started = server.run_on(0, |local: LocalStack| async move {
        let listener = listen(&local, "10.0.0.2:7").await;
        actix::spawn(async move {
            let mut stream = listener.accept().await.expect("a connection");
            let _ = released.await;
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.expect("no error");
            let _ = done.send(received);
        });
    });
    within(started).await.expect("it runs");
    let written = client.run_on(0, |local: LocalStack| async move {
        let stream = connect(&local, address("10.0.0.2:7")).await;
        let (mut reader, mut writer) = stream.into_split();
        let sent = Rc::new(Cell::new(0));
        let count = sent.clone();
        actix::spawn(async move {
            for piece in bytes(1, LENGTH).chunks(64 << 10) {
                writer.write_all(piece).await.expect("taken");
                count.set(count.get() + piece.len());
            }
            writer.shutdown().await.expect("finished");
        });
        // Until nothing goes any more: the peer's window is closed.
        let mut before = usize::MAX;
        while before != sent.get() || before == 0 {
            before = sent.get();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert!(before < LENGTH, "{before} bytes were taken");
        let _ = release.send(());
        let end = reader.receive().await.expect("no error");
        assert!(end.is_none());
    });
    within(written).await.expect("it runs");
    assert!(within(all).await.expect("received") == bytes(1, LENGTH));
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

/// Takes one message, and then nothing until it is released.
struct Slow {
    stream: TcpStream,
    received: Vec<u8>,
    gate: Option<oneshot::Receiver<()>>,
    done: Option<oneshot::Sender<Vec<u8>>>,
}

impl Actor for Slow {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1);
        self.stream.events_to(ctx.address());
        self.stream.deliver_to(ctx.address());
    }
}

impl Handler<TcpReceived> for Slow {
    type Result = ();

    fn handle(&mut self, received: TcpReceived, ctx: &mut Self::Context) {
        self.received.extend(received.to_vec());
        if let Some(gate) = self.gate.take() {
            ctx.wait(async { drop(gate.await) }.into_actor(self));
        }
    }
}

impl Handler<TcpEvent> for Slow {
    type Result = ();

    fn handle(&mut self, event: TcpEvent, ctx: &mut Self::Context) {
        if event.kind == TcpEventKind::EndOfStream
            && let Some(done) = self.done.take()
        {
            let _ = done.send(std::mem::take(&mut self.received));
            ctx.stop();
        }
    }
}

#[actix::test]
async fn a_full_mailbox_blocks_nobody_else_and_loses_nothing() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (release, gate) = oneshot::channel();
    let (done, all) = oneshot::channel();
    let started = server.run_on(0, |local: LocalStack| async move {
        let listener = listen(&local, "10.0.0.2:8").await;
        actix::spawn(async move {
            let stream = listener.accept().await.expect("a connection");
            Slow {
                stream,
                received: Vec::new(),
                gate: Some(gate),
                done: Some(done),
            }
            .start();
        });
    });
    within(started).await.expect("it runs");
    echo_server(&server, "10.0.0.2:7").await;
    let talked = client.run_on(0, |local: LocalStack| async move {
        let mut slow = connect(&local, address("10.0.0.2:8")).await;
        let writing = actix::spawn(async move {
            slow.write_all(&bytes(2, LENGTH)).await.expect("taken");
        });
        // Meanwhile others are served.
        let mut other = connect(&local, address("10.0.0.2:7")).await;
        for number in 0..100 {
            other.write_u32(number).await.expect("taken");
            assert_eq!(other.read_u32().await.expect("echoed"), number);
        }
        assert!(!writing.is_finished(), "the slow one has not read");
        let _ = release.send(());
        writing.await.expect("taken");
    });
    within(talked).await.expect("it runs");
    assert!(within(all).await.expect("received") == bytes(2, LENGTH));
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

#[actix::test]
async fn many_connections_share_a_cpu() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    echo_server(&server, "10.0.0.2:7").await;
    let talked = client.run_on(0, |local: LocalStack| async move {
        let mut tasks = Vec::new();
        for seed in 0..300 {
            let local = local.clone();
            tasks.push(actix::spawn(async move {
                let mut stream = connect(&local, address("10.0.0.2:7")).await;
                let sent = bytes(seed, 10_000);
                let mut received = vec![0; sent.len()];
                stream.write_all(&sent).await.expect("taken");
                stream.read_exact(&mut received).await.expect("echoed");
                assert!(received == sent);
            }));
        }
        for task in tasks {
            task.await.expect("it went well");
        }
        local.counters()
    });
    let counters = within(talked).await.expect("it runs");
    assert_eq!(counters.tcp.sockets, 0);
    assert_eq!(counters.tcp.engine.opened, 300);
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

/// Connections whose peers read nothing: more than are looked at in one turn.
const STUCK: usize = 100;

/// Writes until it can not.
async fn write_on(mut stream: TcpStream) {
    let bytes = vec![7; 64 << 10];
    while stream.write_all(&bytes).await.is_ok() {}
}

/// All of packet memory is held by what the peers of others do not take.
#[actix::test]
async fn a_writer_goes_on_behind_many_whose_peers_take_nothing() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let started = server.run_on(0, |local: LocalStack| async move {
        let listener = listen(&local, "10.0.0.2:7").await;
        actix::spawn(async move {
            while let Ok(stream) = listener.accept().await {
                actix::spawn(write_on(stream));
            }
        });
    });
    within(started).await.expect("it runs");
    let received = client.run_on(0, |local: LocalStack| async move {
        let mut stuck = Vec::new();
        for _ in 0..STUCK {
            let mut stream = connect(&local, address("10.0.0.2:7")).await;
            // It is served.
            stream.read_u8().await.expect("written");
            stuck.push(stream);
        }
        let mut stream = connect(&local, address("10.0.0.2:7")).await;
        let mut buffer = vec![0; 64 << 10];
        let mut received = 0;
        while received < 1 << 20 {
            received += stream.read(&mut buffer).await.expect("written");
        }
        stuck.len()
    });
    assert_eq!(within(received).await.expect("it runs"), STUCK);
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}
