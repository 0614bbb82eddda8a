//! The HTTP server of both sides: hyper, on whatever stream.

use std::convert::Infallible;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::link::set_cubic;
use crate::support::Outcome;

/// The port that is served.
pub const PORT: u16 = 8080;

/// Serves one connection until it ends.
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let connection =
        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    // A client that goes away ends its connection; there is nobody to tell.
    let _ = connection.await;
}

async fn answer(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("Hello, World!".into()))
}

/// The peer: hyper on tokio's sockets of the kernel, with one thread as ours.
pub fn serve_kernel() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let listener = tokio::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
        // The sockets that it accepts inherit it.
        set_cubic(&listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(serve(stream));
        }
    })
}
