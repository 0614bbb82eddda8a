//! A stack on an embedded device that is stepped inline, on the thread of the cpu that owns the
//! queue: no third core is needed, and the device's work counts as that cpu's.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use virtroupe::driver::embedded::{
    EmbeddedConfig, EmbeddedStepper, EmbeddedTransport, PacketSource, SourceConfig, SourceMonitor,
    monotonic_now,
};
use virtroupe::wire::host::Neighbor;
use virtroupe::{Config, DeviceUrl, MacAddr, Stack, Supervisor};

use super::Outcome;

/// The stack's address.
pub const ADDRESS: [u8; 4] = [10, 0, 0, 2];
/// Its peer's, which the packet source stands for.
pub const PEER: [u8; 4] = [10, 0, 0, 1];
/// The port that is served.
pub const PORT: u16 = 7;

/// Ethernet address of the device, and of the peer.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]];

/// A running stack, and what its device counts.
pub struct InlineStack {
    pub stack: Stack,
    pub device: SourceMonitor,
}

impl InlineStack {
    /// Starts a stack as `config` says on a source as `source` says. The device is stepped at
    /// every turn of the first cpu, or, if there is a `rate`, so often that it takes at most so
    /// many packets in a second: 64 at a time.
    pub async fn start(
        config: Config,
        source: SourceConfig,
        rate: Option<f64>,
    ) -> Outcome<InlineStack> {
        let backend = PacketSource::new(source);
        let device = backend.monitor();
        let embedded = EmbeddedConfig {
            mac: MacAddr(MACS[0]),
            ..EmbeddedConfig::default()
        };
        let (transport, _, stepper) = EmbeddedTransport::inline(embedded, backend)?;
        let stack = Supervisor::start_on(Box::new(transport), config).await?;
        step_on_first_cpu(&stack, stepper, rate).await?;
        Ok(InlineStack { stack, device })
    }
}

/// Steps a device at every turn of the first cpu of `stack`, or, if there is a `rate`, so often that
/// it takes at most so many packets in a second: 64 at a time.
pub async fn step_on_first_cpu(
    stack: &Stack,
    stepper: EmbeddedStepper,
    rate: Option<f64>,
) -> Outcome<()> {
    let interval = rate.map(|rate| Duration::from_secs_f64(64.0 / rate));
    let step = move |_| async move {
        let mut due = monotonic_now();
        // Ends with its arbiter.
        actix::spawn(poll_fn(move |cx| -> Poll<()> {
            let now = monotonic_now();
            match interval {
                None => _ = stepper.step(now),
                Some(interval) if now >= due => {
                    stepper.step(now);
                    // What is late by more than a step is not made up for.
                    due = (due + interval).max(now);
                }
                Some(_) => {}
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
    };
    Ok(stack.run_on(0, step).await?)
}

/// A configuration for `cpus` cpus on as many cores, which never sleep; the last one owns all
/// flows. With two, that one is a proxy, and the first one only serves it.
pub fn config(cpus: u16) -> Config {
    let [a, b, c, d] = ADDRESS;
    let address = format!("{a}.{b}.{c}.{d}/24").parse().expect("an address");
    let mut config = Config::new(DeviceUrl::Own("inline".into()))
        .address(address)
        .cpus(cpus)
        .cores((0..usize::from(cpus)).collect::<Vec<_>>());
    config.cpus.weights = (1..=cpus).map(|cpu| u32::from(cpu == cpus)).collect();
    config.host.neighbors = vec![Neighbor {
        address: PEER.into(),
        mac: MacAddr(MACS[1]),
    }];
    config.poll.spin_us = Some(u64::MAX);
    config
}

/// Datagrams of 64 bytes with their headers to the stack's port, one of each of `flows` flows.
pub fn datagrams(flows: u16) -> Vec<Vec<u8>> {
    let datagram = |flow| {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ethernet2(MACS[1], MACS[0])
            .ipv4(PEER, ADDRESS, 64)
            .udp(1024 + flow, PORT)
            .write(&mut bytes, &[0x5a; 22])
            .expect("a vector takes all");
        bytes
    };
    (0..flows).map(datagram).collect()
}
