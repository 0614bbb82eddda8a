//! Waiting while a stack serves.

use virtroupe::{Lifecycle, Stack};

use crate::exit::Outcome;
use crate::report;

/// Waits until the time is over, or until SIGINT. A stack that ends by itself is an error.
pub async fn until_end(stack: &Stack, seconds: Option<u64>) -> Outcome<()> {
    tokio::select! {
        () = report::wait(seconds) => Ok(()),
        end = stack.ended() => match end {
            Lifecycle::DeviceLost(how) => Err(format!("the device is lost: {how}").into()),
            _ => Err("the stack was shut down".into()),
        },
    }
}
