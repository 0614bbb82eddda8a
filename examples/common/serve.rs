//! Serving on a device.

use std::time::Duration;

use virtroupe::{Lifecycle, Stack};

use crate::exit::Outcome;
use crate::report;

/// Waits until the time is over, or until SIGINT; calls `show` once a second. A stack that ends
/// by itself is an error.
pub async fn until_end(
    stack: &Stack,
    seconds: Option<u64>,
    mut show: impl AsyncFnMut(Duration),
) -> Outcome<()> {
    let tick = Duration::from_secs(1);
    let end = report::wait(seconds);
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            () = &mut end => return Ok(()),
            end = stack.ended() => return match end {
                Lifecycle::DeviceLost(how) => Err(format!("the device is lost: {how}").into()),
                _ => Err("the stack was shut down".into()),
            },
            () = tokio::time::sleep(tick) => show(tick).await,
        }
    }
}
