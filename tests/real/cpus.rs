//! TCP with Linux on more cpus than queues: each cpu sends frames that the kernel takes whole.

use std::io;
use std::thread;

use libtest_mimic::Trial;
use tokio::io::AsyncWriteExt;
use virtroupe::{CpuRole, TcpOptions};

use super::family::Family;
use super::host::frames_of_the_kernel;
use super::stream::{self, Content, content};
use crate::support::requirement::{IP, Requirement};
use crate::support::{Outcome, Suite};

/// Where the kernel listens.
const PORT: u16 = 5001;
/// The cpus of the stack, and the queues of its device.
const CPUS: u16 = 3;
const QUEUES: u16 = 2;
/// Bytes that each cpu sends.
const LENGTH: u64 = 8 << 20;

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    let each = Family::tests(
        suite,
        "cpus::each_of_three_with_two_queues_sends_long_frames",
        &[Namespaces, Tun, IP],
        each_of_three_with_two_queues_sends_long_frames,
    );
    each.into()
}

fn each_of_three_with_two_queues_sends_long_frames(family: Family) -> Outcome<()> {
    let host = family.start_with(|config| {
        config.cpus.count = CPUS;
        config.options.queue_pairs = QUEUES;
    })?;
    let listener = host.listen(family.kernel(PORT))?;
    let sinks = thread::spawn(move || -> io::Result<Vec<Content>> {
        let sinks: Vec<_> = (0..CPUS)
            .map(|_| {
                let (mut kernel, _) = listener.accept()?;
                Ok(thread::spawn(move || stream::read(&mut kernel)))
            })
            .collect::<io::Result<_>>()?;
        let contents = sinks.into_iter();
        contents
            .map(|sink| sink.join().expect("it does not panic"))
            .collect()
    });
    let peer = family.kernel(PORT);
    let sent = host.run_on_each(move |local| async move {
        let mut stream = local.connect_tcp(peer, TcpOptions::default()).await?;
        stream::write_async(&mut stream, LENGTH).await?;
        stream.shutdown().await?;
        stream.linger().await
    })?;
    sent.into_iter().collect::<io::Result<Vec<()>>>()?;
    let sinks = sinks.join().expect("it does not panic")?;
    assert_eq!(sinks, vec![content(LENGTH); CPUS.into()]);
    let stats = host.stats()?;
    let roles: Vec<CpuRole> = stats.cpus.iter().map(|cpu| cpu.role).collect();
    assert_eq!(roles, [CpuRole::Queue, CpuRole::Queue, CpuRole::Proxy]);
    for cpu in &stats.cpus {
        let shard = &cpu.shard;
        assert!(shard.host.tx_segmented > 0, "cpu {}: {stats}", cpu.cpu);
        assert_eq!(shard.segments_added, 0, "cpu {} cuts in software", cpu.cpu);
    }
    // They are not cut on their way either.
    let frames = frames_of_the_kernel(&host)?;
    let segments = u64::from(CPUS) * LENGTH / 1448;
    assert!(frames < segments, "{frames} frames for {segments} segments");
    Ok(())
}
