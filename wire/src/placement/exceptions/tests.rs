use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const CPUS: u16 = 4;

fn udp(text: &str) -> Binding {
    let local: std::net::SocketAddr = text.parse().unwrap();
    Binding {
        transport: Transport::Udp,
        port: local.port(),
        address: local.ip(),
    }
}

/// A flow from a port of somebody to `to`.
fn flow(to: Binding, port: u16) -> Flow {
    let peer = match to.address.is_ipv6() {
        true => std::net::SocketAddr::new([0xfd, 0, 0, 0, 0, 0, 0, 9].into(), port),
        false => std::net::SocketAddr::new([10, 0, 0, 9].into(), port),
    };
    let local = std::net::SocketAddr::new(to.address, to.port);
    Flow::received_from(to.transport, peer, local).unwrap()
}

/// Who gets what arrives at `to` if the hash says `owner`.
fn resolve(exceptions: &Exceptions, to: Binding, hash: u32, owner: u16) -> u16 {
    let flow = || flow(to, 1);
    exceptions.resolve(to.transport, to.port, flow, hash, || owner)
}

#[test]
fn a_socket_on_one_cpu_gets_everything_until_it_is_closed() {
    let mut exceptions = Exceptions::new(CPUS);
    let any = udp("0.0.0.0:53");
    exceptions.bind(any, 2).unwrap();
    for owner in 0..CPUS {
        assert_eq!(resolve(&exceptions, udp("10.0.0.1:53"), 9, owner), 2);
        assert_eq!(resolve(&exceptions, udp("10.0.0.1:54"), 9, owner), owner);
        assert_eq!(resolve(&exceptions, udp("[fd00::1]:53"), 9, owner), owner);
        let tcp = Binding {
            transport: Transport::Tcp,
            ..udp("10.0.0.1:53")
        };
        assert_eq!(resolve(&exceptions, tcp, 9, owner), owner);
    }
    exceptions.unbind(any, 1);
    assert!(!exceptions.is_empty());
    exceptions.unbind(any, 2);
    assert!(exceptions.is_empty());
    assert_eq!(resolve(&exceptions, any, 9, 0), 0);
}

#[test]
fn a_socket_on_every_cpu_is_no_exception() {
    let mut exceptions = Exceptions::new(CPUS);
    for cpu in 0..CPUS {
        exceptions.bind(udp("[::]:7"), cpu).unwrap();
        assert_eq!(exceptions.is_empty(), cpu == CPUS - 1);
    }
    exceptions.unbind(udp("[::]:7"), 0);
    assert_ne!(resolve(&exceptions, udp("[fd00::1]:7"), 9, 0), 0);
    assert_eq!(resolve(&exceptions, udp("[fd00::1]:7"), 9, 3), 3);
}

#[test]
fn kept_flows_stay_where_they_are_and_others_go_by_the_bindings() {
    let mut exceptions = Exceptions::new(CPUS);
    let any = udp("0.0.0.0:7");
    for cpu in 0..CPUS {
        exceptions.bind(any, cpu).unwrap();
    }
    let to = udp("10.0.0.1:7");
    let ask = |exceptions: &Exceptions, port| {
        exceptions.resolve(Transport::Udp, 7, || flow(to, port), 9, || 3)
    };
    let keep = |exceptions: &mut Exceptions, cpu, ports: &[u16]| {
        let flows: Vec<_> = ports.iter().map(|port| flow(to, *port)).collect();
        exceptions.keep(Transport::Udp, 7, false, cpu, flows.into())
    };
    assert_eq!(keep(&mut exceptions, 0, &[1, 2]), 2);
    assert_eq!(keep(&mut exceptions, 1, &[4]), 1);
    assert!(!exceptions.is_empty());
    let owners = |exceptions: &Exceptions| [1, 2, 3, 4].map(|port| ask(exceptions, port));
    assert_eq!(owners(&exceptions), [0, 0, 3, 1]);
    assert_eq!(resolve(&exceptions, udp("[fd00::1]:7"), 9, 3), 3);
    // What a cpu keeps takes the place of what it kept before, and of nobody else's.
    keep(&mut exceptions, 0, &[2, 3]);
    assert_eq!(owners(&exceptions), [3, 0, 0, 1]);
    keep(&mut exceptions, 0, &[]);
    assert_eq!(owners(&exceptions), [3, 3, 3, 1]);
    exceptions.unbind(any, 1);
    assert_eq!(ask(&exceptions, 4), 1, "it outlives the binding");
    exceptions.bind(any, 1).unwrap();
    keep(&mut exceptions, 1, &[]);
    assert!(exceptions.is_empty());
}

fn flow_of(number: usize) -> Flow {
    let address = std::net::Ipv4Addr::from_bits(number as u32);
    flow(
        Binding {
            address: address.into(),
            ..udp("0.0.0.0:7")
        },
        1,
    )
}

