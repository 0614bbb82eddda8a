//! Several cpus, with as many queues or fewer: every connection is where it belongs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use virtroupe::driver::embedded::{Link, LinkConfig};
use virtroupe::{
    BindError, ListenOptions, LocalStack, Stack, TcpAccepted, TcpListener, TcpOptions, TcpStream,
};

use super::super::support::{address, config, pair, start, within};
use super::support::{bytes, connect, echo, listen, wide};

/// Connections from each cpu of the client.
const CONNECTIONS: usize = 24;

/// Takes connections as messages of its context, and echoes each; tells from which peer it was.
struct Server {
    cpu: u16,
    seen: UnboundedSender<(u16, SocketAddr)>,
}

impl Actor for Server {
    type Context = Context<Self>;
}

impl StreamHandler<TcpStream> for Server {
    fn handle(&mut self, mut stream: TcpStream, ctx: &mut Self::Context) {
        let peer = stream.peer_addr().expect("it is open");
        let _ = self.seen.send((self.cpu, peer));
        let echo = async move {
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..count]).await.expect("taken");
            }
        };
        ctx.spawn(echo.into_actor(self));
    }
}

fn serve(local: &LocalStack, listener: TcpListener, seen: UnboundedSender<(u16, SocketAddr)>) {
    let cpu = local.cpu();
    Server::create(|ctx| {
        ctx.add_stream(listener);
        Server { cpu, seen }
    });
}

/// Opens connections from each cpu of `client`, and sends something through each and back.
/// Returns the local ends, by cpu.
async fn talk(client: &Stack, to: &'static str) -> Vec<Vec<SocketAddr>> {
    let talking = client.run_on_each(move |local| async move {
        let mut locals = Vec::new();
        for number in 0..CONNECTIONS {
            let mut stream = connect(&local, address(to)).await;
            locals.push(stream.local_addr().expect("it is open"));
            let sent = bytes(number as u64, 20_000);
            let (expected, mut received) = (sent.clone(), vec![0; sent.len()]);
            stream.write_all(&sent).await.expect("taken");
            stream.read_exact(&mut received).await.expect("echoed");
            assert!(received == expected);
            stream.shutdown().await.expect("finished");
            assert_eq!(stream.read(&mut [0]).await.expect("the end"), 0);
        }
        locals
    });
    within(talking).await.expect("it runs")
}

/// Connections of a stack that were reset. What its peers send is no measure: who gets an
/// acknowledgment twice, as a peer was slow, resets a connection that is over on both sides.
async fn resets(stack: &Stack) -> u64 {
    let stats = within(stack.stats()).await.expect("it runs");
    let engines = stats.cpus.iter().map(|cpu| &cpu.shard.tcp.engine);
    engines.map(|engine| engine.resets_received).sum()
}

