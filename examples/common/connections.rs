//! TCP connections of a stack, on all of its cpus.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use virtroupe::{LocalStack, Stack, TcpOptions, TcpStream};

use crate::exit::Outcome;
use crate::listen;
use crate::stream::{Tally, Transfer};

/// Does `transfer` with whoever connects to `port`, on the cpu that owns the connection.
pub async fn listen(
    stack: &Stack,
    port: u16,
    transfer: Transfer,
    tally: &Arc<Tally>,
) -> Outcome<()> {
    let tally = Arc::clone(tally);
    let serve = move |stream| {
        actix::spawn(carry(stream, transfer, Arc::clone(&tally)));
    };
    Ok(listen::on_each(stack, port, serve).await?)
}

/// Ends when all connections that were made together have ended.
pub struct Done(mpsc::Receiver<()>);

impl Done {
    /// Waits for that.
    pub async fn wait(mut self) {
        // Nobody sends.
        while self.0.recv().await.is_some() {}
    }
}

/// Waits for the first of the two.
pub async fn sooner(this: impl Future<Output = ()>, that: impl Future<Output = ()>) {
    tokio::select! {
        () = this => {}
        () = that => {}
    }
}

/// Connects `count` times from each cpu to `server`, and does `transfer` with each connection.
pub async fn connect(
    stack: &Stack,
    server: SocketAddr,
    count: usize,
    transfer: Transfer,
    tally: &Arc<Tally>,
) -> Outcome<Done> {
    let tally = Arc::clone(tally);
    let (working, done) = mpsc::channel(1);
    let connected = stack.run_on_each(move |local| {
        let (tally, working) = (Arc::clone(&tally), working.clone());
        connect_from(local, server, count, move |stream| {
            let (tally, working) = (Arc::clone(&tally), working.clone());
            actix::spawn(async move {
                carry(stream, transfer, tally).await;
                drop(working);
            });
        })
    });
    connected
        .await?
        .into_iter()
        .collect::<io::Result<()>>()
        .map_err(|error| format!("cannot connect to {server}: {error}"))?;
    Ok(Done(done))
}

async fn connect_from(
    local: LocalStack,
    server: SocketAddr,
    count: usize,
    begin: impl Fn(TcpStream),
) -> io::Result<()> {
    for _ in 0..count {
        begin(local.connect_tcp(server, TcpOptions::default()).await?);
    }
    Ok(())
}

async fn carry(stream: TcpStream, transfer: Transfer, tally: Arc<Tally>) {
    let peer = stream.peer_addr();
    if let Err(error) = transfer.run(stream, &tally).await {
        // One that ended before it could be served has no address any more.
        let peer = peer.map_or("a peer that is gone".into(), |peer| peer.to_string());
        tracing::warn!("connection with {peer}: {error}");
    }
}
