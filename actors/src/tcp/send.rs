//! A stream for code that must be `Send`.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf,
};
use tokio::sync::oneshot;
use virtroupe_wire::Buffer;

use super::halves::{TcpReadHalf, TcpWriteHalf};
use super::stream::TcpStream;

/// Bytes that may wait in each direction.
const PIPE: usize = 256 << 10;

/// A TCP connection that can be used on any thread, made by [`TcpStream::into_send`].
///
/// The connection stays on its cpu, where two tasks move its bytes to and from a bounded pipe of
/// 256 KiB each way. That costs one more copy each way, a lock for each read and write, and
/// waking another thread where one waits. Use it where a library demands `Send` (axum, tonic), and
/// [`TcpStream`] elsewhere.
///
/// Dropping it closes the connection, as dropping a [`TcpStream`] does; what was written is sent.
pub struct SendTcpStream {
    pipe: DuplexStream,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    /// How the connection failed; set before the pipe ends.
    failure: Arc<OnceLock<(io::ErrorKind, String)>>,
    /// Tells the tasks when this is dropped.
    _dropped: oneshot::Sender<()>,
}

impl SendTcpStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        let (pipe, inner) = tokio::io::duplex(PIPE);
        let (local, peer) = (stream.local_addr(), stream.peer_addr());
        let (reader, writer) = stream.into_split();
        let (from_user, to_user) = tokio::io::split(inner);
        let failure = Arc::new(OnceLock::new());
        let (dropped, is_dropped) = oneshot::channel();
        let failed = failure.clone();
        actix::spawn(bring(reader, to_user, is_dropped, failed));
        actix::spawn(take(from_user, writer, failure.clone()));
        SendTcpStream {
            pipe,
            local,
            peer,
            failure,
            _dropped: dropped,
        }
    }

    /// Our end, as it was.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }

    /// The other end, as it was.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn failure(&self) -> Option<io::Error> {
        let (kind, text) = self.failure.get()?;
        Some(io::Error::new(*kind, text.clone()))
    }
}

/// From the connection into the pipe, until either ends.
async fn bring(
    mut reader: TcpReadHalf,
    mut pipe: WriteHalf<DuplexStream>,
    is_dropped: oneshot::Receiver<()>,
    failure: Arc<OnceLock<(io::ErrorKind, String)>>,
) {
    let work = async {
        loop {
            match reader.receive().await {
                Ok(Some(mut received)) => {
                    for frame in received.payload.drain(..) {
                        let mut rest = Some(frame);
                        while let Some(frame) = rest {
                            let (head, tail) = frame.split_head();
                            if pipe.write_all(head.head()).await.is_err() {
                                return;
                            }
                            rest = tail;
                        }
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let _ = failure.set((error.kind(), error.to_string()));
                    break;
                }
            }
        }
        let _ = pipe.shutdown().await;
    };
    let (mut work, mut is_dropped) = (pin!(work), pin!(is_dropped));
    poll_fn(|cx| match is_dropped.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => work.as_mut().poll(cx),
    })
    .await;
}

/// From the pipe into the connection, until either ends.
async fn take(
    mut pipe: ReadHalf<DuplexStream>,
    mut writer: TcpWriteHalf,
    failure: Arc<OnceLock<(io::ErrorKind, String)>>,
) {
    let mut buffer = vec![0; PIPE / 4];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                if let Err(error) = writer.write_all(bytes).await {
                    let _ = failure.set((error.kind(), error.to_string()));
                    break;
                }
            }
        }
    }
    drop(writer);
    // Whoever waits for room in the pipe would wait for ever: there is room, and then the error.
    while let Ok(1..) = pipe.read(&mut buffer).await {}
}

impl AsyncRead for SendTcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let room = buf.remaining();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        let is_end = room > 0 && buf.filled().len() == before;
        match self.failure().filter(|_| is_end) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for SendTcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

impl fmt::Debug for SendTcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendTcpStream")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
