//! The TCP half of the echo server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use virtroupe::{BindError, ListenOptions, LocalStack, TcpListener, TcpPayload, TcpStream};

/// Starts to echo on the cpu of `local` what its connections to `port` send, until the stack ends:
/// for each family, as a listener is of one.
pub async fn start_on(local: &LocalStack, port: u16) -> Result<(), BindError> {
    let families: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    for any in families {
        let options = ListenOptions::default();
        let listener = local
            .listen_tcp_per_cpu((any, port).into(), options)
            .await?;
        actix::spawn(accept(listener));
    }
    Ok(())
}

async fn accept(listener: TcpListener) {
    while let Ok(stream) = listener.accept().await {
        actix::spawn(async move {
            if let Err(error) = echo(stream).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
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
