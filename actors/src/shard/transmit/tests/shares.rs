//! How TCP and senders of datagrams share room when there is too little for both.

use std::net::SocketAddr;
use std::sync::Arc;

use virtroupe_driver::DeviceParts;
use virtroupe_wire::host::Neighbor;
use virtroupe_wire::tcp::TcpOptions;

use super::*;
use crate::credits::Credits;
use crate::lane::{LaneReceiver, lane};
use crate::registry::Sharing;
use crate::virtual_queue::VirtualQueue;

/// A shard with TCP on a cpu without a queue, and the other side of its virtual queue: there is room
/// for as many frames as the test takes out.
pub(super) struct Proxy {
    pub(super) shard: Shard,
    lane: LaneReceiver,
    credits: Arc<Credits>,
    sockets: Vec<UdpSocketId>,
    _parts: DeviceParts,
}

impl Proxy {
    pub(super) fn new(features: FeatureBits, credits: u32, policy: TxReadyPolicy) -> Self {
        let (end, _other) = Link::pair(LinkConfig::default());
        let config = EmbeddedConfig {
            features: features | FeatureBits::VERSION_1 | FeatureBits::MAC,
            mac: OUR,
            ..EmbeddedConfig::default()
        };
        let (transport, ..) = EmbeddedTransport::inline(config, end).expect("a device");
        let options = DeviceOptions {
            pool_frames: 4096,
            huge_pages: HugePages::Never,
            ..DeviceOptions::default()
        };
        let mut parts = Device::initialize_for(Box::new(transport), &options, 1).expect("a device");
        let pool = parts.pools.pop().expect("a pool").bind();
        let host = HostConfig {
            mac: OUR,
            addresses: vec!["10.0.0.1/24".parse().expect("an address")],
            neighbors: vec![Neighbor {
                address: "10.0.0.2".parse().expect("an address"),
                mac: PEER,
            }],
            ..HostConfig::default()
        };
        let (sender, lane) = lane(credits as usize, Arc::default());
        let credits = Arc::new(Credits::new(credits));
        let queue = VirtualQueue::new(sender, credits.clone(), pool);
        let shard = Shard::new(ShardParts {
            cpu: 0,
            clock: Clock::new(),
            features: parts.device.features().clone(),
            host: Host::new(host, 1).expect("valid settings"),
            tcp: Some(Default::default()),
            tcp_seed: 1,
            ports: Rc::new(RefCell::new(Ports {
                egress: Egress::Virtual(queue),
                further: Vec::new(),
                crossings: None,
            })),
            registry: PortRegistry::default(),
            patience: Duration::ZERO,
            policy,
        });
        Proxy {
            shard,
            lane,
            credits,
            sockets: Vec::new(),
            _parts: parts,
        }
    }

    /// A turn of the loop.
    pub(super) fn turn(&mut self) {
        let ports = self.shard.ports.clone();
        for _ in 0..2 {
            let egress = &mut ports.borrow_mut().egress;
            self.shard.flush(egress).expect("no ring");
        }
        self.shard.dispatch(self.shard.clock.now());
    }

    fn bind(&mut self, port: u16) {
        let local = SocketAddr::from(([0, 0, 0, 0], port));
        let (socket, _) = self.shard.bind_udp(local, Sharing::Alone).expect("free");
        self.sockets.push(socket);
    }

    /// Has TCP want to send so many frames, each of another connection.
    fn connect(&mut self, connections: usize) {
        for _ in 0..connections {
            let connecting = self.shard.connect_tcp(None, peer(), &TcpOptions::default());
            connecting.expect("a port");
        }
    }

    /// Each socket offers so many datagrams, of which it does not keep those that are refused.
    fn offer(&mut self, datagrams: usize) {
        for socket in &self.sockets {
            let datagram = |_| UdpSend::new(peer(), Payload::Bytes(vec![7; 100].into()));
            let mut burst: Vec<_> = (0..datagrams).map(datagram).collect();
            self.shard.send_udp(*socket, &mut burst);
        }
    }

    /// Takes up to so many frames out. Returns how many are of TCP, and how many are not.
    fn take(&mut self, frames: usize) -> (usize, usize) {
        let mut burst = Vec::new();
        self.lane.take(&mut burst, frames);
        self.credits.give_back(burst.len() as u32, 0);
        let is_tcp = |frame: &&Frame| frame.head()[23] == 6;
        let tcp = burst.iter().filter(is_tcp).count();
        (tcp, burst.len() - tcp)
    }
}

fn peer() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], 7))
}

/// With long segments that are cut in software, TCP waits until there is room for all pieces of one.
const CUTS_ONE_FAMILY: FeatureBits = FeatureBits(FeatureBits::HOST_TSO4.0 | FeatureBits::CSUM.0);

/// About half each; a sender that has just used its turn does not wait for that moment.
#[test]
fn tcp_and_senders_of_datagrams_that_want_all_room_leave_each_other_a_share() {
    for features in [CUTS_ONE_FAMILY, FeatureBits::CSUM] {
        for policy in [TxReadyPolicy::Fair, TxReadyPolicy::All] {
            for (credits, senders, room) in [(64, 4, 7), (64, 4, 32), (64, 1, 100), (512, 1, 32)] {
                let mut proxy = Proxy::new(features, credits, policy);
                (0..senders).for_each(|number| proxy.bind(1000 + number));
                proxy.connect(2500);
                // What is sent before both wait is not shared.
                let mut counts = [(0, 0), (0, 0)];
                for (tcp, udp) in &mut counts {
                    while *tcp + *udp < 1500 {
                        proxy.offer(64);
                        proxy.turn();
                        let taken = proxy.take(room);
                        (*tcp, *udp) = (*tcp + taken.0, *udp + taken.1);
                    }
                }
                let [_, (tcp, udp)] = counts;
                assert!(
                    (375..=1125).contains(&tcp),
                    "{features:?}, {policy:?}, {credits} credits, {senders} senders, room for \
                     {room}: {tcp} of TCP, {udp} others"
                );
            }
        }
    }
}

/// Whoever is alone has everything.
#[test]
fn nothing_is_kept_for_who_does_not_want_to_send() {
    let mut proxy = Proxy::new(CUTS_ONE_FAMILY, 512, TxReadyPolicy::Fair);
    proxy.connect(300);
    proxy.turn();
    assert_eq!(proxy.take(512), (300, 0));
    proxy.bind(1000);
    proxy.offer(512);
    proxy.turn();
    assert_eq!(proxy.take(512), (0, 512));
}