/// Every cpu of the server, with `queues` for `cpus`, gets the flows that it owns: it listens at
/// `at`, and is reached at `to`.
async fn each_gets_its_own(cpus: u16, queues: u16, (at, to): (&'static str, &'static str)) {
    let (left, right) = Link::pair(LinkConfig::default());
    let (client, _) = start(wide(1, cpus, queues), left).await;
    let (server, _) = start(wide(2, cpus, queues), right).await;
    let (seen, mut accepted) = unbounded_channel();
    let listening = server.run_on_each(move |local| {
        let seen = seen.clone();
        async move {
            let listening = local.listen_tcp_per_cpu(address(at), ListenOptions::default());
            let listener = listening.await?;
            serve(&local, listener, seen);
            Ok::<_, BindError>(())
        }
    });
    for listening in within(listening).await.expect("it runs") {
        listening.expect("free");
    }
    let locals = talk(&client, to).await;
    assert_eq!(resets(&client).await, 0);
    let stats = within(server.stats()).await.expect("it runs");
    let mut by_cpu = vec![0; usize::from(cpus)];
    for _ in 0..usize::from(cpus) * CONNECTIONS {
        let (cpu, peer) = within(accepted.recv()).await.expect("accepted");
        assert!(locals.iter().flatten().any(|local| *local == peer));
        by_cpu[usize::from(cpu)] += 1;
    }
    assert!(by_cpu.iter().all(|count| *count > 0), "{by_cpu:?}");
    for cpu in &stats.cpus {
        let tcp = &cpu.shard.tcp;
        let handled = tcp.engine.accepted + tcp.drops.total();
        assert_eq!(tcp.engine.rx_segments, handled);
        assert_eq!(cpu.shard.host.delivered, handled);
        assert_eq!(tcp.engine.opened, by_cpu[usize::from(cpu.cpu)]);
        assert!(
            cpu.shard.host.tx_segmented > 0,
            "cpu {} sends long segments: {:?}",
            cpu.cpu,
            tcp.engine
        );
    }
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

const IPV4: (&str, &str) = ("0.0.0.0:7", "10.0.0.2:7");
const IPV6: (&str, &str) = ("[::]:7", "[fd00::2]:7");

#[actix::test]
async fn each_of_several_cpus_gets_its_own_connections_over_ipv6() {
    each_gets_its_own(3, 1, IPV6).await;
    each_gets_its_own(4, 2, IPV6).await;
}

#[actix::test]
async fn each_of_three_cpus_with_one_queue_gets_its_own_connections() {
    each_gets_its_own(3, 1, IPV4).await;
}

#[actix::test]
async fn each_of_four_cpus_with_two_queues_gets_its_own_connections() {
    each_gets_its_own(4, 2, IPV4).await;
}

#[actix::test]
async fn each_of_two_cpus_with_two_queues_gets_its_own_connections() {
    each_gets_its_own(2, 2, IPV4).await;
}

#[actix::test]
async fn a_listener_on_one_cpu_has_all_connections_also_after_it_is_closed() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (client, _) = start(wide(1, 2, 2), left).await;
    let (server, _) = start(wide(2, 3, 1), right).await;
    let listening = server.run_on(2, |local| async move {
        let at = address("10.0.0.2:7");
        let listener = local.listen_tcp(at, ListenOptions::default()).await?;
        actix::spawn(async move {
            for _ in 0..8 {
                let mut stream = listener.accept().await.expect("a connection");
                actix::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        stream.write_all(&buffer[..count]).await.expect("taken");
                    }
                });
            }
            // From now on only its connections keep the address.
            drop(listener);
        });
        Ok::<_, BindError>(())
    });
    within(listening).await.expect("it runs").expect("free");
    let talking = client.run_on_each(|local| async move {
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(connect(&local, address("10.0.0.2:7")).await);
        }
        for stream in &mut streams {
            let mut received = vec![0; 50_000];
            let sent = bytes(5, received.len());
            stream.write_all(&sent).await.expect("taken");
            stream.read_exact(&mut received).await.expect("echoed");
            assert!(received == sent);
        }
    });
    within(talking).await.expect("it runs");
    let stats = within(server.stats()).await.expect("it runs");
    let opened = |cpu: usize| stats.cpus[cpu].shard.tcp.engine.opened;
    assert_eq!([opened(0), opened(1), opened(2)], [0, 0, 8]);
    // When the last connection is over, another cpu may have the address. It waits for that.
    let again = server.run_on(0, |local| async move {
        let at = address("10.0.0.2:7");
        let listening = local.listen_tcp(at, ListenOptions::default()).await;
        listening.map(|listener| listener.local_addr())
    });
    let again = within(again).await.expect("it runs");
    assert_eq!(again, Ok(Some(address("10.0.0.2:7"))));
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

/// Connects from each cpu of `client` again and again until `stop`; each connection is kept and used
/// once more at the end. Returns how many there were.
async fn connect_meanwhile(client: &Stack, stop: Arc<AtomicBool>) -> usize {
    let talking = client.run_on_each(move |local| {
        let stop = stop.clone();
        async move {
            let mut streams = Vec::new();
            while !stop.load(Ordering::Relaxed) && streams.len() < 400 {
                let mut stream = connect(&local, address("10.0.0.2:7")).await;
                stream.write_u32(7).await.expect("taken");
                assert_eq!(stream.read_u32().await.expect("echoed"), 7);
                streams.push(stream);
            }
            talk_again(&mut streams).await;
            streams.len()
        }
    });
    within(talking).await.expect("it runs").into_iter().sum()
}

