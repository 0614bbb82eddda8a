//! The demo: a client and a server in one process.

use std::time::{Duration, Instant};

use virtroupe::Stack;

use crate::client::{Client, Report, TakeReport};
use crate::exit::Outcome;
use crate::link::SERVER;
use crate::table::Table;

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
