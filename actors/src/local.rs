//! What an application sees of the stack on its own cpu: [`LocalStack`] and the sockets.
//!
//! These handles are not `Send`: they work on the shard of their arbiter directly, without a
//! message and without a lock. How an application gets there is told at [`crate`].

use std::fmt;
use std::net::SocketAddr;

use virtroupe_driver::{Features, Frame};
use virtroupe_wire::filter::Filter;
use virtroupe_wire::host;
use virtroupe_wire::placement::Placement;
use virtroupe_wire::udp::{UdpDatagram, UdpSend, UdpSocketId};

use crate::burst::Burst;
use crate::messages::{
    BindError, ConnectError, PacketsReceived, SendOutcome, SocketEvent, SubscriptionId, UdpReceived,
};
use crate::outlet::IntoRecipient;
use crate::registry::Sharing;
use crate::shard::{Capture, ShardCell, ShardCounters, Waiter, bind_udp};

/// The stack of the current cpu.
#[derive(Clone)]
pub struct LocalStack {
    shard: ShardCell,
}

impl LocalStack {
    pub(crate) fn new(shard: ShardCell) -> Self {
        LocalStack { shard }
    }

    pub(crate) fn shard(&self) -> &ShardCell {
        &self.shard
    }

    /// The logical number of this cpu.
    pub fn cpu(&self) -> u16 {
        self.shard.borrow().cpu()
    }

    /// What was negotiated with the device.
    pub fn features(&self) -> Features {
        self.shard.borrow().features().clone()
    }

    /// Who owns which flow, and who sends through which queue, as this cpu knows it now: a copy of
    /// the tables and of the bindings. `None` if there is only one cpu, which owns everything.
    ///
    /// For applications that keep state by flow and want it where the flow's packets come. Copies
    /// every binding, so it is nothing for each packet.
    pub fn placement(&self) -> Option<Placement> {
        self.shard.borrow().placement()
    }

    /// Everything that this cpu counted.
    pub fn counters(&self) -> ShardCounters {
        self.shard.borrow().counters()
    }

    /// Binds a UDP socket to `local`: an address of ours, or the unspecified address for any;
    /// port 0 asks for an ephemeral one.
    ///
    /// The socket gets everything that arrives there, also what another cpu would get by its
    /// flow; when this returns, every cpu knows. To spread the flows over the cpus, bind one
    /// socket on each with [`bind_udp_per_cpu`](Self::bind_udp_per_cpu).
    ///
    /// Datagrams that arrive before [`UdpSocket::deliver_to`] wait, up to 256 of them.
    ///
    /// # Errors
    /// When the address is taken, is not ours, or no port is left.
    pub async fn bind_udp(&self, local: SocketAddr) -> Result<UdpSocket, BindError> {
        self.bind(local, Sharing::Alone).await
    }

    /// Binds one of several UDP sockets that share the address and port `local`, one on each
    /// cpu: each gets the flows that its cpu owns. What `SO_REUSEPORT` is for Linux.
    ///
    /// While only some cpus have one, those share all flows: when one is bound or closed, flows change
    /// to another cpu, and no datagram on its way between cpus is lost. Where this fails on one cpu,
    /// the others' sockets stay until they are dropped; `Stack::open_on_each` of the supervisor binds
    /// on every cpu or on none. See [`bind_udp`](Self::bind_udp) for the rest.
    ///
    /// # Errors
    /// As `bind_udp`; `local` is taken if a socket is bound there that does not share, or one on
    /// this cpu.
    pub async fn bind_udp_per_cpu(&self, local: SocketAddr) -> Result<UdpSocket, BindError> {
        self.bind(local, Sharing::PerCpu).await
    }

    async fn bind(&self, local: SocketAddr, sharing: Sharing) -> Result<UdpSocket, BindError> {
        let id = bind_udp(&self.shard, local, sharing).await?;
        Ok(UdpSocket {
            shard: self.shard.clone(),
            id,
        })
    }

    /// Makes a UDP socket that talks to `peer` alone, from an ephemeral port that is chosen so
    /// that the peer's datagrams arrive on this cpu.
    ///
    /// # Errors
    /// When `peer` is not the address of a host, no route leads there, or every port whose
    /// replies would come to this cpu is in use.
    pub fn connect_udp(&self, peer: SocketAddr) -> Result<UdpSocket, ConnectError> {
        let id = self.shard.borrow().connect_udp(peer)?;
        Ok(UdpSocket {
            shard: self.shard.clone(),
            id,
        })
    }

    /// Subscribes to the frames that match `filter`: the packet API.
    pub fn subscribe(
        &self,
        filter: Filter,
        capture: Capture,
        recipient: impl IntoRecipient<PacketsReceived>,
    ) -> PacketSocket {
        let id = self
            .shard
            .borrow()
            .subscribe(filter, capture, recipient.into_recipient(), false);
        PacketSocket {
            shard: self.shard.clone(),
            id,
        }
    }
}

/// A UDP socket on its own cpu. Dropping it closes it at once: from then on nothing is put into the
/// mailbox of its receiver, which still handles what lies there already. The other cpus hear of it
/// by message; what they receive for the socket until then goes to the sockets of others that share
/// its address, and is dropped as `no_socket` if there are none.
pub struct UdpSocket {
    shard: ShardCell,
    id: UdpSocketId,
}

