//! How connections begin and end.

use std::io::ErrorKind;
use std::time::Duration;

use actix::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use virtroupe::driver::embedded::{Link, LinkConfig};
use virtroupe::{
    CloseReason, LocalStack, Stack, TcpConnectError, TcpError, TcpEvent, TcpEventKind, TcpOptions,
    TcpReceived, TcpStream,
};

use super::super::support::{address, config, pair, start, within};
use super::support::{bytes, connect, listen};

/// The stream of the next connection at 10.0.0.2:7 of `stack`, handed to `serve` there.
async fn serve_one<F, Fut>(stack: &Stack, serve: F)
where
    F: FnOnce(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let started = stack.run_on(0, |local: LocalStack| async move {
        let listener = listen(&local, "10.0.0.2:7").await;
        actix::spawn(async move {
            serve(listener.accept().await.expect("a connection")).await;
        });
    });
    within(started).await.expect("it runs");
}

/// Neither reads nor writes, nor closes.
async fn keep(stream: TcpStream) {
    std::future::pending::<()>().await;
    drop(stream);
}

/// Connects and has `work` use the stream, on cpu 0 of `stack`.
async fn with_client<T: Send + 'static, F, Fut>(stack: &Stack, work: F) -> T
where
    F: FnOnce(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let done = stack.run_on(0, |local: LocalStack| async move {
        work(connect(&local, address("10.0.0.2:7")).await).await
    });
    within(done).await.expect("it runs")
}

#[actix::test]
async fn a_side_that_has_finished_still_receives() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    serve_one(&server, |mut stream| async move {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.expect("no error");
        stream.write_all(&question).await.expect("taken");
        stream.write_all(&bytes(3, 100_000)).await.expect("taken");
    })
    .await;
    let received = with_client(&client, |mut stream| async move {
        stream.write_all(b"question").await.expect("taken");
        stream.shutdown().await.expect("finished");
        let refused = stream
            .write_all(b"more")
            .await
            .expect_err("it has finished");
        assert_eq!(refused.kind(), ErrorKind::BrokenPipe);
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("no error");
        received
    })
    .await;
    assert!(received == [b"question".to_vec(), bytes(3, 100_000)].concat());
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn who_listens_nowhere_refuses() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let error = client.run_on(0, |local| async move {
        let connecting = local.connect_tcp(address("10.0.0.2:7"), TcpOptions::default());
        connecting.await.expect_err("nobody listens")
    });
    let error = within(error).await.expect("it runs");
    let peer = address("10.0.0.2:7");
    let expected = TcpConnectError::Failed {
        peer,
        error: TcpError::Refused,
    };
    assert_eq!(error, expected);
    let error = std::io::Error::from(error);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn a_neighbor_that_does_not_answer_is_unreachable() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let mut config = config(1);
    config.host.limits.neighbor_interval = Duration::from_millis(10);
    let (stack, _) = start(config, end).await;
    for _ in 0..2 {
        // The second time it is known that it does not.
        let error = stack.run_on(0, |local| async move {
            let connecting = local.connect_tcp(address("10.0.0.9:7"), TcpOptions::default());
            connecting.await.expect_err("nobody is there")
        });
        let error = within(error).await.expect("it runs");
        assert!(
            matches!(
                error,
                TcpConnectError::Failed {
                    error: TcpError::Unreachable,
                    ..
                }
            ),
            "{error}"
        );
    }
    let error = stack.run_on(0, |local| async move {
        let connecting = local.connect_tcp(address("192.0.2.1:7"), TcpOptions::default());
        connecting.await.expect_err("no route")
    });
    let error = within(error).await.expect("it runs");
    assert_eq!(error, TcpConnectError::NoRoute(address("192.0.2.1:7")));
    stack.shutdown().await;
}

#[actix::test]
async fn a_peer_that_is_not_there_any_more_times_out() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (client, device) = start(config(1), left).await;
    let (server, _) = start(config(2), right).await;
    serve_one(&server, keep).await;
    let error = with_client(&client, move |mut stream| async move {
        stream.set_user_timeout(Duration::from_millis(300));
        // Nothing leaves any more; the device is there.
        device.set_link(false);
        stream.write_all(b"is anybody there?").await.expect("taken");
        stream.read_u8().await.expect_err("nobody answers")
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    client.shutdown().await;
    server.shutdown().await;
}

#[actix::test]
async fn an_abort_resets_the_peer_after_what_arrived_before() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    serve_one(&server, |mut stream| async move {
        stream.write_all(b"last words").await.expect("taken");
        // The client has them.
        stream.read_u8().await.expect("a byte");
        stream.abort();
    })
    .await;
    let (words, error) = with_client(&client, |mut stream| async move {
        let mut words = [0; 10];
        stream.read_exact(&mut words).await.expect("ten bytes");
        stream.write_u8(1).await.expect("taken");
        let error = stream.read_u8().await.expect_err("it was reset");
        let again = stream.write_u8(2).await.expect_err("it was reset");
        assert_eq!(again.kind(), ErrorKind::ConnectionReset);
        (words, error)
    })
    .await;
    assert_eq!(&words, b"last words");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(
        error
            .get_ref()
            .is_some_and(|source| source.is::<TcpError>())
    );
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn a_stream_that_is_dropped_ends_well_if_everything_was_read_and_else_by_a_reset() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    for is_read in [true, false] {
        serve_one(&server, move |mut stream| async move {
            stream.write_all(b"some bytes").await.expect("taken");
            let mut buffer = [0; 5];
            let wanted = if is_read { 5 } else { 3 };
            stream
                .read_exact(&mut buffer[..wanted])
                .await
                .expect("read");
        })
        .await;
        let result = with_client(&client, |mut stream| async move {
            stream.write_all(b"12345").await.expect("taken");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.map(|_| received)
        })
        .await;
        match is_read {
            true => assert_eq!(result.expect("no error"), b"some bytes"),
            false => assert_eq!(
                result.expect_err("reset").kind(),
                ErrorKind::ConnectionReset
            ),
        }
    }
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn lingering_ends_when_the_peer_has_everything() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (seen, mut received) = unbounded_channel();
    serve_one(&server, move |mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("no error");
        let _ = seen.send(all.len());
    })
    .await;
    with_client(&client, |mut stream| async move {
        stream.write_all(&bytes(1, 300_000)).await.expect("taken");
        stream.linger().await.expect("everything arrived");
    })
    .await;
    assert_eq!(within(received.recv()).await, Some(300_000));
    server.shutdown().await;
    client.shutdown().await;
}

