//! The TCP half of the echo server.

use std::io;

use virtroupe::{BindError, LocalStack, TcpPayload, TcpStream};

use crate::listen;

/// Starts to echo on the cpu of `local` what its connections to `port` send, until the stack ends.
pub async fn start_on(local: &LocalStack, port: u16) -> Result<(), BindError> {
    let serve = |stream| {
        actix::spawn(async move {
            if let Err(error) = echo(stream).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    };
    listen::start_on(local, port, serve).await
}

/// Sends back the memory that was received, without a copy, until the peer has ended.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    while let Some(mut received) = stream.receive().await? {
        for frame in received.payload.drain(..) {
            let mut payload = TcpPayload::from(frame);
            while let Some(refused) = stream.send(payload).refused {
                stream.ready().await?;
                payload = refused.payload;
            }
        }
    }
    stream.linger().await
}
