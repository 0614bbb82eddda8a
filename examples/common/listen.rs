//! Listening on a port for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use virtroupe::{BindError, ListenOptions, LocalStack, OpenError, Stack, TcpListener, TcpStream};

/// Any address of a stack, of each family: a listener or a socket is of one.
pub const ANY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// Listens at `port` on each cpu of the stack, or on none. Starts `serve` for each connection, on the
/// cpu that owns it, until the stack ends.
pub async fn on_each(
    stack: &Stack,
    port: u16,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> Result<(), OpenError<BindError>> {
    let accept_all = move |_, listeners: Vec<TcpListener>| {
        for listener in listeners {
            actix::spawn(accept(listener, serve.clone()));
        }
    };
    stack
        .open_on_each(move |local| listen(local, port), accept_all)
        .await
}

/// A listener for each family.
async fn listen(local: LocalStack, port: u16) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners = Vec::new();
    for any in ANY {
        let listening = local.listen_tcp_per_cpu((any, port).into(), ListenOptions::default());
        listeners.push(listening.await?);
    }
    Ok(listeners)
}

async fn accept(listener: TcpListener, serve: impl Fn(TcpStream)) {
    while let Ok(stream) = listener.accept().await {
        serve(stream);
    }
}
