//! Several cpus, with as many queues or fewer: every connection is where it belongs.

use std::net::SocketAddr;

use actix::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use virtroupe::driver::embedded::{Link, LinkConfig};
use virtroupe::{
    BindError, ListenOptions, LocalStack, Stack, TcpAccepted, TcpListener, TcpOptions, TcpStream,
};

use super::super::support::{address, config, pair, start, within};
use super::support::{bytes, connect, listen, wide};

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
        assert_eq!(tcp.engine.resets_sent, 0, "cpu {}", cpu.cpu);
        let handled = tcp.engine.accepted + tcp.drops.total();
        assert_eq!(tcp.engine.rx_segments, handled);
        assert_eq!(cpu.shard.host.delivered, handled);
        assert_eq!(tcp.engine.opened, by_cpu[usize::from(cpu.cpu)]);
        assert!(
            tcp.engine.tx_bytes > tcp.engine.tx_segments * 1448 / 2,
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
