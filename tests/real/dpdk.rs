//! DPDK's vhost backend as the device.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use actix::prelude::*;
use libtest_mimic::Trial;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use virtroupe::driver::memory::HugePages;
use virtroupe::wire::host::{Neighbor, Route};
use virtroupe::{
    BindError, Config, DeviceUrl, Lifecycle, LocalStack, Supervisor, UdpReceived, UdpSocket,
};

use crate::probe::within;
use crate::support::process::TemporaryPath;
use crate::support::requirement::Requirement;
use crate::support::testpmd::{Options, Testpmd};
use crate::support::{Outcome, Suite, take_turn};

/// Flows that testpmd's flowgen makes.
const FLOWS: usize = 1024;

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    let dpdk = Requirement::Dpdk { huge_pages: 512 };
    vec![
        suite.test(
            "dpdk::every_flow_is_echoed_until_the_backend_dies",
            &[dpdk],
            every_flow_is_echoed_until_the_backend_dies,
        ),
        suite.test(
            "dpdk::two_queues_echo_every_flow_on_two_cpus",
            &[dpdk],
            || every_flow_is_echoed_by_its_cpu(2, 2),
        ),
        suite.test(
            "dpdk::two_queues_echo_every_flow_on_three_cpus",
            &[dpdk],
            || every_flow_is_echoed_by_its_cpu(2, 3),
        ),
        suite.test(
            "dpdk::one_queue_echoes_every_flow_on_two_cpus",
            &[dpdk],
            || every_flow_is_echoed_by_its_cpu(1, 2),
        ),
    ]
}

/// Echoes, counts, and remembers which addresses were asked for.
struct Echo {
    socket: UdpSocket,
    asked: HashSet<SocketAddr>,
    tally: Tally,
}

/// What an [`Echo`] did.
#[derive(Debug, Clone, Copy, Default, MessageResponse)]
struct Tally {
    flows: usize,
    received: u64,
    accepted: u64,
    refused: u64,
}

impl Actor for Echo {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.deliver_to(ctx.address());
    }
}

impl Handler<UdpReceived> for Echo {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        self.tally.received += received.datagrams.len() as u64;
        self.asked.extend(
            received
                .datagrams
                .iter()
                .map(|datagram| datagram.destination),
        );
        self.tally.flows = self.asked.len();
        let outcome = self.socket.reply(received.datagrams.drain(..));
        self.tally.accepted += outcome.accepted as u64;
        self.tally.refused += outcome.refused as u64;
    }
}

#[derive(Message)]
#[rtype(result = "Tally")]
struct Report;

impl Handler<Report> for Echo {
    type Result = Tally;

    fn handle(&mut self, _: Report, _: &mut Self::Context) -> Tally {
        self.tally
    }
}

/// Passes on what happens to the stack.
struct Watcher(UnboundedSender<Lifecycle>);

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<Lifecycle> for Watcher {
    type Result = ();

    fn handle(&mut self, event: Lifecycle, _: &mut Self::Context) {
        let _ = self.0.send(event);
    }
}

