//! Binding, connecting and closing sockets, and the settings of a host.

use std::net::SocketAddr;

use virtroupe_wire::{
    BindError, ConnectError, DropReason, HeapBuffer, Host, HostConfig, HostError, Limits, MacAddr,
};

use crate::support::*;

fn bind(bed: &mut Bed, local: &str) -> Result<virtroupe_wire::UdpSocketId, BindError> {
    bed.host.bind_udp(local.parse().unwrap())
}

#[test]
fn an_address_is_bound_once_and_is_ours() {
    let mut bed = Bed::new(config());
    let any = bed.bind("0.0.0.0:7");
    let in_use: SocketAddr = "0.0.0.0:7".parse().unwrap();
    assert_eq!(
        bind(&mut bed, "0.0.0.0:7"),
        Err(BindError::AddressInUse(in_use))
    );
    bed.bind("10.0.0.1:7");
    assert!(matches!(
        bind(&mut bed, "10.0.0.1:7"),
        Err(BindError::AddressInUse(_))
    ));
    assert!(matches!(
        bind(&mut bed, "10.0.0.2:7"),
        Err(BindError::AddressNotOurs(_))
    ));
    assert!(matches!(
        bind(&mut bed, "10.0.0.255:7"),
        Err(BindError::AddressNotOurs(_))
    ));
    assert!(matches!(
        bind(&mut bed, "[fd00::1]:7"),
        Err(BindError::AddressNotOurs(_))
    ));
    bed.host.close_udp(any);
    let again = bed.bind("0.0.0.0:7");
    assert_ne!(any, again, "a name is not used again");
    assert_eq!(bed.host.udp_local(any), None);
    assert_eq!(bed.host.udp_local(again), Some(in_use));
}

#[test]
fn ephemeral_ports_are_spread_and_run_out() {
    let mut bed = Bed::new(config());
    let mut ports = Vec::new();
    for _ in 0..16_384 {
        let socket = bed.bind("0.0.0.0:0");
        ports.push(bed.host.udp_local(socket).unwrap().port());
    }
    assert!(
        ports
            .windows(2)
            .take(100)
            .filter(|pair| pair[0].abs_diff(pair[1]) == 1)
            .count()
            < 10
    );
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((ports.len(), ports[0]), (16_384, 49_152));
    assert_eq!(bind(&mut bed, "0.0.0.0:0"), Err(BindError::NoPorts));
}

#[test]
fn the_number_of_sockets_is_bounded() {
    let limits = Limits {
        sockets: 2,
        ..Limits::default()
    };
    let mut bed = Bed::new(HostConfig { limits, ..config() });
    let first = bed.bind("0.0.0.0:1");
    bed.bind("0.0.0.0:2");
    assert_eq!(bind(&mut bed, "0.0.0.0:3"), Err(BindError::TooManySockets));
    bed.host.close_udp(first);
    bed.bind("0.0.0.0:3");
}

#[test]
fn the_most_specific_socket_gets_a_datagram() {
    let mut bed = Bed::new(HostConfig {
        addresses: vec![
            "10.0.0.1/24".parse().unwrap(),
            "10.0.0.9/24".parse().unwrap(),
        ],
        ..config()
    });
    let any = bed.bind("0.0.0.0:7");
    let specific = bed.bind("10.0.0.1:7");
    let nine = [10, 0, 0, 9].into();
    bed.receive(&udp((PEER, 9), (OUR, 7), b"x"));
    bed.receive(&udp((PEER, 9), (nine, 7), b"x"));
    assert_eq!(
        (bed.received(specific).len(), bed.received(any).len()),
        (1, 1)
    );
    // A connected one gets what its peer sends, and nothing else.
    bed.host.connect_udp(any, (PEER, 9).into()).unwrap();
    bed.receive(&udp((PEER, 9), (OUR, 7), b"x"));
    assert_eq!(
        (bed.received(specific).len(), bed.received(any).len()),
        (0, 1)
    );
    bed.receive(&udp((PEER, 10), (OUR, 7), b"x"));
    assert_eq!(
        (bed.received(specific).len(), bed.received(any).len()),
        (1, 0)
    );
    assert_eq!(
        bed.receive(&udp((PEER, 10), (nine, 7), b"x")).len(),
        1,
        "port unreachable"
    );
    assert_eq!(bed.dropped(DropReason::NoSocket), 1);
}

