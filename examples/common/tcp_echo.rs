//! The TCP half of the echo server.

use std::io;

use virtroupe::{TcpPayload, TcpStream};

/// Starts to echo what a connection sends, until its end.
pub fn start(stream: TcpStream) {
    actix::spawn(async move {
        if let Err(error) = echo(stream).await {
            tracing::debug!(%error, "a connection ended early");
        }
    });
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
