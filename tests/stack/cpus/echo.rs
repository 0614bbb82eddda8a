//! An echo that does something with each datagram first.

use actix::prelude::*;
use virtroupe::{Buffer, Frame, UdpDatagram, UdpReceived, UdpSocket};

/// What is done with a datagram before it goes back.
type Each = Box<dyn FnMut(&mut UdpDatagram<Frame>)>;

/// Sends each datagram back.
pub struct Echo {
    socket: UdpSocket,
    each: Each,
}

impl Echo {
    /// An echo that does `each` with every datagram before.
    pub fn new(socket: UdpSocket, each: impl FnMut(&mut UdpDatagram<Frame>) + 'static) -> Self {
        Echo {
            socket,
            each: Box::new(each),
        }
    }

    /// An echo that writes its number into the first byte.
    pub fn numbered(socket: UdpSocket, number: u16) -> Self {
        Self::new(socket, move |datagram| {
            if let Some(first) = datagram.payload.head_mut().first_mut() {
                *first = number as u8;
            }
        })
    }
}

impl Actor for Echo {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.deliver_to(ctx.address());
    }
}

impl Handler<UdpReceived> for Echo {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        received.datagrams.iter_mut().for_each(&mut self.each);
        let outcome = self.socket.reply(received.datagrams.drain(..));
        assert_eq!(outcome.refused, 0, "{:?}", outcome.reason);
    }
}
