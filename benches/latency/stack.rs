//! The stack's echo: an actor on the core of the echo, as in the example `echo_server`.

use std::time::Duration;

use actix::prelude::*;
use virtroupe::driver::embedded::{DeviceThread, EmbeddedConfig, EmbeddedTransport, TapConfig};
use virtroupe::transport::tap_transport;
use virtroupe::wire::host::Neighbor;
use virtroupe::{BindError, Config, DeviceUrl, MacAddr, Stack, Supervisor, UdpReceived, UdpSocket};

use super::probe::{self, Probe};
use super::{RoundTrips, Settings, Waiting, client};
use crate::support::Outcome;

/// The stack's address, and the port of the echo.
const STACK: ([u8; 4], u16) = ([10, 0, 0, 2], 7);
/// Its peer's.
const PEER: [u8; 4] = [10, 0, 0, 1];

struct Echo(UdpSocket);

impl Actor for Echo {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.0.deliver_to(ctx.address());
    }
}

impl Handler<UdpReceived> for Echo {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        self.0.reply_all(&mut received.datagrams);
    }
}

/// Measures the echo behind a TAP interface of the kernel.
pub async fn over_tap(settings: &Settings, waiting: Waiting) -> Outcome<RoundTrips> {
    let tap = TapConfig {
        name: "latency-tap".into(),
        up: true,
        kernel_address: Some("10.0.0.1/24".parse()?),
        ..TapConfig::default()
    };
    let config = config(settings, waiting)?;
    let transport = tap_transport(tap, &config)?;
    let stack = Supervisor::start_on(Box::new(transport), config).await?;
    start_echo(&stack).await?;
    let of_client = *settings;
    let measured = actix::spawn(async move {
        tokio::task::spawn_blocking(move || client::measure(STACK.into(), &of_client)).await
    });
    let measured = measured.await??;
    stack.shutdown().await;
    measured
}

/// Measures the echo behind a device whose thread sends and receives itself.
pub async fn over_rings(settings: &Settings, waiting: Waiting) -> Outcome<RoundTrips> {
    let mut config = config(settings, waiting)?;
    config.host.neighbors = vec![Neighbor {
        address: PEER.into(),
        mac: MacAddr(probe::PEER_MAC),
    }];
    let device = EmbeddedConfig {
        mac: MacAddr(probe::STACK_MAC),
        ..EmbeddedConfig::default()
    };
    let thread = DeviceThread {
        cpu: Some(settings.client_core),
        spin: Duration::MAX,
    };
    let probe = Probe::new(probe::request(PEER, STACK));
    let results = probe.results();
    let (transport, _device) = EmbeddedTransport::threaded(device, probe, thread)?;
    let stack = Supervisor::start_on(Box::new(transport), config).await?;
    start_echo(&stack).await?;
    tokio::time::sleep(settings.time / 4).await;
    results.take();
    tokio::time::sleep(settings.time).await;
    let measured = results.take();
    stack.shutdown().await;
    match measured.times.is_empty() {
        true => Err("nothing came back over the rings".into()),
        false => Ok(measured),
    }
}

fn config(settings: &Settings, waiting: Waiting) -> Outcome<Config> {
    let [a, b, c, d] = STACK.0;
    let mut config = Config::new(DeviceUrl::Own("latency".into()))
        .address(format!("{a}.{b}.{c}.{d}/24").parse()?)
        .cores([settings.echo_core]);
    config.poll.spin_us = Some(match waiting {
        Waiting::Polls => u64::MAX,
        Waiting::Sleeps => 0,
    });
    Ok(config)
}

async fn start_echo(stack: &Stack) -> Outcome<()> {
    let start = stack.run_on(0, |local| async move {
        let socket = local.bind_udp(([0, 0, 0, 0], STACK.1).into()).await?;
        Ok::<_, BindError>(Echo(socket).start())
    });
    // The actor lives as long as its arbiter: it has no work that ends.
    std::mem::forget(start.await??);
    Ok(())
}
