//! Tasks that wait at one listener.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use actix::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use virtroupe::driver::embedded::LinkConfig;
use virtroupe::{LocalStack, Stack, TcpAccepted, TcpListener, TcpStream};

use super::super::support::{Stop, address, pair, within};
use super::support::{connect, listen};

const SERVER: &str = "10.0.0.2:7";

/// Connects from cpu 0 of `stack`, and returns the first byte that comes, or the error.
async fn first_byte(stack: &Stack) -> std::io::Result<u8> {
    let read = stack.run_on(0, |local| async move {
        connect(&local, address(SERVER)).await.read_u8().await
    });
    within(read).await.expect("it runs")
}

/// Polls once, so that it waits.
async fn begin<F: Future>(mut waiting: std::pin::Pin<&mut F>) {
    poll_fn(|cx| {
        assert!(waiting.as_mut().poll(cx).is_pending(), "nobody has come");
        Poll::Ready(())
    })
    .await;
}

/// Waits until `stack` has opened so many connections in all.
async fn until_opened(stack: &Stack, count: u64) {
    loop {
        let stats = stack.stats().await.expect("it runs");
        let opened = stats.cpus.iter().map(|cpu| cpu.shard.tcp.engine.opened);
        if opened.sum::<u64>() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[actix::test]
async fn each_connection_is_for_the_task_that_has_waited_longest() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let started = server.run_on(0, |local| async move {
        let listener = Rc::new(listen(&local, SERVER).await);
        for task in 0..8 {
            let listener = Rc::clone(&listener);
            actix::spawn(async move {
                let mut stream: TcpStream = listener.accept().await.expect("a connection");
                stream.write_u8(task).await.expect("taken");
                let _ = stream.read_u8().await;
            });
        }
    });
    within(started).await.expect("it runs");
    let bytes = client.run_on(0, |local| async move {
        let mut streams = Vec::new();
        // One after the other, and then four at once.
        for _ in 0..4 {
            let mut stream = connect(&local, address(SERVER)).await;
            let byte = stream.read_u8().await.expect("it is served");
            streams.push((byte, stream));
        }
        let (sender, mut receiver) = unbounded_channel();
        for _ in 4..8 {
            let (local, sender) = (local.clone(), sender.clone());
            actix::spawn(async move {
                let mut stream = connect(&local, address(SERVER)).await;
                let byte = stream.read_u8().await.expect("it is served");
                let _ = sender.send((byte, stream));
            });
        }
        for _ in 4..8 {
            streams.extend(receiver.recv().await);
        }
        streams
            .into_iter()
            .map(|(byte, _)| byte)
            .collect::<Vec<_>>()
    });
    let mut bytes = within(bytes).await.expect("it runs");
    assert_eq!(bytes[..4], [0, 1, 2, 3]);
    bytes.sort_unstable();
    assert_eq!(
        bytes,
        [0, 1, 2, 3, 4, 5, 6, 7],
        "none is served by two, or by none"
    );
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn what_a_cancelled_task_was_given_is_the_next_ones() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (opened, mut is_open) = unbounded_channel::<()>();
    let served = server.run_on(0, |local| async move {
        let listener = listen(&local, SERVER).await;
        {
            let (mut first, mut second) = (Box::pin(listener.accept()), pin!(listener.accept()));
            begin(first.as_mut()).await;
            begin(second.as_mut()).await;
            is_open.recv().await;
            // It was given the connection, and does not know.
            drop(first);
            second
                .await
                .expect("a connection")
                .write_u8(1)
                .await
                .expect("taken");
        }
        {
            let mut alone = Box::pin(listener.accept());
            begin(alone.as_mut()).await;
            is_open.recv().await;
        }
        let mut stream = listener.accept().await.expect("nobody else took it");
        stream.write_u8(2).await.expect("taken");
    });
    let asked = async {
        for count in [1, 2] {
            let opened = opened.clone();
            let open = async {
                until_opened(&server, count).await;
                opened.send(()).expect("it waits");
            };
            let (byte, ()) = tokio::join!(first_byte(&client), open);
            assert_eq!(byte.expect("it is served"), count as u8);
        }
    };
    let (served, ()) = within(async { tokio::join!(served, asked) }).await;
    served.expect("it runs");
    server.shutdown().await;
    client.shutdown().await;
}

/// Has a connection given to a task that waits by `accept`, and leaves without taking it when
/// `others` has done what it does; that is told when it was given. Returns the first byte that the
/// client gets of whoever takes it.
async fn left_to<F>(
    others: impl FnOnce(LocalStack, Rc<TcpListener>, UnboundedReceiver<()>) -> F + Send + 'static,
) -> u8
where
    F: Future<Output = ()> + 'static,
{
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (opened, is_open) = unbounded_channel::<()>();
    let left = server.run_on(0, |local| async move {
        let listener = Rc::new(listen(&local, SERVER).await);
        {
            let mut leaving = pin!(listener.accept());
            begin(leaving.as_mut()).await;
            others(local, Rc::clone(&listener), is_open).await;
        }
        // Open for as long as the stack.
        actix::spawn(async move { (std::future::pending::<()>().await, listener) });
    });
    let asked = async {
        let open = async {
            until_opened(&server, 1).await;
            opened.send(()).expect("it waits");
        };
        tokio::join!(first_byte(&client), open).0
    };
    let (left, byte) = within(async { tokio::join!(left, asked) }).await;
    left.expect("it runs");
    server.shutdown().await;
    client.shutdown().await;
    byte.expect("it is served")
}

#[actix::test]
async fn what_a_cancelled_task_was_given_wakes_one_that_polls() {
    let polls = left_to(|_, listener, mut is_given| async move {
        actix::spawn(async move {
            let polled = poll_fn(|cx| listener.poll_accept(cx)).await;
            let mut stream = polled.expect("a connection");
            stream.write_u8(3).await.expect("taken");
            let _ = stream.read_u8().await;
        });
        is_given.recv().await;
        // It was woken, too, and has found nothing.
        tokio::task::yield_now().await;
    });
    assert_eq!(polls.await, 3);
}

/// Writes a byte to each connection.
struct Greeter {
    local: LocalStack,
    streams: Vec<TcpStream>,
}

impl Actor for Greeter {
    type Context = Context<Self>;
}

impl Handler<TcpAccepted> for Greeter {
    type Result = ();

    fn handle(&mut self, accepted: TcpAccepted, _: &mut Self::Context) {
        let stream = self.local.claim_tcp(accepted).expect("of this cpu");
        assert!(stream.send(vec![4]).refused.is_none());
        self.streams.push(stream);
    }
}

impl Handler<Stop> for Greeter {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

#[actix::test]
async fn what_a_cancelled_task_was_given_goes_to_the_actor_that_was_set_since() {
    let delivers = left_to(|local, listener, mut is_given| async move {
        is_given.recv().await;
        let streams = Vec::new();
        listener.deliver_to(Greeter { local, streams }.start());
    });
    assert_eq!(delivers.await, 4);
}

#[actix::test]
async fn what_was_given_to_a_task_and_not_taken_is_reset_with_the_listener() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (opened, mut is_open) = unbounded_channel::<()>();
    let served = server.run_on(0, |local| async move {
        let listener = listen(&local, SERVER).await;
        {
            let mut waiting = pin!(listener.accept());
            begin(waiting.as_mut()).await;
            is_open.recv().await;
        }
        listener.close();
    });
    let asked = async {
        let open = async {
            until_opened(&server, 1).await;
            opened.send(()).expect("it waits");
        };
        let (byte, ()) = tokio::join!(first_byte(&client), open);
        assert_eq!(
            byte.expect_err("nobody serves").kind(),
            ErrorKind::ConnectionReset
        );
    };
    let (served, ()) = within(async { tokio::join!(served, asked) }).await;
    served.expect("it runs");
    server.shutdown().await;
    client.shutdown().await;
}

/// Takes one connection, and handles nothing more until it is let go.
struct Busy {
    release: std::sync::mpsc::Receiver<()>,
    seen: UnboundedSender<TcpAccepted>,
}

/// Messages that its mailbox holds.
const MAILBOX: usize = 4;

impl Actor for Busy {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<TcpAccepted> for Busy {
    type Result = ();

    fn handle(&mut self, accepted: TcpAccepted, _: &mut Self::Context) {
        let _ = self.release.recv();
        let _ = self.seen.send(accepted);
    }
}

#[actix::test]
async fn what_finds_the_mailbox_of_the_acceptor_full_waits_in_the_backlog() {
    const CLIENTS: u64 = 40;
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (release, is_released) = std::sync::mpsc::channel();
    let (seen, mut accepted) = unbounded_channel();
    let arbiter = Arbiter::new();
    let busy = Busy::start_in_arbiter(&arbiter.handle(), |_| Busy {
        release: is_released,
        seen,
    });
    let started = server.run_on(0, |local| async move {
        let listener = listen(&local, SERVER).await;
        listener.deliver_to(busy);
        // Open for as long as the stack.
        actix::spawn(async move { (std::future::pending::<()>().await, listener) });
    });
    within(started).await.expect("it runs");
    let streams = client.run_on(0, |local| async move {
        let mut streams = Vec::new();
        for _ in 0..CLIENTS {
            streams.push(connect(&local, address(SERVER)).await);
        }
        actix::spawn(async move { (std::future::pending::<()>().await, streams) });
    });
    within(streams).await.expect("it runs");
    within(until_opened(&server, CLIENTS)).await;
    let stats = within(server.stats()).await.expect("it runs");
    // One is being handled; one more than its capacity is in a mailbox, and one waits for room.
    let taken = stats.cpus[0].shard.tcp.sockets;
    assert!(
        taken <= MAILBOX + 3,
        "{taken} connections are in the mailbox"
    );
    drop(release);
    for _ in 0..CLIENTS {
        within(accepted.recv()).await.expect("a connection");
    }
    server.shutdown().await;
    client.shutdown().await;
    arbiter.stop();
}

/// Takes one connection, has those behind it wait in its mailbox, and stops when it is told.
struct Full(Option<oneshot::Receiver<()>>);

impl Actor for Full {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1);
    }
}

