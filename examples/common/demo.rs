//! The demo: a client and a server in one process.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use virtroupe::Stack;

use crate::client::{Client, Report, TakeReport};
use crate::device::CpuArgs;
use crate::exit::Outcome;
use crate::link::{self, SERVER};
use crate::table::Table;

/// Starts both, the server with what `start` starts on it, and measures it at `port` until `end`.
pub async fn run(
    cpus: &CpuArgs,
    start: impl AsyncFnOnce(&Stack) -> Outcome<()>,
    port: u16,
    end: impl Future<Output = ()>,
) -> Outcome<ExitCode> {
    let (server, client) = link::start(cpus).await?;
    start(&server).await?;
    let measured = measure(&server, &client, port, end).await;
    client.shutdown().await;
    server.shutdown().await;
    measured.map(|()| ExitCode::SUCCESS)
}

/// Runs a client against the echo server, which listens at `port`, and shows a table once a
/// second; until `end`.
async fn measure(
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