/// What a [`Watcher`] is told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Bytes(usize),
    Event(TcpEventKind),
}

/// Counts what a connection brings.
struct Watcher {
    _stream: TcpStream,
    told: UnboundedSender<Told>,
}

impl Actor for Watcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self._stream.events_to(ctx.address());
        self._stream.deliver_to(ctx.address());
    }
}

impl Handler<TcpReceived> for Watcher {
    type Result = ();

    fn handle(&mut self, received: TcpReceived, _: &mut Self::Context) {
        let _ = self.told.send(Told::Bytes(received.len()));
    }
}

impl Handler<TcpEvent> for Watcher {
    type Result = ();

    fn handle(&mut self, event: TcpEvent, _: &mut Self::Context) {
        let _ = self.told.send(Told::Event(event.kind));
    }
}

#[actix::test]
async fn a_lost_device_is_told_to_actors_readers_and_who_connects() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (client, device) = start(config(1), left).await;
    let (server, _) = start(config(2), right).await;
    serve_one(&server, keep).await;
    let (told, mut events) = unbounded_channel();
    let error = client.run_on(0, |local| async move {
        let stream = connect(&local, address("10.0.0.2:7")).await;
        let watcher = Watcher {
            _stream: stream,
            told,
        };
        watcher.start();
        let other = local.connect_tcp(address("10.0.0.9:7"), TcpOptions::default());
        device.unplug();
        let error = other.await.expect_err("the device is gone");
        let late = local.connect_tcp(address("10.0.0.9:7"), TcpOptions::default());
        (error, late.await.expect_err("the device is gone"))
    });
    let (error, late) = within(error).await.expect("it runs");
    for error in [error, late] {
        assert!(matches!(error, TcpConnectError::Stopped(_)), "{error}");
        let error = std::io::Error::from(error);
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    }
    match within(events.recv()).await {
        Some(Told::Event(TcpEventKind::Closed(CloseReason::DeviceLost(_)))) => {}
        other => panic!("{other:?}"),
    }
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn a_stack_that_shuts_down_finishes_its_connections() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (told, mut events) = unbounded_channel();
    serve_one(&server, move |mut stream| async move {
        stream.write_all(&bytes(1, 100_000)).await.expect("taken");
        let watcher = Watcher {
            _stream: stream,
            told,
        };
        watcher.start();
    })
    .await;
    let (ready, connected) = oneshot::channel();
    let (read, result) = oneshot::channel();
    let (release, released) = oneshot::channel::<()>();
    let reader = actix::spawn({
        let client = client.clone();
        async move {
            with_client(&client, |mut stream| async move {
                let mut first = [0; 1];
                stream.read_exact(&mut first).await.expect("a byte");
                let _ = ready.send(());
                let mut rest = Vec::new();
                let end = stream.read_to_end(&mut rest).await;
                let _ = read.send((first[0], rest, end.map_err(|error| error.kind())));
                // This side does not finish: the connection is not over by itself.
                let _ = released.await;
            })
            .await;
        }
    });
    within(connected).await.expect("connected");
    within(server.shutdown()).await;
    let (first, rest, end) = within(result).await.expect("it ends");
    drop(release);
    within(reader).await.expect("it ends");
    let expected = bytes(1, 100_000);
    assert!((first, &rest[..]) == (expected[0], &expected[1..]));
    assert!(end.is_ok(), "{end:?}");
    let mut last = None;
    while let Some(event) = within(events.recv()).await {
        last = Some(event);
    }
    let closed = TcpEventKind::Closed(CloseReason::Shutdown);
    assert_eq!(last, Some(Told::Event(closed)));
    client.shutdown().await;
}

#[actix::test]
async fn handles_that_are_dropped_leave_nothing() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let counted = client.run_on(0, |local| async move {
        let listener = listen(&local, "10.0.0.1:0").await;
        let address = listener.local_addr().expect("it listens");
        assert_ne!(address.port(), 0);
        // To ourselves, given up before it is open.
        drop(local.connect_tcp(address, TcpOptions::default()));
        drop(local.connect_tcp(
            super::super::support::address("10.0.0.2:7"),
            TcpOptions::default(),
        ));
        drop(listener);
        let again = local.listen_tcp(address, Default::default()).await;
        assert!(again.is_ok(), "the port is free at once");
        local.counters()
    });
    let counters = within(counted).await.expect("it runs");
    assert_eq!(counters.tcp.sockets, 0);
    assert_eq!(counters.tcp.usage.connections, 0);
    server.shutdown().await;
    client.shutdown().await;
}
