//! Bulk between two of our stacks, over the in-memory link: one sends on one core, the other
//! receives on the other core. Each cpu steps its own device.

use std::time::Duration;

use actix::System;
use virtroupe::driver::embedded::{EmbeddedConfig, EmbeddedTransport, Link, LinkConfig, LinkEnd};
use virtroupe::{LocalStack, MacAddr, Stack, Supervisor, TcpOptions};

use crate::bulk;
use crate::link::{CLIENT, CLIENT_MAC, SERVER, SERVER_MAC};
use crate::support::inline::step_on_first_cpu;
use crate::support::{Outcome, option};
use crate::virtroupe_stack::{config, receive, send, serve};
use crate::window::{CLIENT_CORE, SERVER_CORE};

const WARM_UP: Duration = Duration::from_millis(500);

/// What is counted at both ends at one time.
struct Counts {
    bytes: u64,
    /// Nanoseconds that the sender's cpu, and the receiver's, was busy.
    busy: [u64; 2],
}

/// Measures, as a program, and prints what [`Measured`](crate::window::Measured) reads: bits in a
/// second, and the busy shares of the sender's and of the receiver's cpu.
pub fn measure() -> Outcome<()> {
    let seconds = Duration::from_secs_f64(option("--seconds", 2.0)?);
    System::new().block_on(async {
        // No loss but for want of buffers, and then the device keeps the frame.
        let (near, far) = Link::pair(LinkConfig::default());
        let sender = start(near, CLIENT, CLIENT_MAC, CLIENT_CORE).await?;
        let receiver = start(far, SERVER, SERVER_MAC, SERVER_CORE).await?;
        serve(&receiver, bulk::PORT, receive).await?;
        let connect = |local: LocalStack| async move {
            let stream = local
                .connect_tcp((SERVER, bulk::PORT).into(), TcpOptions::default())
                .await?;
            actix::spawn(send(stream));
            Outcome::Ok(())
        };
        sender.run_on(0, connect).await??;
        tokio::time::sleep(WARM_UP).await;
        let before = count(&sender, &receiver).await?;
        let started = std::time::Instant::now();
        tokio::time::sleep(seconds).await;
        let after = count(&sender, &receiver).await?;
        let elapsed = started.elapsed().as_secs_f64();
        let bits = (after.bytes - before.bytes) as f64 * 8.0;
        let busy = |end: usize| (after.busy[end] - before.busy[end]) as f64 / (elapsed * 1e9);
        println!("measured {} {} {}", bits / elapsed, busy(0), busy(1));
        Ok(())
    })
}

async fn count(sender: &Stack, receiver: &Stack) -> Outcome<Counts> {
    let (sender, receiver) = (sender.stats().await?, receiver.stats().await?);
    let busy = |stats: &virtroupe::Stats| stats.cpus.iter().map(|cpu| cpu.poll.busy_nanos).sum();
    Ok(Counts {
        bytes: receiver
            .cpus
            .iter()
            .map(|cpu| cpu.shard.tcp.engine.rx_bytes)
            .sum(),
        busy: [busy(&sender), busy(&receiver)],
    })
}

async fn start(end: LinkEnd, address: [u8; 4], mac: [u8; 6], core: usize) -> Outcome<Stack> {
    let device = EmbeddedConfig {
        mac: MacAddr(mac),
        ..EmbeddedConfig::default()
    };
    let (transport, _, stepper) = EmbeddedTransport::inline(device, end)?;
    let stack = Supervisor::start_on(Box::new(transport), config(address, core)?).await?;
    step_on_first_cpu(&stack, stepper, None).await?;
    Ok(stack)
}