/// From the moment that the first cpu listens, whoever connects is served, and stays so: also those
/// whose flows belong to cpus that listen later.
#[actix::test]
async fn connections_survive_that_other_cpus_begin_to_listen() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (client, _) = start(wide(1, 2, 2), left).await;
    let (server, _) = start(wide(2, 4, 2), right).await;
    let (seen, _accepted) = unbounded_channel();
    let listen_on = |cpu: u16| {
        let seen = seen.clone();
        server.run_on(cpu, move |local| async move {
            let listening = local.listen_tcp_per_cpu(address("0.0.0.0:7"), Default::default());
            serve(&local, listening.await?, seen);
            Ok::<_, BindError>(())
        })
    };
    within(listen_on(0)).await.expect("it runs").expect("free");
    let stop = Arc::new(AtomicBool::new(false));
    let listening = async {
        for cpu in 1..4 {
            // Some connections lie in between.
            tokio::time::sleep(Duration::from_millis(30)).await;
            within(listen_on(cpu))
                .await
                .expect("it runs")
                .expect("free");
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (count, ()) = tokio::join!(connect_meanwhile(&client, stop.clone()), listening);
    let stats = within(server.stats()).await.expect("it runs");
    let engines = stats.cpus.iter().map(|cpu| &cpu.shard.tcp.engine);
    let opened = engines.map(|engine| engine.opened as usize);
    assert_eq!(opened.sum::<usize>(), count);
    assert_eq!(resets(&client).await, 0);
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

/// Listens on a cpu, with others, and echoes, until what is returned is dropped, or gets whom to tell
/// that the listener is closed.
async fn listen_until(server: &Stack, cpu: u16) -> oneshot::Sender<oneshot::Sender<()>> {
    let (open, mut closes) = oneshot::channel::<oneshot::Sender<()>>();
    let listening = server.run_on(cpu, move |local| async move {
        let listening = local.listen_tcp_per_cpu(address("0.0.0.0:7"), Default::default());
        let listener = listening.await?;
        actix::spawn(async move {
            loop {
                tokio::select! {
                    stream = listener.accept() => {
                        actix::spawn(echo(stream.expect("it listens")));
                    }
                    closes = &mut closes => {
                        drop(listener);
                        return drop(closes.map(|closed| closed.send(())));
                    }
                }
            }
        });
        Ok::<_, BindError>(())
    });
    within(listening).await.expect("it runs").expect("free");
    open
}

/// Sends something through each of the streams and back.
async fn talk_again(streams: &mut [TcpStream]) {
    for stream in streams {
        let (sent, mut received) = (bytes(3, 5000), vec![0; 5000]);
        stream.write_all(&sent).await.expect("taken");
        stream.read_exact(&mut received).await.expect("echoed");
        assert!(received == sent);
    }
}

/// The others get what begins from now on; nobody is refused.
#[actix::test]
async fn connections_survive_that_their_cpu_listens_no_more_and_later_again() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (client, _) = start(config(1), left).await;
    let (server, _) = start(wide(2, 3, 1), right).await;
    let first = listen_until(&server, 0).await;
    let _second = listen_until(&server, 1).await;
    let (step, mut steps) = unbounded_channel();
    let (done, mut is_done) = unbounded_channel();
    let talking = client.run_on(0, move |local| async move {
        let mut streams = Vec::new();
        while let Some(()) = steps.recv().await {
            for _ in 0..40 {
                streams.push(connect(&local, address("10.0.0.2:7")).await);
            }
            talk_again(&mut streams).await;
            let _ = done.send(());
        }
    });
    let server_side = async {
        let mut round = async || {
            let _ = step.send(());
            within(is_done.recv()).await.expect("it went well");
            let stats = within(server.stats()).await.expect("it runs");
            let cpus = stats.cpus.iter();
            let engines = cpus.map(|cpu| &cpu.shard.tcp.engine);
            assert_eq!(resets(&client).await, 0);
            engines.map(|it| it.opened).collect::<Vec<_>>()
        };
        let both = round().await;
        assert!(both[0] > 0 && both[1] > 0 && both[2] == 0, "{both:?}");
        let (closed, is_closed) = oneshot::channel();
        let _ = first.send(closed);
        within(is_closed).await.expect("it closes");
        // Until the other cpus know: what another cpu binds is known later.
        let known = server.run_on(0, |local| async move {
            local.bind_udp(address("0.0.0.0:0")).await.map(drop)
        });
        within(known).await.expect("it runs").expect("free");
        assert_eq!(round().await, [both[0], both[1] + 40, 0]);
        let _first = listen_until(&server, 0).await;
        let again = round().await;
        assert!(again[0] > both[0] && again[1] > both[1] + 40, "{again:?}");
        drop(step);
    };
    let (talked, ()) = tokio::join!(talking, server_side);
    talked.expect("it runs");
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

/// Gets connections on another arbiter than theirs, and drops or forwards them.
struct Acceptor(UnboundedSender<TcpAccepted>);

impl Actor for Acceptor {
    type Context = Context<Self>;
}

impl Handler<TcpAccepted> for Acceptor {
    type Result = ();

    fn handle(&mut self, accepted: TcpAccepted, _: &mut Self::Context) {
        let _ = self.0.send(accepted);
    }
}

#[actix::test]
async fn an_accepted_connection_is_claimed_on_its_cpu_or_reset() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (client, _) = start(config(1), left).await;
    let (server, _) = start(wide(2, 2, 1), right).await;
    let (forward, mut connections) = unbounded_channel();
    let acceptor = Acceptor(forward).start();
    let listening = server.run_on(1, move |local| async move {
        let at = address("10.0.0.2:7");
        let listener = local.listen_tcp(at, ListenOptions::default()).await?;
        listener.deliver_to(acceptor);
        actix::spawn(async move {
            std::future::pending::<()>().await;
            drop(listener);
        });
        Ok::<_, BindError>(())
    });
    within(listening).await.expect("it runs").expect("free");
    let talking = client.run_on(0, |local| async move {
        let options = TcpOptions::default();
        let mut first = local
            .connect_tcp(address("10.0.0.2:7"), options.clone())
            .await
            .expect("accepted");
        let answer = first.read_u8().await.expect("claimed");
        let mut second = local
            .connect_tcp(address("10.0.0.2:7"), options)
            .await
            .expect("accepted");
        let error = second.read_u8().await.expect_err("dropped");
        (answer, error.kind())
    });
    let serving = async {
        let accepted = connections.recv().await.expect("a connection");
        assert_eq!(accepted.cpu, 1);
        let accepted = server
            .run_on(0, |local| async move { local.claim_tcp(accepted).err() })
            .await
            .expect("it runs")
            .expect("it is not of this cpu");
        let claimed = server.run_on(1, |local| async move {
            let mut stream = local.claim_tcp(accepted).expect("of this cpu");
            stream.write_u8(42).await.expect("taken");
        });
        claimed.await.expect("it runs");
        drop(connections.recv().await);
    };
    let (result, ()) = within(async { tokio::join!(talking, serving) }).await;
    let expected = (42, std::io::ErrorKind::ConnectionReset);
    assert_eq!(result.expect("it runs"), expected);
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}

/// Two stacks name their connections alike.
#[actix::test]
async fn a_connection_is_not_claimed_on_another_stack() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (forward, mut connections) = unbounded_channel();
    let acceptor = Acceptor(forward).start();
    let listening = server.run_on(0, move |local| async move {
        let listener = listen(&local, "10.0.0.2:7").await;
        listener.deliver_to(acceptor);
        actix::spawn(async move {
            std::future::pending::<()>().await;
            drop(listener);
        });
    });
    within(listening).await.expect("it runs");
    let claimed = client.run_on(0, move |local| async move {
        let mut stream = connect(&local, address("10.0.0.2:7")).await;
        let accepted = connections.recv().await.expect("a connection");
        let accepted = local.claim_tcp(accepted).expect_err("it is the other's");
        drop(accepted);
        stream.read_u8().await.expect_err("it was reset").kind()
    });
    let kind = within(claimed).await.expect("it runs");
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}