#[test]
fn no_cpu_keeps_more_flows_than_there_is_room_for_nor_takes_it_from_another() {
    let mut exceptions = Exceptions::new(CPUS);
    let flows: Arc<[_]> = (0..MOST_KEPT + 3).map(flow_of).collect();
    let keep = |exceptions: &mut Exceptions, cpu, flows: Arc<[Flow]>| {
        exceptions.keep(Transport::Udp, 7, false, cpu, flows)
    };
    assert_eq!(keep(&mut exceptions, 2, flows.clone()), MOST_KEPT);
    let other: Arc<[_]> = (MOST_KEPT + 3..MOST_KEPT + 5).map(flow_of).collect();
    assert_eq!(keep(&mut exceptions, 1, other.clone()), 2);
    assert!(exceptions.is_kept(&other[1], 1) && exceptions.is_kept(&flows[0], 2));
    assert!(!exceptions.is_kept(&flows[MOST_KEPT], 2));
    assert_eq!(keep(&mut exceptions, 2, flows[..9].into()), 9);
    assert!(!exceptions.is_kept(&flows[9], 2));
}

#[test]
fn flows_that_are_over_are_let_go_and_make_room() {
    let mut exceptions = Exceptions::new(CPUS);
    let flows: Arc<[_]> = (0..MOST_KEPT).map(flow_of).collect();
    exceptions.keep(Transport::Udp, 7, false, 2, flows.clone());
    // Only those that are kept, and there.
    exceptions.let_go(1, &flows);
    exceptions.let_go(2, &[flow_of(MOST_KEPT)]);
    assert!(exceptions.is_kept(&flows[5], 2));
    let few = flows[..3].to_vec();
    exceptions.let_go(2, &few);
    exceptions.let_go(2, &few);
    assert!(!exceptions.is_kept(&flows[2], 2) && exceptions.is_kept(&flows[3], 2));
    let at_another_port: Vec<_> = (0..4)
        .map(|number| flow(udp("10.0.0.1:8"), number))
        .collect();
    let room = exceptions.keep(Transport::Udp, 8, false, 2, at_another_port.into());
    assert_eq!(room, 3);
    exceptions.let_go(2, &flows);
    exceptions.keep(Transport::Udp, 8, false, 2, Arc::new([]));
    assert!(exceptions.is_empty());
}

#[test]
fn a_flow_that_two_cpus_keep_is_the_last_ones_and_counted_once() {
    let mut exceptions = Exceptions::new(CPUS);
    let flows: Arc<[_]> = (0..2).map(flow_of).collect();
    exceptions.keep(Transport::Udp, 7, false, 1, flows.clone());
    exceptions.keep(Transport::Udp, 7, false, 2, flows[..1].into());
    assert!(exceptions.is_kept(&flows[0], 2) && exceptions.is_kept(&flows[1], 1));
    exceptions.keep(Transport::Udp, 7, false, 1, Arc::new([]));
    assert!(exceptions.is_kept(&flows[0], 2) && !exceptions.is_empty());
    exceptions.let_go(2, &flows);
    assert!(exceptions.is_empty());
}

#[test]
fn an_address_of_its_own_comes_first() {
    let mut exceptions = Exceptions::new(CPUS);
    exceptions.bind(udp("0.0.0.0:53"), 2).unwrap();
    for cpu in 0..CPUS {
        exceptions.bind(udp("10.0.0.1:53"), cpu).unwrap();
    }
    exceptions.bind(udp("10.0.0.2:53"), 0).unwrap();
    for owner in 0..CPUS {
        assert_eq!(resolve(&exceptions, udp("10.0.0.1:53"), 9, owner), owner);
        assert_eq!(resolve(&exceptions, udp("10.0.0.2:53"), 9, owner), 0);
        assert_eq!(resolve(&exceptions, udp("10.0.0.3:53"), 9, owner), 2);
    }
}

#[test]
fn the_flows_of_absent_cpus_are_shared_by_those_present() {
    let mut exceptions = Exceptions::new(CPUS);
    exceptions.bind(udp("0.0.0.0:7"), 1).unwrap();
    exceptions.bind(udp("0.0.0.0:7"), 3).unwrap();
    let mut counts = [0; CPUS as usize];
    for step in 0..1024 {
        let cpu = resolve(&exceptions, udp("10.0.0.1:7"), step << 22, 0);
        counts[usize::from(cpu)] += 1;
    }
    assert_eq!(counts, [0, 512, 0, 512]);
}

#[test]
fn unknown_cpus_and_too_many_bindings_are_refused() {
    let mut exceptions = Exceptions::new(CPUS);
    let unknown = PlacementError::UnknownCpu { cpu: 4, cpus: 4 };
    assert_eq!(exceptions.bind(udp("0.0.0.0:7"), 4), Err(unknown));
    for index in 0..MOST_BINDINGS as u32 {
        let mut binding = udp("10.0.0.0:1");
        binding.port = (index >> 8) as u16;
        binding.address = std::net::Ipv4Addr::from_bits(0x0a00_0000 | index & 0xff).into();
        exceptions.bind(binding, 0).unwrap();
    }
    let full = Err(PlacementError::TooManyBindings);
    assert_eq!(exceptions.bind(udp("0.0.0.0:7"), 0), full);
    assert_eq!(exceptions.bind(udp("10.0.0.0:7"), 1), Ok(()));
}