impl UdpSocket {
    /// The name of the socket in [`UdpReceived`].
    pub fn id(&self) -> UdpSocketId {
        self.id
    }

    /// The address that it is bound to; `None` when the stack has closed it.
    pub fn local(&self) -> Option<SocketAddr> {
        self.shard.borrow().host().udp_local(self.id)
    }

    /// Sets the actor that gets the datagrams, in bursts.
    ///
    /// Its mailbox should hold 16 messages (actix's default) or more. When it is full, the
    /// stack stops taking packets from the device for a while, then drops what it has for this
    /// socket, counted as `mailbox_full`.
    pub fn deliver_to(&self, recipient: impl IntoRecipient<UdpReceived>) {
        self.shard
            .borrow()
            .deliver_udp(self.id, recipient.into_recipient());
    }

    /// Sets the actor that gets errors, room notices, and the end of the socket; the latter at
    /// once if the stack has closed it already. Errors that find its mailbox full are lost.
    pub fn events_to(&self, recipient: impl IntoRecipient<SocketEvent>) {
        self.shard
            .borrow()
            .events_udp(self.id, recipient.into_recipient());
    }

    /// Accepts only datagrams from `peer` from now on.
    ///
    /// # Errors
    /// When no route leads there.
    pub fn connect(&self, peer: SocketAddr) -> Result<(), host::ConnectError> {
        self.shard.borrow().host().connect_udp(self.id, peer)
    }

    /// Sends a burst. What is accepted leaves `burst`; what is refused stays, each with its
    /// reason in [`UdpSend::refused`].
    pub fn send(&self, burst: &mut Vec<UdpSend<Frame>>) -> SendOutcome {
        self.shard.borrow().send_udp(self.id, burst)
    }

    /// Sends each datagram back to where it came from, from the address that it was sent to,
    /// without a copy. What is refused is dropped; the outcome says how many.
    pub fn reply(&self, datagrams: impl IntoIterator<Item = UdpDatagram<Frame>>) -> SendOutcome {
        // The iterator is foreign code, which may use the stack: the shard is not borrowed then.
        let mut burst = Burst::new();
        burst.extend(datagrams);
        self.reply_all(&mut burst)
    }

    /// As [`reply`](Self::reply), for a whole burst as it came, which is then empty: the fastest
    /// way to answer.
    pub fn reply_all(&self, datagrams: &mut Vec<UdpDatagram<Frame>>) -> SendOutcome {
        self.shard.borrow().reply_udp(self.id, datagrams)
    }

    /// Asks for one [`SocketEvent::TxReady`] when there is room again, to the actor that
    /// [`events_to`](Self::events_to) has set before. Returns whether it will come: under the
    /// policy [`First`](crate::TxReadyPolicy::First), only one sender at a time is told.
    pub fn notify_when_ready(&self) -> bool {
        self.shard.borrow().wait_for_room(Waiter::Socket(self.id))
    }

    /// An empty frame to write a payload into, which is then sent without a copy; `None` when
    /// the pool is empty.
    pub fn frame(&self) -> Option<Frame> {
        self.shard.borrow().frame()
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.shard.try_with(|shard| shard.close_udp(self.id));
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UdpSocket").field(&self.id).finish()
    }
}

/// A subscription of the packet API on its own cpu. Dropping it ends the subscription.
pub struct PacketSocket {
    shard: ShardCell,
    id: SubscriptionId,
}

impl PacketSocket {
    /// The name of the subscription in [`PacketsReceived`].
    pub fn id(&self) -> SubscriptionId {
        self.id
    }

    /// Sends whole Ethernet frames. What is accepted leaves `frames`; what is refused stays.
    pub fn transmit(&self, frames: &mut Vec<Frame>) -> SendOutcome {
        self.shard.borrow().transmit_frames(Some(self.id), frames)
    }

    /// Sets the actor that gets room notices, and the end of the subscription.
    pub fn events_to(&self, recipient: impl IntoRecipient<SocketEvent>) {
        self.shard
            .borrow()
            .events_subscription(self.id, recipient.into_recipient());
    }

    /// Asks for one [`SocketEvent::TxReady`] when there is room again, to the actor that
    /// [`events_to`](Self::events_to) has set before. Returns whether it will come; see
    /// [`UdpSocket::notify_when_ready`].
    pub fn notify_when_ready(&self) -> bool {
        self.shard
            .borrow()
            .wait_for_room(Waiter::Subscription(self.id))
    }

    /// An empty frame to write a packet into; `None` when the pool is empty.
    pub fn frame(&self) -> Option<Frame> {
        self.shard.borrow().frame()
    }

    /// Appends up to `count` empty frames to `burst`, which is faster than to ask for each. Returns
    /// how many there were.
    pub fn frames(&self, burst: &mut Vec<Frame>, count: usize) -> usize {
        self.shard.borrow().frames(burst, count)
    }
}

impl Drop for PacketSocket {
    fn drop(&mut self) {
        self.shard.try_with(|shard| shard.unsubscribe(self.id));
    }
}

impl fmt::Debug for PacketSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PacketSocket").field(&self.id).finish()
    }
}
