//! Stacks over a link, and an actor that keeps what it gets.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use virtroupe::driver::embedded::{
    Backend, DeviceThread, EmbeddedConfig, EmbeddedHandle, EmbeddedTransport, Link, LinkConfig,
    LinkMonitor,
};
use virtroupe::wire::host::Neighbor;
use virtroupe::{
    BindError, Buffer, Config, DeviceUrl, DropReason, LocalStack, MacAddr, PacketsReceived,
    Payload, SendOutcome, SocketEvent, Stack, Stats, Supervisor, UdpReceived, UdpSend, UdpSocket,
};

/// A limit for waits that should be short: who reaches it hangs, however slow the machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits, but not for ever.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work)
        .await
        .expect("done within the limit")
}

/// A configuration for the embedded device: 10.0.0.`host`/24, small memory.
pub fn config(host: u8) -> Config {
    let address = format!("10.0.0.{host}/24").parse().expect("an address");
    let mut config = Config::new(DeviceUrl::Own("test".into())).address(address);
    config.options.huge_pages = virtroupe::driver::memory::HugePages::Never;
    config.options.queue_size = 64;
    config.options.pool_frames = 256;
    config
}

/// As [`config`], and fd00::`host`/64, which knows the other of the two hosts 1 and 2.
pub fn config_ipv6(host: u8) -> Config {
    let mut config = config(host);
    let own = format!("fd00::{host}/64").parse().expect("an address");
    config.host.addresses.push(own);
    let other = 3 - host;
    config.host.neighbors.push(Neighbor {
        address: format!("fd00::{other}").parse().expect("an address"),
        mac: MacAddr([2, 0, 0, 0, 0, other]),
    });
    config
}

/// Starts a stack with `config` on an embedded device with `backend`.
pub async fn start(config: Config, backend: impl Backend + 'static) -> (Stack, EmbeddedHandle) {
    let mac = config
        .host
        .addresses
        .first()
        .map_or(1, |address| match address.addr() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 1,
        });
    let device = EmbeddedConfig {
        mac: virtroupe::MacAddr([2, 0, 0, 0, 0, mac]),
        queue_pairs: config.options.queue_pairs,
        ..EmbeddedConfig::default()
    };
    start_device(config, device, backend).await
}

/// Starts a stack with `config` on the embedded device `device` with `backend`.
pub async fn start_device(
    config: Config,
    device: EmbeddedConfig,
    backend: impl Backend + 'static,
) -> (Stack, EmbeddedHandle) {
    let (transport, handle) =
        EmbeddedTransport::threaded(device, backend, DeviceThread::default()).expect("a device");
    let stack = within(Supervisor::start_on(Box::new(transport), config)).await;
    (stack.expect("the stack starts"), handle)
}

/// Two stacks, 10.0.0.1 and 10.0.0.2, on one link; the monitor is the first's end.
pub async fn pair(link: LinkConfig) -> (Stack, Stack, LinkMonitor) {
    let (left, right) = Link::pair(link);
    let monitor = left.monitor();
    let (first, _) = start(config(1), left).await;
    let (second, _) = start(config(2), right).await;
    (first, second, monitor)
}

/// Packets that a stack has dropped, but for answers of a neighbour that was asked again: on a slow
/// machine the first one may take longer than a second.
pub fn dropped(stats: &Stats) -> u64 {
    stats.drops().total() - stats.drops()[DropReason::ArpIgnored]
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// A datagram to `destination`.
pub fn datagram(destination: SocketAddr, payload: &[u8]) -> UdpSend<virtroupe::Frame> {
    UdpSend::new(destination, Payload::Bytes(payload.to_vec().into()))
}

/// What a [`Probe`] saw.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Datagram {
        source: SocketAddr,
        destination: SocketAddr,
        payload: Vec<u8>,
    },
    Frame(Vec<u8>),
    Event(SocketEvent),
}

/// An actor with a socket that reports what it gets, and can echo.
pub struct Probe {
    pub socket: UdpSocket,
    seen: UnboundedSender<Seen>,
    echo: bool,
}

impl Probe {
    /// Starts a probe on cpu 0 of `stack`, bound to `local`.
    pub async fn start(
        stack: &Stack,
        local: &str,
        echo: bool,
    ) -> Result<(Addr<Probe>, UnboundedReceiver<Seen>), BindError> {
        Self::start_on(stack, 0, local, echo).await
    }

    /// Starts a probe on a cpu of `stack`, bound to `local`.
    pub async fn start_on(
        stack: &Stack,
        cpu: u16,
        local: &str,
        echo: bool,
    ) -> Result<(Addr<Probe>, UnboundedReceiver<Seen>), BindError> {
        let (seen, receiver) = unbounded_channel();
        let local_address = address(local);
        let probe = stack.run_on(cpu, move |local: LocalStack| async move {
            let socket = local.bind_udp(local_address).await?;
            Ok::<_, BindError>(Probe { socket, seen, echo }.start())
        });
        Ok((within(probe).await.expect("the stack runs")?, receiver))
    }

    /// Starts a probe that echoes on each cpu of `stack`; they share `local`.
    #[allow(dead_code, reason = "for the tests against the real world")]
    pub async fn echo_on_each(stack: &Stack, local: &str) -> Result<Vec<Addr<Probe>>, BindError> {
        let (seen, _) = unbounded_channel();
        let address = address(local);
        let probes = stack.run_on_each(move |local: LocalStack| {
            let seen = seen.clone();
            async move {
                let socket = local.bind_udp_per_cpu(address).await?;
                let echo = true;
                Ok(Probe { socket, seen, echo }.start())
            }
        });
        let probes = within(probes).await.expect("the stack runs");
        probes.into_iter().collect()
    }
}

impl Actor for Probe {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.deliver_to(ctx.address());
        self.socket.events_to(ctx.address());
    }
}

impl Handler<UdpReceived> for Probe {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        assert!(
            !received.datagrams.is_empty(),
            "an empty burst was delivered"
        );
        for datagram in received.datagrams.iter() {
            let _ = self.seen.send(Seen::Datagram {
                source: datagram.source,
                destination: datagram.destination,
                payload: datagram.payload.to_vec(),
            });
        }
        if self.echo {
            self.socket.reply(received.datagrams.drain(..));
        }
    }
}

impl Handler<PacketsReceived> for Probe {
    type Result = ();

    fn handle(&mut self, received: PacketsReceived, _: &mut Self::Context) {
        for frame in received.frames.iter() {
            let _ = self.seen.send(Seen::Frame(frame.to_vec()));
        }
    }
}

impl Handler<SocketEvent> for Probe {
    type Result = ();

    fn handle(&mut self, event: SocketEvent, _: &mut Self::Context) {
        let _ = self.seen.send(Seen::Event(event));
    }
}

/// Sends a burst from a probe; answers the outcome and what was refused.
#[derive(Message)]
#[rtype(result = "(SendOutcome, Vec<UdpSend<virtroupe::Frame>>)")]
pub struct Send(pub Vec<UdpSend<virtroupe::Frame>>);

impl Handler<Send> for Probe {
    type Result = MessageResult<Send>;

    fn handle(&mut self, Send(mut burst): Send, _: &mut Self::Context) -> Self::Result {
        let outcome = self.socket.send(&mut burst);
        if outcome.would_block() {
            self.socket.notify_when_ready();
        }
        MessageResult((outcome, burst))
    }
}

/// Stops a probe, and so closes its socket.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

impl Handler<Stop> for Probe {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
