//! Servers and streams of bytes that can be verified.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use virtroupe::{Config, ListenOptions, LocalStack, Stack, TcpListener, TcpOptions, TcpStream};

use super::super::support::{address, config_ipv6, within};

/// A stack 10.0.0.`host`, fd00::`host`, with so many cpus and queues, all on few threads.
pub fn wide(host: u8, cpus: u16, queues: u16) -> Config {
    let mut config = config_ipv6(host).cpus(cpus).queues(queues);
    config.cpus.threads = Some(cpus.min(2));
    config
}

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

/// Sends `length` bytes and receives at once; whether what comes back is what was sent.
pub async fn exchange(stream: TcpStream, seed: u64, length: usize) -> bool {
    let (mut reader, mut writer) = stream.into_split();
    let sent = bytes(seed, length);
    let expected = sent.clone();
    actix::spawn(async move {
        writer.write_all(&sent).await.expect("taken");
        writer.shutdown().await.expect("finished");
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.expect("no error");
    received == expected
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

/// Sends back what a connection brings, until its end.
pub async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