fn every_flow_is_echoed_until_the_backend_dies() -> Outcome<()> {
    let _turn = take_turn();
    let socket = TemporaryPath::new("flows");
    let mut backend = Testpmd::start(&Options {
        role: "flows",
        core: 0,
        vdev: format!("net_vhost0,iface={},queues=1", socket.display()),
        forward: vec![
            "--forward-mode=flowgen".into(),
            format!("--flowgen-flows={FLOWS}"),
        ],
        namespace: None,
    })?;
    let config = config(socket.to_path_buf())?;
    System::new().block_on(async move {
        let stack = Supervisor::start(config).await?;
        let (events, mut seen) = unbounded_channel();
        stack.subscribe(Watcher(events).start());
        let echo = stack.run_on(0, |local: LocalStack| async move {
            let socket = local.bind_udp(([0, 0, 0, 0], 1001).into()).await?;
            let (asked, tally) = (HashSet::new(), Tally::default());
            Ok::<_, BindError>(
                Echo {
                    socket,
                    asked,
                    tally,
                }
                .start(),
            )
        });
        let echo = echo.await??;
        backend.forward()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let (returned, tally) = loop {
            let returned = backend.port_stats()?.received;
            let tally = within(echo.send(Report)).await?;
            if returned > 100 * FLOWS as u64 && tally.flows == FLOWS {
                break (returned, tally);
            }
            assert!(
                Instant::now() < deadline,
                "{returned} packets came back, {tally:?}"
            );
            thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(tally.received, tally.accepted + tally.refused, "{tally:?}");
        assert!(
            returned <= tally.accepted,
            "{returned} packets came back of {tally:?}"
        );
        // Killed, in the middle of its work.
        drop(backend);
        loop {
            match within(seen.recv()).await.ok_or("the watcher ended")? {
                Lifecycle::DeviceLost(how) => {
                    assert!(!how.is_empty());
                    break;
                }
                Lifecycle::Stopped => panic!("a lost device is expected, not an orderly end"),
                _ => (),
            }
        }
        within(stack.shutdown()).await;
        Ok(())
    })
}

/// Every flow is echoed, by one cpu only, and every queue receives and sends.
fn every_flow_is_echoed_by_its_cpu(queues: u16, cpus: u16) -> Outcome<()> {
    let _turn = take_turn();
    let socket = TemporaryPath::new("cpus");
    let mut backend = Testpmd::start(&Options {
        role: "cpus",
        core: 0,
        vdev: format!("net_vhost0,iface={},queues={queues}", socket.display()),
        forward: vec![
            "--forward-mode=flowgen".into(),
            format!("--flowgen-flows={FLOWS}"),
            format!("--rxq={queues}"),
            format!("--txq={queues}"),
        ],
        namespace: None,
    })?;
    let config = config(socket.to_path_buf())?.queues(queues).cpus(cpus);
    System::new().block_on(async move {
        let stack = Supervisor::start(config).await?;
        let echoes = stack.run_on_each(|local| async move {
            let socket = local.bind_udp_per_cpu(([0, 0, 0, 0], 1001).into()).await?;
            let (asked, tally) = (HashSet::new(), Tally::default());
            Ok::<_, BindError>(
                Echo {
                    socket,
                    asked,
                    tally,
                }
                .start(),
            )
        });
        let echoes = echoes.await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        backend.forward()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let tallies = loop {
            let returned = backend.port_stats()?.received;
            let mut tallies = Vec::new();
            for echo in &echoes {
                tallies.push(within(echo.send(Report)).await?);
            }
            let flows: usize = tallies.iter().map(|tally| tally.flows).sum();
            if returned > 100 * FLOWS as u64 && flows >= FLOWS {
                break tallies;
            }
            assert!(
                Instant::now() < deadline,
                "{returned} packets came back, {tallies:?}"
            );
            thread::sleep(Duration::from_millis(50));
        };
        let flows: usize = tallies.iter().map(|tally| tally.flows).sum();
        assert_eq!(flows, FLOWS, "each flow has one cpu: {tallies:?}");
        for tally in &tallies {
            assert!(tally.flows > 0, "{tallies:?}");
            assert_eq!(tally.received, tally.accepted + tally.refused, "{tally:?}");
        }
        let stats = stack.stats().await?;
        for cpu in stats.cpus.iter().filter(|cpu| !cpu.queues.is_empty()) {
            assert!(cpu.received_frames > 0 && cpu.sent_frames > 0, "{stats}");
        }
        within(stack.shutdown()).await;
        backend.quit()
    })
}

/// What flowgen sends to: UDP from 10.254.0.0:1000 to port 1001 at 1024 addresses from
/// 10.253.0.0 on. It answers no ARP.
fn config(socket: PathBuf) -> Outcome<Config> {
    let generator = "10.254.0.0".parse()?;
    let mut config = Config::new(DeviceUrl::VhostUser(socket))
        .owned("10.253.0.0/22".parse()?)
        .mac("00:01:02:03:04:01".parse()?);
    config.options.huge_pages = HugePages::Never;
    config.host.neighbors.push(Neighbor {
        address: generator,
        mac: "00:01:02:03:04:00".parse()?,
    });
    config.host.routes.push(Route {
        destination: generator.into(),
        gateway: None,
    });
    Ok(config)
}
