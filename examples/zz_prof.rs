use etherparse::PacketBuilder;
use virtroupe::driver::embedded::*;
use virtroupe::driver::*;
use virtroupe::wire::host::*;
use virtroupe::wire::udp::UdpSend;
use virtroupe::*;
fn main() {
    let rounds: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let frames = (0..64u8)
        .map(|i| {
            let b = PacketBuilder::ethernet2([0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 1])
                .ipv4([10, 254, 0, 0], [10, 253, 0, i], 64)
                .udp(1000, 1001);
            let mut f = Vec::new();
            b.write(&mut f, &[7; 22]).unwrap();
            f[40] = 0;
            f[41] = 0;
            f
        })
        .collect();
    let src = PacketSource::new(SourceConfig {
        frames,
        ..Default::default()
    });
    let (t, _h, step) = EmbeddedTransport::inline(EmbeddedConfig::default(), src).unwrap();
    let mut o = DeviceOptions::default();
    o.mac = Some("00:01:02:03:04:01".parse().unwrap());
    let (_d, pairs) = Device::initialize(Box::new(t), &o).unwrap();
    let mut pair = pairs.into_iter().next().unwrap().bind();
    let mut c = HostConfig::default();
    c.mac = o.mac.unwrap();
    c.owned.push("10.253.0.0/22".parse().unwrap());
    c.neighbors.push(Neighbor {
        address: "10.254.0.0".parse().unwrap(),
        mac: "00:01:02:03:04:00".parse().unwrap(),
    });
    c.routes.push(Route {
        destination: "10.254.0.0/32".parse().unwrap(),
        gateway: None,
    });
    let mut host: Host<Frame> = Host::new(c, 1).unwrap();
    let id = host.bind_udp("0.0.0.0:1001".parse().unwrap()).unwrap();
    let mut burst = Vec::new();
    let mut out = Vec::new();
    let mut n = 0u64;
    pair.disarm();
    for i in 0..rounds {
        let now = virtroupe::wire::Instant::from_nanos(i as u64 * 1000);
        step.step(now);
        n += body(&mut pair, &mut host, id, &mut burst, &mut out, now);
    }
    eprintln!("{n} {}", pair.transmit_counters().frames);
}
#[inline(never)]
fn body(
    pair: &mut QueuePair,
    host: &mut Host<Frame>,
    id: virtroupe::wire::udp::UdpSocketId,
    burst: &mut Vec<Frame>,
    out: &mut Vec<UdpSend<Frame>>,
    now: virtroupe::wire::Instant,
) -> u64 {
    let n = rx(pair, burst);
    rcv(host, pair, burst, now);
    while let Some(s) = host.take_ready_udp() {
        let r = host.udp_received(s).unwrap();
        out.extend(r.drain(..).map(UdpSend::reply));
    }
    snd(host, pair, id, out, now);
    tx(pair, host);
    n as u64
}
#[inline(never)]
fn rx(pair: &mut QueuePair, burst: &mut Vec<Frame>) -> usize {
    pair.receive(burst, 64).unwrap()
}
#[inline(never)]
fn rcv(
    host: &mut Host<Frame>,
    pair: &mut QueuePair,
    burst: &mut Vec<Frame>,
    now: virtroupe::wire::Instant,
) {
    host.receive(now, burst, pair.pool())
}
#[inline(never)]
fn snd(
    host: &mut Host<Frame>,
    pair: &mut QueuePair,
    id: virtroupe::wire::udp::UdpSocketId,
    out: &mut Vec<UdpSend<Frame>>,
    now: virtroupe::wire::Instant,
) {
    let _ = host.send_udp(now, id, out, pair.pool());
    out.clear();
}
#[inline(never)]
fn tx(pair: &mut QueuePair, host: &mut Host<Frame>) {
    pair.transmit(host.transmit()).unwrap();
    let r = pair.transmit_room();
    host.set_transmit_room(r);
}
