//! What the data path allocates once it runs: nothing in driver and engines, and what actix
//! needs for its messages.
//!
//! One test, since all of the process is measured.
//!
//! Time budget of this suite: 10 s.

use std::time::Duration;

use actix::prelude::*;
use virtroupe::driver::embedded::{
    DeviceThread, EmbeddedConfig, EmbeddedTransport, PacketSource, SourceConfig, SourceMonitor,
};
use virtroupe::driver::memory::HugePages;
use virtroupe::wire::host::Neighbor;
use virtroupe::{BindError, Config, DeviceUrl, MacAddr, Stack, Supervisor, UdpReceived, UdpSocket};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

struct Echo {
    socket: UdpSocket,
    messages: u64,
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
        self.messages += 1;
        self.socket.reply_all(&mut received.datagrams);
    }
}

/// Asks how many bursts came.
#[derive(Message)]
#[rtype(result = "u64")]
struct Messages;

impl Handler<Messages> for Echo {
    type Result = u64;

    fn handle(&mut self, _: Messages, _: &mut Self::Context) -> u64 {
        self.messages
    }
}

/// 64 flows of UDP datagrams.
fn frames() -> Vec<Vec<u8>> {
    let frame = |port: u16| {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
            .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
            .udp(1000 + port, 7)
            .write(&mut bytes, &[0x5a; 22])
            .expect("a vector takes all");
        bytes
    };
    (0..64).map(frame).collect()
}

async fn start() -> (Stack, SourceMonitor) {
    let source = PacketSource::new(SourceConfig {
        frames: frames(),
        ..SourceConfig::default()
    });
    let monitor = source.monitor();
    let device = EmbeddedConfig {
        mac: OUR_MAC,
        ..EmbeddedConfig::default()
    };
    let mut config = Config::new(DeviceUrl::Own("source".into()))
        .address("10.0.0.1/24".parse().expect("an address"));
    config.options.huge_pages = HugePages::Never;
    config.host.neighbors = vec![Neighbor {
        address: [10, 0, 0, 2].into(),
        mac: PEER_MAC,
    }];
    // The device allocates when it goes to sleep; it is not what is measured.
    let thread = DeviceThread {
        spin: Duration::from_secs(60),
        ..DeviceThread::default()
    };
    let (transport, _) = EmbeddedTransport::threaded(device, source, thread).expect("a device");
    let stack = Supervisor::start_on(Box::new(transport), config).await;
    (stack.expect("the stack starts"), monitor)
}

#[actix::test]
async fn an_echo_allocates_for_its_messages_alone() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let (stack, device) = start().await;
    let echo = stack.run_on(0, |local| async move {
        let socket = local.bind_udp(([0, 0, 0, 0], 7).into()).await?;
        let messages = 0;
        Ok::<_, BindError>(Echo { socket, messages }.start())
    });
    let echo = echo.await.expect("it runs").expect("bound");
    let until = async |packets: u64| {
        while device.stats().received.frames < packets {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Vectors have grown by then.
    until(20_000).await;
    let messages = echo.send(Messages).await.expect("alive");
    let (blocks, packets) = (
        dhat::HeapStats::get().total_blocks,
        device.stats().received.frames,
    );
    until(packets + 200_000).await;
    let blocks = dhat::HeapStats::get().total_blocks - blocks;
    let packets = device.stats().received.frames - packets;
    let messages = echo.send(Messages).await.expect("alive") - messages;
    // The waiting itself, and the question, take a few.
    let allowance = 2 * messages + 1000;
    assert!(
        blocks <= allowance,
        "{blocks} blocks for {packets} packets in {messages} messages"
    );
    stack.shutdown().await;
}
