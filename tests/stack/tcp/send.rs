//! The stream that is `Send`: on other threads, and how it ends.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;
use virtroupe::driver::embedded::LinkConfig;
use virtroupe::{LocalStack, SendTcpStream, Stack, TcpOptions, TcpStream};

use super::super::support::{address, pair, within};
use super::support::{bytes, connect, echo_server, listen};

async fn stop(server: &Stack, client: &Stack) {
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

/// How a connection fails, without reading from it.
async fn failure(stream: &TcpStream) -> ErrorKind {
    loop {
        match stream.error() {
            Some(error) => return error.kind(),
            None => tokio::task::yield_now().await,
        }
    }
}

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
    stop(&server, &client).await;
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
    stop(&server, &client).await;
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
    stop(&server, &client).await;
}

/// More than the window of a peer that does not read and [`small`] hold, so that some of it waits
/// in the pipe; less than these and the pipe hold.
const STUCK: usize = 300_000;

/// A small send buffer.
fn small() -> TcpOptions {
    TcpOptions {
        send_buffer: 16 << 10,
        ..TcpOptions::default()
    }
}

/// Has `serve` use the next connection at 10.0.0.2:7 of `server`, and opens that from `client`. The
/// result of `serve` comes by the receiver.
async fn open<T, F, Fut>(
    client: &Stack,
    server: &Stack,
    options: TcpOptions,
    serve: F,
) -> (SendTcpStream, oneshot::Receiver<T>)
where
    T: Send + 'static,
    F: FnOnce(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let (done, result) = oneshot::channel();
    let started = server.run_on(0, |local: LocalStack| async move {
        let listener = listen(&local, "10.0.0.2:7").await;
        actix::spawn(async move {
            let stream = listener.accept().await.expect("a connection");
            let _ = done.send(serve(stream).await);
        });
    });
    within(started).await.expect("it runs");
    let stream = client.run_on(0, |local: LocalStack| async move {
        let connecting = local.connect_tcp(address("10.0.0.2:7"), options);
        connecting.await.expect("accepted").into_send()
    });
    (within(stream).await.expect("it runs"), result)
}

/// What the peer learns at last of a stream that is dropped.
async fn end_of(mut stream: TcpStream) -> Result<usize, ErrorKind> {
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest).await;
    end.map_err(|error| error.kind())
}

#[actix::test]
async fn a_sent_stream_that_is_dropped_with_bytes_unread_in_its_pipe_is_reset() {
    for has_peer_finished in [false, true] {
        let (client, server, _) = pair(LinkConfig::default()).await;
        let (mut stream, result) = open(
            &client,
            &server,
            TcpOptions::default(),
            move |mut stream| async move {
                // One segment.
                stream.write_all(&bytes(1, 1000)).await.expect("taken");
                if has_peer_finished {
                    stream.shutdown().await.expect("finished");
                }
                end_of(stream).await
            },
        )
        .await;
        // The others are there, too.
        within(stream.read_u8()).await.expect("a byte");
        within(stream.write_all(b"an answer")).await.expect("taken");
        drop(stream);
        let end = within(result).await.expect("it runs");
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        stop(&server, &client).await;
    }
}

#[actix::test]
async fn a_sent_stream_that_is_dropped_when_all_was_read_sends_what_waits_and_ends_well() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (release, released) = oneshot::channel::<()>();
    let (mut stream, result) = open(&client, &server, small(), move |mut stream| async move {
        stream.write_all(&bytes(1, 1000)).await.expect("taken");
        let _ = released.await;
        end_of(stream).await
    })
    .await;
    within(stream.read_exact(&mut [0; 1000]))
        .await
        .expect("all");
    within(stream.write_all(&bytes(2, STUCK)))
        .await
        .expect("taken");
    drop(stream);
    let _ = release.send(());
    let end = within(result).await.expect("it runs");
    assert_eq!(end, Ok(STUCK));
    stop(&server, &client).await;
}

/// As a connection that was closed, whose bytes are not all sent yet: nobody will read it.
#[actix::test]
async fn what_arrives_after_a_sent_stream_was_dropped_resets_it() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (release, released) = oneshot::channel::<()>();
    let (mut stream, result) = open(&client, &server, small(), move |mut stream| async move {
        let _ = released.await;
        stream.write_all(b"too late").await.expect("taken");
        // Until it is known, nothing is read, which would make room for the client's rest.
        failure(&stream).await
    })
    .await;
    within(stream.write_all(&bytes(2, STUCK)))
        .await
        .expect("taken");
    drop(stream);
    let _ = release.send(());
    let end = within(result).await.expect("it runs");
    assert_eq!(end, ErrorKind::ConnectionReset);
    stop(&server, &client).await;
}

#[actix::test]
async fn a_peer_that_takes_nothing_does_not_keep_a_sent_stream_that_was_dropped() {
    for has_peer_finished in [false, true] {
        let (client, server, _) = pair(LinkConfig::default()).await;
        let options = TcpOptions {
            close_timeout: Duration::from_millis(50),
            ..small()
        };
        let (mut stream, result) = open(&client, &server, options, move |mut stream| async move {
            if has_peer_finished {
                stream.shutdown().await.expect("finished");
            }
            failure(&stream).await
        })
        .await;
        within(stream.write_all(&bytes(2, STUCK)))
            .await
            .expect("taken");
        if has_peer_finished {
            let end = within(stream.read(&mut [0])).await;
            assert_eq!(end.expect("no error"), 0);
        }
        drop(stream);
        let end = within(result).await.expect("it runs");
        assert_eq!(end, ErrorKind::ConnectionReset);
        let counters = client.run_on(0, |local: LocalStack| async move { local.counters() });
        let counters = within(counters).await.expect("it runs");
        assert_eq!(counters.tcp.sockets, 0);
        stop(&server, &client).await;
    }
}