#[test]
fn a_peer_is_one_host() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    for bad in ["10.0.0.255:1", "224.0.0.1:1", "0.0.0.0:1", "10.0.0.2:0"] {
        let bad: SocketAddr = bad.parse().unwrap();
        assert_eq!(
            bed.host.connect_udp(socket, bad),
            Err(ConnectError::BadPeer(bad))
        );
    }
    let v6: SocketAddr = "[fd00::2]:1".parse().unwrap();
    assert_eq!(
        bed.host.connect_udp(socket, v6),
        Err(ConnectError::FamiliesDiffer(v6))
    );
    bed.host.close_udp(socket);
    let closed = bed.host.connect_udp(socket, (PEER, 9).into());
    assert_eq!(closed, Err(ConnectError::Closed));
}

#[test]
fn what_waits_in_a_closed_socket_is_counted() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    for _ in 0..3 {
        bed.receive(&udp((PEER, 9), (OUR, 7), b"x"));
    }
    bed.host.close_udp(socket);
    bed.host.close_udp(socket);
    assert_eq!(bed.dropped(DropReason::SocketClosed), 3);
    bed.check();
    assert_eq!(bed.host.take_ready_udp(), None);
    assert!(bed.host.udp_received(socket).is_none());
    let (outcome, refused) = bed.send(socket, (PEER, 9), &[b"x", b"y"]);
    assert_eq!((outcome.accepted, outcome.refused), (0, 2));
    assert!(
        refused
            .iter()
            .all(|send| send.refused == Some(DropReason::SocketClosed))
    );
}

fn host(config: HostConfig) -> Result<(), HostError> {
    Host::<HeapBuffer>::new(config, 1).map(|_| ())
}

#[test]
fn settings_that_can_not_be_are_refused() {
    let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    let with = |address: &str| HostConfig {
        addresses: vec![net(address)],
        ..config()
    };
    assert_eq!(host(config()), Ok(()));
    for bad in [
        "10.0.0.0/24",
        "10.0.0.255/24",
        "127.0.0.1/8",
        "224.0.0.1/4",
        "0.0.0.0/32",
    ] {
        assert_eq!(host(with(bad)), Err(HostError::Address(net(bad))));
    }
    for good in ["fd00::1/64", "fe80::1/64", "2001:db8::/127", "fd00::/128"] {
        assert_eq!(host(with(good)), Ok(()), "{good}");
    }
    for bad in [
        "fd00::/64",
        "::1/128",
        "ff02::1/128",
        "::/128",
        "::ffff:1.2.3.4/128",
    ] {
        assert_eq!(host(with(bad)), Err(HostError::Ipv6Address(net(bad))));
    }
    let bad = |change: fn(&mut HostConfig)| {
        let mut config = config();
        change(&mut config);
        host(config).unwrap_err()
    };
    let group = MacAddr([1, 0, 0, 0, 0, 1]);
    assert_eq!(
        bad(|config| config.mac = MacAddr([1, 0, 0, 0, 0, 1])),
        HostError::Mac(group)
    );
    assert_eq!(bad(|config| config.mtu = 67), HostError::Mtu(67));
    assert_eq!(bad(|config| config.addresses.clear()), HostError::NoAddress);
    let narrow = HostConfig {
        mtu: 1279,
        ..with("fd00::1/64")
    };
    assert_eq!(host(narrow), Err(HostError::Ipv6Mtu(1279)));
    assert_eq!(bad(|config| config.ttl = 0), HostError::Ttl);
    assert_eq!(
        bad(|config| config.limits.neighbors = 0),
        HostError::ZeroLimit("neighbors")
    );
    for gateway in [[10, 0, 1, 1], [10, 0, 0, 1], [10, 0, 0, 255]] {
        let config = HostConfig {
            gateway: Some(gateway.into()),
            ..config()
        };
        assert_eq!(host(config), Err(HostError::Gateway(gateway.into())));
    }
}

