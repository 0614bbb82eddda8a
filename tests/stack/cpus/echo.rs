//! An echo that tells where it runs.

use actix::prelude::*;
use virtroupe::{Buffer, UdpReceived, UdpSocket};

/// Sends each datagram back, with the number of its cpu as first byte.
pub struct Echo {
    pub cpu: u16,
    pub socket: UdpSocket,
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
        for datagram in received.datagrams.iter_mut() {
            if let Some(first) = datagram.payload.head_mut().first_mut() {
                *first = self.cpu as u8;
            }
        }
        let outcome = self.socket.reply(received.datagrams.drain(..));
        assert_eq!(outcome.refused, 0, "{:?}", outcome.reason);
    }
}
