//! How an application gets listeners and connections from the stack of its cpu.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};

use virtroupe_wire::tcp::{ListenOptions, TcpOptions};

use super::error::TcpConnectError;
use super::halves::Connection;
use super::listener::TcpListener;
use super::messages::TcpAccepted;
use super::stream::TcpStream;
use crate::local::LocalStack;
use crate::messages::BindError;
use crate::registry::Sharing;
use crate::shard::listen_tcp;

impl LocalStack {
    /// Listens at `local`: an address of ours, or the unspecified address for any; port 0 asks
    /// for an ephemeral one. Every connection is accepted on this cpu, also one that another cpu
    /// would get by its flow; when this returns, every cpu knows.
    ///
    /// After the listener is closed, its connections still come to this cpu, and the address
    /// stays taken for other cpus until the last of them is over.
    ///
    /// # Errors
    /// When the address is taken or not ours, no port is left, or TCP is switched off.
    pub async fn listen_tcp(
        &self,
        local: SocketAddr,
        options: ListenOptions,
    ) -> Result<TcpListener, BindError> {
        self.listen(local, options, Sharing::Alone).await
    }

    /// As [`listen_tcp`](Self::listen_tcp), for one of several listeners at the same address, one
    /// on each cpu: each accepts the connections whose flows its cpu owns. What `SO_REUSEPORT`
    /// is for Linux.
    ///
    /// While only some cpus have one, those share all connections. Each connection stays on the cpu
    /// that accepted it, or began to, when others begin to listen and when its own listener is
    /// closed; those that begin later go to whoever listens then. Until this returns, peers whose
    /// flows this cpu is about to get are not answered, rather than refused, and try again: after a
    /// second, as a rule. Only a connection that a SYN cookie stands for in that moment is lost, and
    /// those of a cpu beyond [`MOST_KEPT`](virtroupe_wire::placement::MOST_KEPT): the cookie is all
    /// that there is of it, and only the cpu that made it can tell it from a forged one.
    ///
    /// Each cpu's listener is its own: where this fails on one cpu, the others' go on until they are
    /// dropped. `Stack::open_on_each` of the supervisor listens on every cpu or on none.
    ///
    /// # Errors
    /// As `listen_tcp`; the address is also taken if a listener is there that does not share.
    pub async fn listen_tcp_per_cpu(
        &self,
        local: SocketAddr,
        options: ListenOptions,
    ) -> Result<TcpListener, BindError> {
        self.listen(local, options, Sharing::PerCpu).await
    }

    async fn listen(
        &self,
        local: SocketAddr,
        options: ListenOptions,
        sharing: Sharing,
    ) -> Result<TcpListener, BindError> {
        let id = listen_tcp(self.shard(), local, options, sharing).await?;
        Ok(TcpListener::new(self.shard().clone(), id))
    }

    /// Connects to `peer`, from an ephemeral port that is chosen so that the peer's segments
    /// arrive on this cpu. The attempt begins at once; dropping the future gives it up.
    ///
    /// # Errors
    /// No route, no port, or why the attempt failed: refused, timed out
    /// ([`TcpOptions::connect_timeout`]), or unreachable, also when the next hop does not answer.
    pub fn connect_tcp(
        &self,
        peer: SocketAddr,
        options: TcpOptions,
    ) -> impl Future<Output = Result<TcpStream, TcpConnectError>> + use<> {
        self.connect(None, peer, options)
    }

    /// As [`connect_tcp`](Self::connect_tcp), from an address of ours: a host with several has as
    /// many times the ports.
    ///
    /// # Errors
    /// As `connect_tcp`, and when the address is not ours or not of the family of `peer`.
    pub fn connect_tcp_from(
        &self,
        local: IpAddr,
        peer: SocketAddr,
        options: TcpOptions,
    ) -> impl Future<Output = Result<TcpStream, TcpConnectError>> + use<> {
        self.connect(Some(local), peer, options)
    }

    fn connect(
        &self,
        local: Option<IpAddr>,
        peer: SocketAddr,
        options: TcpOptions,
    ) -> impl Future<Output = Result<TcpStream, TcpConnectError>> + use<> {
        let shard = self.shard().clone();
        let begun = shard.borrow().connect_tcp(local, peer, &options);
        let begun = begun.map(|id| Connection::new(shard, id));
        async move {
            let connection = begun?;
            poll_fn(|cx| connection.shard().poll_connected(connection.id, cx)).await?;
            Ok(TcpStream::new(connection))
        }
    }

    /// Makes a stream of a connection that [`TcpListener::deliver_to`] has sent.
    ///
    /// # Errors
    /// The connection as it was, if it is of another cpu.
    pub fn claim_tcp(&self, mut accepted: TcpAccepted) -> Result<TcpStream, TcpAccepted> {
        match self.shard().borrow().claim_tcp(&mut accepted) {
            true => {
                let connection = Connection::new(self.shard().clone(), accepted.connection);
                Ok(TcpStream::new(connection))
            }
            false => Err(accepted),
        }
    }
}
