//! A live table of what each cpu does.

use virtroupe::Stack;

use crate::cpus::CpuTable;
use crate::exit::Outcome;
use crate::live::Live;
use crate::serve;

/// Shows it once a second until `end`.
pub async fn until(stack: &Stack, end: impl Future<Output = ()>) -> Outcome<()> {
    let (mut live, mut cpus) = (Live::new(), CpuTable::default());
    serve::until_end(stack, end, async |interval| {
        if let Ok(stats) = stack.stats().await {
            live.show(&cpus.lines(stats, interval));
        }
    })
    .await
}
