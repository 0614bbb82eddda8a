//! The demo: two stacks in one process, each on an embedded device, with an in-memory link
//! between them. It needs no right, no hardware and no huge pages.

use std::net::Ipv4Addr;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use virtroupe::driver::embedded::{
    DeviceThread, EmbeddedConfig, EmbeddedTransport, Link, LinkConfig, LinkEnd,
};
use virtroupe::driver::memory::HugePages;
use virtroupe::{Config, DeviceUrl, MacAddr, Stack, Supervisor};

use crate::client::{Client, Report, TakeReport};
use crate::device::CpuArgs;
use crate::exit::Outcome;
use crate::table::Table;

/// The address of the echo server.
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

/// Runs a client against the echo server, which listens at `port`, and shows a table once a
/// second; until `end`.
pub async fn measure(
    server: &Stack,
    client: &Stack,
    port: u16,
    end: impl Future<Output = ()>,
) -> Outcome<()> {
    let address = (SERVER, port).into();
    let started = client.run_on(0, move |local| Client::start_on(local, address));
    let measured = started.await??;
    let mut table = Table::new();
    let mut total = Report::new();
    let begin = Instant::now();
    let mut last = begin;
    tokio::pin!(end);
    loop {
        let is_over = tokio::select! {
            biased;
            () = &mut end => true,
            () = tokio::time::sleep_until((last + Duration::from_secs(1)).into()) => false,
        };
        let report = measured.send(TakeReport).await?;
        let stats = server.stats().await?;
        let drops = [stats.drops(), client.stats().await?.drops()];
        let now = Instant::now();
        total.add(&report);
        table.row([now - begin, now - last], &report, &drops, stats);
        last = now;
        if is_over {
            return table.finish(now - begin, &total, &drops);
        }
    }
}
