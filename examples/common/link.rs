//! Two stacks in one process, each on an embedded device, with an in-memory link between them. It
//! needs no right, no hardware and no huge pages.

use std::net::Ipv4Addr;
use std::thread::available_parallelism;
use std::time::Duration;

use virtroupe::driver::embedded::{
    DeviceThread, EmbeddedConfig, EmbeddedTransport, Link, LinkConfig, LinkEnd,
};
use virtroupe::driver::memory::HugePages;
use virtroupe::{Config, DeviceUrl, MacAddr, Stack, Supervisor};

use crate::device::CpuArgs;
use crate::exit::Outcome;

/// The address of the server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The address of its client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Threads that move packets: for each stack its cpu and its device.
const THREADS: usize = 4;

/// Starts both stacks: the server's, with as many cpus and queues as asked for, and the client's.
pub async fn start(cpus: &CpuArgs) -> Outcome<(Stack, Stack)> {
    let (server, client) = Link::pair(LinkConfig::default());
    let mut config = config(SERVER)?;
    cpus.apply_to(&mut config);
    let server = stack(config, MacAddr([2, 0, 0, 0, 0, 1]), server).await?;
    let client = stack(self::config(CLIENT)?, MacAddr([2, 0, 0, 0, 0, 2]), client).await?;
    Ok((server, client))
}

fn config(address: Ipv4Addr) -> Outcome<Config> {
    let own = DeviceUrl::Own("link".into());
    Ok(Config::new(own).address(format!("{address}/24").parse()?))
}

async fn stack(mut config: Config, mac: MacAddr, link: LinkEnd) -> Outcome<Stack> {
    config.options.huge_pages = HugePages::Never;
    config.options.queue_size = 512; // longer than the window of the client
    let mut thread = DeviceThread::default();
    if available_parallelism().map_or(1, usize::from) <= THREADS {
        // Who spins would keep those from working that it waits for.
        thread.spin = Duration::ZERO;
        config.poll.spin_us = Some(0);
    }
    let device = EmbeddedConfig {
        mac,
        queue_pairs: config.options.queue_pairs,
        ..EmbeddedConfig::default()
    };
    let (transport, _) = EmbeddedTransport::threaded(device, link, thread)?;
    Ok(Supervisor::start_on(Box::new(transport), config).await?)
}