#[test]
fn settings_are_read_from_a_file_and_unknown_ones_refused() {
    let text = r#"
        mac = "02:00:00:00:00:01"
        addresses = ["10.0.0.1/24"]
        owned = ["172.16.0.0/16"]
        gateway = "10.0.0.254"
        routes = [{ destination = "192.0.2.0/24", gateway = "10.0.0.253" }]
        neighbors = [{ address = "10.0.0.2", mac = "02:00:00:00:00:02" }]
        [limits]
        neighbor_interval = 0.5
    "#;
    let config: HostConfig = toml::from_str(text).unwrap();
    assert_eq!((config.mtu, config.ttl), (1500, 64));
    assert_eq!(
        config.limits.neighbor_interval,
        std::time::Duration::from_millis(500)
    );
    assert_eq!(config.limits.neighbors, Limits::default().neighbors);
    assert_eq!(host(config), Ok(()));
    for bad in [
        "mtuu = 1500",
        "[limits]\nneighbours = 1",
        "[limits]\nneighbor_interval = -1.0",
    ] {
        assert!(toml::from_str::<HostConfig>(bad).is_err(), "{bad}");
    }
}

/// Sockets of all kinds, two of them at one port, with little room in their queues.
fn crowd() -> (Bed, Vec<virtroupe_wire::UdpSocketId>) {
    let mut bed = Bed::new(HostConfig {
        limits: Limits {
            socket_queue: 5,
            ..Limits::default()
        },
        ..config()
    });
    let sockets = ["0.0.0.0:7", "0.0.0.0:8", "10.0.0.1:8", "0.0.0.0:9"];
    let sockets: Vec<_> = sockets.iter().map(|local| bed.bind(local)).collect();
    let peer = "10.0.0.2:1000".parse().unwrap();
    bed.host.connect_udp(sockets[3], peer).unwrap();
    (bed, sockets)
}

#[test]
fn a_burst_is_handled_as_its_frames_would_be_one_by_one() {
    let stranger = std::net::Ipv4Addr::new(10, 0, 0, 3);
    let mut frames = Vec::new();
    for step in 0..64_u16 {
        // Runs of one port, with other peers, ports, no socket, bad sources and sums among them.
        let port = 7 + step / 5 % 4;
        let from = match step % 7 {
            3 => (stranger, 1000),
            5 => (PEER, 1001),
            6 => (BROADCAST, 1000),
            _ => (PEER, 1000),
        };
        let mut frame = udp(from, (OUR, port), &pattern(usize::from(step)));
        if step % 11 == 4 {
            frame[24] ^= 1;
        }
        frame.resize(frame.len().max(60), 0);
        frames.push(frame);
    }
    let (mut together, sockets) = crowd();
    let (mut apart, _) = crowd();
    let mut burst: Vec<_> = frames.iter().map(|frame| HeapBuffer::new(frame)).collect();
    let now = together.now;
    together.host.receive(now, &mut burst, &mut together.pool);
    for frame in &frames {
        apart.receive(frame);
    }
    assert!(burst.is_empty());
    assert_eq!(together.host.drops(), apart.host.drops());
    assert!(together.dropped(DropReason::MailboxFull) > 0);
    assert_eq!(
        together.host.counters().delivered,
        apart.host.counters().delivered
    );
    assert_eq!(
        together.host.counters().rx_bytes,
        apart.host.counters().rx_bytes
    );
    for socket in sockets {
        let read = |bed: &mut Bed| -> Vec<_> {
            let datagrams = bed.received(socket).into_iter();
            datagrams
                .map(|got| (got.source, got.destination, got.payload))
                .map(|(source, to, bytes)| (source, to, virtroupe_wire::Buffer::to_vec(&bytes)))
                .collect()
        };
        assert_eq!(read(&mut together), read(&mut apart));
    }
    together.check();
}
