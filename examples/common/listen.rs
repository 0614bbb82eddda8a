//! Listening on a port for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use virtroupe::{BindError, ListenOptions, LocalStack, TcpListener, TcpStream};

/// Any address of a stack, of each family: a listener or a socket is of one.
pub const ANY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// Starts `serve` for each connection to `port` that the cpu of `local` owns, until the stack ends.
pub async fn start_on(
    local: &LocalStack,
    port: u16,
    serve: impl Fn(TcpStream) + Clone + 'static,
) -> Result<(), BindError> {
    for any in ANY {
        let listening = local.listen_tcp_per_cpu((any, port).into(), ListenOptions::default());
        actix::spawn(accept(listening.await?, serve.clone()));
    }
    Ok(())
}

async fn accept(listener: TcpListener, serve: impl Fn(TcpStream)) {
    while let Ok(stream) = listener.accept().await {
        serve(stream);
    }
}
