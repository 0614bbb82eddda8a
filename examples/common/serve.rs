//! Serving on a device.

use std::time::Duration;

use virtroupe::{Lifecycle, Stack};

use crate::exit::Outcome;

/// Waits until `end`; calls `show` once a second. A stack that ends by itself is an error.
pub async fn until_end(
    stack: &Stack,
    end: impl Future<Output = ()>,
    mut show: impl AsyncFnMut(Duration),
) -> Outcome<()> {
    let tick = Duration::from_secs(1);
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
