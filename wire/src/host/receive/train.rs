//! Trains of datagrams that a device received as one frame (USO), cut again before a socket gets
//! them.
//!
//! An application that does not ask for trains must not see several datagrams as one; so Linux
//! does it too for sockets without `UDP_GRO`. The datagrams are copies: a slot of packet memory is
//! unique, and mostly holds the end of one and the beginning of the next.

use super::super::Host;
use crate::buffer::{Allocator, Buffer, allocate_up_to, extend};
use crate::drops::DropReason;
use crate::udp::{UdpDatagram, UdpSocketId};

impl<B: Buffer> Host<B> {
    /// Delivers the payload of `train` in datagrams of `size` bytes each, the last one shorter.
    /// Each is delivered or dropped for itself.
    pub(super) fn deliver_train<A: Allocator<Buffer = B>>(
        &mut self,
        socket: UdpSocketId,
        train: UdpDatagram<B>,
        size: u16,
        pool: &mut A,
    ) {
        let length = train.payload.len();
        let size = usize::from(size.max(1));
        let datagrams = length.div_ceil(size).max(1);
        self.counters.split += datagrams as u64 - 1;
        if datagrams == 1 {
            return self.deliver_one(socket, train);
        }
        let mut cutter = Cutter {
            pool,
            size,
            left: length,
            piece: None,
            room: 0,
        };
        // The segments are borrowed from the train while the datagrams go to the socket.
        let UdpDatagram { payload, .. } = &train;
        payload.for_each_segment(|bytes| {
            cutter.cut(bytes, |piece| match piece {
                Some(payload) => self.deliver_one(socket, UdpDatagram { payload, ..train }),
                None => self.drop_received(DropReason::PoolEmpty),
            });
        });
    }

    fn deliver_one(&mut self, socket: UdpSocketId, datagram: UdpDatagram<B>) {
        match self.sockets.deliver(socket, datagram) {
            Ok(()) => self.counters.delivered += 1,
            Err(_) => self.drop_received(DropReason::MailboxFull),
        }
    }
}

/// Copies bytes into pieces of equal length, the last one shorter.
struct Cutter<'a, A: Allocator> {
    pool: &'a mut A,
    /// Bytes in each piece.
    size: usize,
    /// Bytes that are still to come.
    left: usize,
    /// The piece that is being filled; `None` if there was no memory for it.
    piece: Option<A::Buffer>,
    /// Bytes that it still takes; 0 if there is none.
    room: usize,
}

impl<A: Allocator> Cutter<'_, A> {
    /// Takes the next bytes, and gives each piece that is full to `done`, or `None` in place of
    /// one for which memory was short.
    fn cut(&mut self, mut bytes: &[u8], mut done: impl FnMut(Option<A::Buffer>)) {
        while !bytes.is_empty() {
            if self.room == 0 {
                self.room = self.size.min(self.left);
                let allocated = allocate_up_to(self.pool, self.room);
                self.piece = allocated.map(|(piece, _)| piece);
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.room));
            bytes = later;
            self.room -= now.len();
            self.left -= now.len();
            self.piece = self
                .piece
                .take()
                .and_then(|mut piece| extend(&mut piece, now, self.pool).then_some(piece));
            if self.room == 0 {
                done(self.piece.take());
            }
        }
    }
}