fn binding() -> impl Strategy<Value = Binding> {
    let address = prop_oneof![
        Just("0.0.0.0"),
        Just("10.0.0.1"),
        Just("255.255.255.255"),
        Just("::"),
        Just("fd00::1"),
    ];
    let transport = prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)];
    (transport, 255_u16..258, address).prop_map(|(transport, port, address)| Binding {
        transport,
        port,
        address: address.parse().unwrap(),
    })
}

proptest! {
    /// The tables say what a plain list of the bound sockets says, after any changes in any order.
    #[test]
    fn tables_agree_with_the_sockets(
        changes in prop::collection::vec((binding(), 0..CPUS, any::<bool>()), 0..40),
        asked in binding(),
        hash: u32,
        owner in 0..CPUS,
    ) {
        let mut exceptions = Exceptions::new(CPUS);
        let mut sockets = BTreeSet::new();
        for (binding, cpu, opens) in changes {
            if opens {
                exceptions.bind(binding, cpu).unwrap();
                sockets.insert((binding, cpu));
            } else {
                exceptions.unbind(binding, cpu);
                sockets.remove(&(binding, cpu));
            }
        }
        let on = |binding| -> Vec<u16> {
            sockets.iter().filter(|(other, _)| *other == binding).map(|(_, cpu)| *cpu).collect()
        };
        let own = on(asked);
        prop_assert_eq!(exceptions.bound_on(asked), own.as_slice());
        let bound = if own.is_empty() { on(asked.of_every_address()) } else { own };
        let cpu = resolve(&exceptions, asked, hash, owner);
        if bound.is_empty() || bound.contains(&owner) {
            prop_assert_eq!(cpu, owner);
        } else {
            prop_assert!(bound.contains(&cpu));
        }
        let mut reversed = Exceptions::new(CPUS);
        for (binding, cpu) in sockets.iter().rev() {
            reversed.bind(*binding, *cpu).unwrap();
        }
        prop_assert_eq!(resolve(&reversed, asked, hash, owner), cpu);
        for (binding, cpu) in sockets {
            exceptions.unbind(binding, cpu);
        }
        prop_assert!(exceptions.is_empty());
    }
}

#[derive(Debug, Clone)]
enum Change {
    Keep(u16, u16, Vec<u16>),
    LetGo(u16, u16, Vec<u16>),
}

fn change() -> impl Strategy<Value = Change> {
    let peers = || proptest::collection::vec(0_u16..6, 0..6);
    let local = || (0..CPUS, 7_u16..9);
    prop_oneof![
        (local(), peers()).prop_map(|((cpu, port), peers)| Change::Keep(cpu, port, peers)),
        (local(), peers()).prop_map(|((cpu, port), peers)| Change::LetGo(cpu, port, peers)),
    ]
}

proptest! {
    /// Against a plain map from flow to cpu.
    #[test]
    fn what_is_kept_is_what_was_said_last(
        changes in proptest::collection::vec(change(), 0..40),
    ) {
        let at = |port| udp(if port == 7 { "10.0.0.1:7" } else { "10.0.0.1:8" });
        let mut exceptions = Exceptions::new(CPUS);
        let mut model = std::collections::HashMap::new();
        for change in changes {
            match change {
                Change::Keep(cpu, port, peers) => {
                    let flows: Arc<[_]> = peers.iter().map(|peer| flow(at(port), *peer)).collect();
                    model.retain(|(_, at), owner| (*at, *owner) != (port, cpu));
                    model.extend(peers.iter().map(|peer| ((*peer, port), cpu)));
                    let kept = exceptions.keep(Transport::Udp, port, false, cpu, flows);
                    prop_assert_eq!(kept, peers.len());
                }
                Change::LetGo(cpu, port, peers) => {
                    let flows: Vec<_> = peers.iter().map(|peer| flow(at(port), *peer)).collect();
                    model.retain(|(peer, at), owner| {
                        (*at, *owner) != (port, cpu) || !peers.contains(peer)
                    });
                    exceptions.let_go(cpu, &flows);
                }
            }
            for (peer, port) in (0..6).flat_map(|peer| [(peer, 7), (peer, 8)]) {
                let ask = || flow(at(port), peer);
                let owner = exceptions.resolve(Transport::Udp, port, ask, 9, || 99);
                prop_assert_eq!(owner, model.get(&(peer, port)).copied().unwrap_or(99));
            }
            prop_assert_eq!(exceptions.is_empty(), model.is_empty());
            for cpu in 0..CPUS {
                let count = model.values().filter(|owner| **owner == cpu).count();
                prop_assert_eq!(exceptions.kept_by.get(&cpu).copied().unwrap_or(0), count);
            }
        }
    }
}
