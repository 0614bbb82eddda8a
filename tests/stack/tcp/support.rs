//! Servers and streams of bytes that can be verified.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use virtroupe::{ListenOptions, LocalStack, Stack, TcpListener, TcpOptions, TcpStream};

use super::super::support::{address, within};

/// `length` bytes of the stream that follows from `seed`.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(next).collect()
}

/// Listens on the cpu of `local`.
pub async fn listen(local: &LocalStack, at: &str) -> TcpListener {
    let listening = local.listen_tcp(address(at), ListenOptions::default());
    listening.await.expect("free")
}

/// Connects from the cpu of `local`.
pub async fn connect(local: &LocalStack, to: SocketAddr) -> TcpStream {
    let connecting = local.connect_tcp(to, TcpOptions::default());
    connecting.await.expect("accepted")
}

/// Starts a server on cpu 0 that sends back what each connection brings, until its end.
pub async fn echo_server(stack: &Stack, at: &str) {
    let at = at.to_owned();
    let started = stack.run_on(0, |local| async move {
        let listener = listen(&local, &at).await;
        actix::spawn(async move {
            while let Ok(stream) = listener.accept().await {
                actix::spawn(echo(stream));
            }
        });
    });
    within(started).await.expect("it runs");
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
