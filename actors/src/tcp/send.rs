//! A stream for code that must be `Send`.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf,
};
use tokio::sync::oneshot;
use tokio::time::timeout;
use virtroupe_wire::Buffer;

use super::halves::{Connection, TcpReadHalf, TcpWriteHalf};
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
/// Dropping it closes the connection, as dropping a [`TcpStream`] does: what was written is sent,
/// and the end behind it, what waits in the pipe included; but if something that arrived was not
/// read, or still arrives, the connection is reset, so that the peer does not believe that it was.
/// It is reset, too, when the peer takes nothing for
/// [`TcpOptions::close_timeout`](super::TcpOptions::close_timeout).
pub struct SendTcpStream {
    pipe: DuplexStream,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    /// Bytes that were read here.
    read: u64,
    shared: Arc<Shared>,
    /// Tells the tasks when this is dropped.
    _dropped: oneshot::Sender<()>,
}

/// What the handle and the tasks tell each other.
#[derive(Default)]
struct Shared {
    /// How the connection failed; set before the pipe ends.
    failure: OnceLock<(io::ErrorKind, String)>,
    /// Bytes that were read through the handle in all, when it was dropped; set before the pipe
    /// ends.
    read: OnceLock<u64>,
}

impl Shared {
    fn fail(&self, error: &io::Error) {
        let _ = self.failure.set((error.kind(), error.to_string()));
    }
}

/// What the two tasks share.
struct Tasks {
    shared: Arc<Shared>,
    /// Bytes that were taken out of the connection.
    brought: Cell<u64>,
    /// Bytes that were put into it.
    taken: Cell<u64>,
}

impl Tasks {
    /// Whether the handle was dropped, and the connection is to be reset because of what was not
    /// read, or because that was asked for.
    fn must_reset(&self, connection: &Connection) -> bool {
        self.shared.read.get().is_some_and(|read| {
            self.brought.get() > *read || connection.has_unread() || connection.is_to_be_reset()
        })
    }
}

impl SendTcpStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        let (pipe, inner) = tokio::io::duplex(PIPE);
        let (local, peer) = (stream.local_addr(), stream.peer_addr());
        let (reader, writer) = stream.into_split();
        let (from_user, to_user) = tokio::io::split(inner);
        let shared = Arc::new(Shared::default());
        let tasks = Rc::new(Tasks {
            shared: shared.clone(),
            brought: Cell::new(0),
            taken: Cell::new(0),
        });
        let (dropped, is_dropped) = oneshot::channel();
        let (sent, is_sent) = oneshot::channel();
        actix::spawn(bring(reader, to_user, is_dropped, is_sent, tasks.clone()));
        actix::spawn(take(from_user, writer, sent, tasks));
        SendTcpStream {
            pipe,
            local,
            peer,
            read: 0,
            shared,
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
        let (kind, text) = self.shared.failure.get()?;
        Some(io::Error::new(*kind, text.clone()))
    }
}

/// The handle is gone: the last that it tells is how much it has read.
impl Drop for SendTcpStream {
    fn drop(&mut self) {
        let _ = self.shared.read.set(self.read);
    }
}

/// From the connection into the pipe until the handle is dropped, and then to the end.
async fn bring(
    mut reader: TcpReadHalf,
    mut pipe: WriteHalf<DuplexStream>,
    is_dropped: oneshot::Receiver<()>,
    is_sent: oneshot::Receiver<()>,
    tasks: Rc<Tasks>,
) {
    {
        let work = async {
            fill(&mut reader, &mut pipe, &tasks).await;
            pending::<()>().await;
        };
        let (mut work, mut is_dropped) = (pin!(work), pin!(is_dropped));
        poll_fn(|cx| match is_dropped.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => work.as_mut().poll(cx),
        })
        .await;
    }
    if tasks.must_reset(&reader.connection) || !ends_well(&mut reader, is_sent, &tasks).await {
        reader.connection.abort();
    }
}

/// From the connection into the pipe, until either ends.
async fn fill(reader: &mut TcpReadHalf, pipe: &mut WriteHalf<DuplexStream>, tasks: &Tasks) {
    loop {
        match reader.receive().await {
            Ok(Some(mut received)) => {
                tasks
                    .brought
                    .set(tasks.brought.get() + received.len() as u64);
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
                tasks.shared.fail(&error);
                break;
            }
        }
    }
    let _ = pipe.shutdown().await;
}

/// Waits until everything that was written is in the connection, which closes then. False if
/// something arrives meanwhile, which nobody will read, or the peer takes nothing any more.
async fn ends_well(
    reader: &mut TcpReadHalf,
    is_sent: oneshot::Receiver<()>,
    tasks: &Tasks,
) -> bool {
    let limit = reader.connection.close_timeout();
    let arrival = async {
        // The end of the peer, or of the connection, says nothing of what is still to be sent.
        if !matches!(reader.receive().await, Ok(Some(_))) {
            pending::<()>().await;
        }
    };
    let (mut arrival, mut is_sent) = (pin!(arrival), pin!(is_sent));
    let mut end = poll_fn(|cx| match is_sent.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending => arrival.as_mut().poll(cx).map(|()| false),
    });
    loop {
        let before = tasks.taken.get();
        match timeout(limit, &mut end).await {
            Ok(is_well) => return is_well,
            Err(_) if tasks.taken.get() == before => return false,
            Err(_) => {}
        }
    }
}

/// From the pipe into the connection, until either ends.
async fn take(
    mut pipe: ReadHalf<DuplexStream>,
    mut writer: TcpWriteHalf,
    sent: oneshot::Sender<()>,
    tasks: Rc<Tasks>,
) {
    let mut buffer = vec![0; PIPE / 4];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        if let Err(error) = put(bytes, &mut writer, &tasks).await {
            tasks.shared.fail(&error);
            break;
        }
    }
    if tasks.must_reset(&writer.connection) {
        writer.connection.abort();
    }
    drop(writer);
    drop(sent);
    // Whoever waits for room in the pipe would wait for ever: there is room, and then the error.
    while let Ok(1..) = pipe.read(&mut buffer).await {}
}

/// Writes all of `bytes`.
async fn put(mut bytes: &[u8], writer: &mut TcpWriteHalf, tasks: &Tasks) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = writer.write(bytes).await?;
        bytes = bytes.get(count..).unwrap_or_default();
        tasks.taken.set(tasks.taken.get() + count as u64);
    }
    Ok(())
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
        let count = buf.filled().len() - before;
        self.read += count as u64;
        let is_end = room > 0 && count == 0;
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