impl Handler<TcpAccepted> for Full {
    type Result = ();

    fn handle(&mut self, _: TcpAccepted, ctx: &mut Self::Context) {
        if let Some(end) = self.0.take() {
            let end = async { drop(end.await) }.into_actor(self);
            ctx.wait(end.map(|(), _, ctx| ctx.stop()));
        }
    }
}

#[actix::test]
async fn a_task_that_took_from_the_backlog_waits_no_more() {
    const CLIENTS: u64 = 12;
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (opened, are_open) = oneshot::channel::<()>();
    let served = server.run_on(0, |local| async move {
        let listener = listen(&local, SERVER).await;
        let mut first = Box::pin(listener.accept());
        begin(first.as_mut()).await;
        let (end, ends) = oneshot::channel();
        let full = Full(Some(ends)).start();
        listener.deliver_to(full.clone());
        are_open.await.expect("they connect");
        // The actor has no room for it.
        drop(first.await.expect("a connection"));
        let _ = end.send(());
        while full.connected() {
            tokio::task::yield_now().await;
        }
        actix::spawn(async move { while listener.accept().await.is_ok() {} });
    });
    let talked = client.run_on(0, |local| async move {
        let mut streams = Vec::new();
        for _ in 0..CLIENTS {
            streams.push(connect(&local, address(SERVER)).await);
        }
        for mut stream in streams {
            stream.read_u8().await.expect_err("each is closed");
        }
    });
    let open = async {
        until_opened(&server, CLIENTS).await;
        opened.send(()).expect("it waits");
    };
    let (served, talked, ()) = within(async { tokio::join!(served, talked, open) }).await;
    served.expect("it runs");
    talked.expect("it runs");
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn a_connection_that_finds_its_actor_gone_is_a_tasks_that_waits() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (begun, is_begun) = oneshot::channel();
    let served = server.run_on(0, |local| async move {
        let listener = listen(&local, SERVER).await;
        let mut waiting = pin!(listener.accept());
        begin(waiting.as_mut()).await;
        let streams = Vec::new();
        let gone = Greeter { local, streams }.start();
        listener.deliver_to(gone.clone());
        gone.do_send(Stop);
        while gone.connected() {
            tokio::task::yield_now().await;
        }
        let _ = begun.send(());
        let mut stream = waiting.await.expect("the first connection of all");
        stream.write_u8(5).await.expect("taken");
        let _ = stream.read_u8().await;
    });
    let asked = async {
        is_begun.await.expect("it waits");
        first_byte(&client).await
    };
    let (served, byte) = within(async { tokio::join!(served, asked) }).await;
    served.expect("it runs");
    assert_eq!(byte.expect("it is served"), 5);
    server.shutdown().await;
    client.shutdown().await;
}
