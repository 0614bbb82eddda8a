//! What the data path allocates once it runs: nothing in driver and engines, and what actix
//! needs for its messages.
//!
//! One test of several parts, since all of the process is measured.
//!
//! Time budget of this suite: 20 s.

use std::time::Duration;

use actix::prelude::*;
use tokio::io::AsyncWriteExt;
use virtroupe::driver::embedded::{
    DeviceThread, EmbeddedConfig, EmbeddedTransport, Link, LinkConfig, LinkEnd, PacketSource,
    SourceConfig, SourceMonitor,
};
use virtroupe::driver::memory::HugePages;
use virtroupe::wire::host::Neighbor;
use virtroupe::{
    BindError, Config, DeviceUrl, FeatureBits, ListenOptions, MacAddr, Stack, Supervisor,
    TcpConnectError, TcpOptions, UdpReceived, UdpSocket,
};

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
async fn the_data_path_allocates_for_messages_alone() {
    let _profiler = dhat::Profiler::builder().testing().build();
    an_echo_allocates_for_its_messages_alone().await;
    for features in [
        EmbeddedConfig::SUPPORTED - FeatureBits::HOST_TSO4,
        EmbeddedConfig::SUPPORTED,
    ] {
        a_stream_allocates_nothing(features).await;
    }
}

async fn an_echo_allocates_for_its_messages_alone() {
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

/// Starts a stack 10.0.0.`host` on one end of a link.
async fn start_on_link(host: u8, end: LinkEnd, features: FeatureBits) -> Stack {
    let device = EmbeddedConfig {
        mac: MacAddr([2, 0, 0, 0, 0, host]),
        features,
        ..EmbeddedConfig::default()
    };
    let address = format!("10.0.0.{host}/24").parse().expect("an address");
    let mut config = Config::new(DeviceUrl::Own("link".into())).address(address);
    config.options.huge_pages = HugePages::Never;
    let thread = DeviceThread {
        spin: Duration::from_secs(60),
        ..DeviceThread::default()
    };
    let (transport, _) = EmbeddedTransport::threaded(device, end, thread).expect("a device");
    let stack = Supervisor::start_on(Box::new(transport), config).await;
    stack.expect("the stack starts")
}

/// Settings with which so little is under way that neither a pool runs low nor much waits in the
/// link, however long a thread is not scheduled. With a window of 4 MiB, up to 7200 blocks were seen in a
/// part: the packets of the link, which are vectors of the device's model, grow with what waits
/// there, and what arrives when a pool is low is copied to the heap, as it should.
fn few_under_way() -> TcpOptions {
    TcpOptions {
        send_buffer: 256 << 10,
        receive_buffer: 256 << 10,
        ..TcpOptions::default()
    }
}

/// A bulk transfer between two stacks, once all queues have grown, over devices with `features`.
async fn a_stream_allocates_nothing(features: FeatureBits) {
    /// The first part is not measured, each of the others is.
    const PARTS: usize = 3;
    const MEASURED: usize = 8 << 20;
    let (left, right) = Link::pair(LinkConfig::default());
    let client = start_on_link(1, left, features).await;
    let server = start_on_link(2, right, features).await;
    let (report, blocks) = tokio::sync::oneshot::channel();
    let listening = server.run_on(0, |local| async move {
        let at = ([10, 0, 0, 2], 7).into();
        let options = ListenOptions {
            connection: few_under_way(),
            ..ListenOptions::default()
        };
        let listener = local.listen_tcp(at, options).await?;
        actix::spawn(async move {
            let mut stream = listener.accept().await.expect("a connection");
            let (mut read, mut before, mut most) = (0, 0, 0);
            while let Some(received) = stream.receive().await.expect("no error") {
                let parts = read / MEASURED;
                read += received.len();
                if read / MEASURED > parts {
                    let now = dhat::HeapStats::get().total_blocks;
                    if parts > 0 {
                        most = most.max(now - before);
                    }
                    before = now;
                }
                if read >= PARTS * MEASURED {
                    break;
                }
            }
            let _ = report.send(most);
        });
        Ok::<_, BindError>(())
    });
    listening.await.expect("it runs").expect("free");
    let sending = client.run_on(0, |local| async move {
        let peer = ([10, 0, 0, 2], 7).into();
        let mut stream = local.connect_tcp(peer, few_under_way()).await?;
        actix::spawn(async move {
            let bytes = vec![0x5a; 256 << 10];
            // Until the peer has enough.
            while stream.write_all(&bytes).await.is_ok() {}
        });
        Ok::<_, TcpConnectError>(())
    });
    sending.await.expect("it runs").expect("accepted");
    let blocks = blocks.await.expect("measured");
    let segments = MEASURED as u64 / 1448;
    // Timers of the poll loops, and queues and packets of the link that grow once more: none of it
    // for each segment.
    assert!(
        blocks <= 600,
        "{blocks} blocks for {segments} segments, {features}"
    );
    client.shutdown().await;
    server.shutdown().await;
}
