use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::placement::flow::{Flow, Transport};

/// The verification suite that Microsoft published ("Verifying the RSS Hash Calculation"):
/// source, destination, hash over addresses, hash over addresses and ports.
const SUITE: [(&str, &str, u32, u32); 8] = [
    (
        "66.9.149.187:2794",
        "161.142.100.80:1766",
        0x323e_8fc2,
        0x51cc_c178,
    ),
    (
        "199.92.111.2:14230",
        "65.69.140.83:4739",
        0xd718_262a,
        0xc626_b0ea,
    ),
    (
        "24.19.198.95:12898",
        "12.22.207.184:38024",
        0xd2d0_a5de,
        0x5c2b_394a,
    ),
    (
        "38.27.205.30:48228",
        "209.142.163.6:2217",
        0x8298_9176,
        0xafc7_327f,
    ),
    (
        "153.39.163.191:44251",
        "202.188.127.2:1303",
        0x5d18_09c5,
        0x10e8_28a2,
    ),
    (
        "[3ffe:2501:200:1fff::7]:2794",
        "[3ffe:2501:200:3::1]:1766",
        0x2cc1_8cd5,
        0x4020_7d3d,
    ),
    (
        "[3ffe:501:8::260:97ff:fe40:efab]:14230",
        "[ff02::1]:4739",
        0x0f0c_461c,
        0xdde5_1bbf,
    ),
    (
        "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
        "[fe80::200:f8ff:fe21:67cf]:38024",
        0x4b61_e985,
        0x02d1_feef,
    ),
];

/// The hash as virtio 1.3 section 5.1.6.4.3 describes it, bit by bit.
fn bit_by_bit(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let mut hash = 0;
    for at in (0..input.len() * 8).filter(|at| bit(input, *at) != 0) {
        hash ^= (at..at + 32).fold(0, |word, at| word << 1 | u32::from(bit(key, at)));
    }
    hash
}

#[test]
fn the_published_verification_suite_holds() {
    let toeplitz = Toeplitz::new(DEFAULT_KEY);
    for (source, destination, addresses, ports) in SUITE {
        let source: SocketAddr = source.parse().unwrap();
        let destination: SocketAddr = destination.parse().unwrap();
        let flow = Flow::received_from_address(source.ip(), destination.ip()).unwrap();
        assert_eq!(flow.hash(&toeplitz), addresses, "{source} {destination}");
        for transport in [Transport::Udp, Transport::Tcp] {
            let flow = Flow::received_from(transport, source, destination).unwrap();
            assert_eq!(flow.hash(&toeplitz), ports, "{source} {destination}");
        }
    }
}

proptest! {
    #[test]
    fn the_tables_say_what_the_bits_say(
        key in any::<[[u8; 20]; 2]>(),
        input in any::<[[u8; 18]; 2]>(),
    ) {
        let key: [u8; KEY] = key.concat().try_into().unwrap();
        let input: [u8; INPUT] = input.concat().try_into().unwrap();
        let toeplitz = Toeplitz::new(key);
        prop_assert_eq!(toeplitz.hash(&input), bit_by_bit(&key, &input));
        let short: [u8; 12] = *input.first_chunk().unwrap();
        prop_assert_eq!(toeplitz.hash(&short), bit_by_bit(&key, &short));
    }

    /// With a drawn key, a client that only changes its port reaches every bucket evenly.
    #[test]
    fn a_drawn_key_spreads_ports_in_a_row(seed: u64, peer: [u8; 8], block in 0_u16..64) {
        let toeplitz = Toeplitz::from_seed(seed);
        prop_assert!(toeplitz.spreads_ports());
        for place in [8, 10] {
            let mut counts = [0; 128];
            for port in block << 10..=block << 10 | 0x3ff {
                let mut input = [0; 12];
                input[..8].copy_from_slice(&peer);
                input[place..place + 2].copy_from_slice(&port.to_be_bytes());
                counts[toeplitz.hash(&input) as usize & 127] += 1;
            }
            prop_assert_eq!(counts, [8; 128]);
        }
    }
}

#[test]
fn a_seed_always_draws_the_same_key_and_another_seed_another() {
    assert_eq!(Toeplitz::from_seed(7), Toeplitz::from_seed(7));
    assert_ne!(Toeplitz::from_seed(7).key(), Toeplitz::from_seed(8).key());
}

#[test]
fn a_key_that_ignores_ports_is_told_apart() {
    let mut key = DEFAULT_KEY;
    key[8..16].fill(0);
    assert!(!Toeplitz::new(key).spreads_ports());
}

#[test]
fn the_key_is_not_printed() {
    let text = format!("{:?}", Toeplitz::new(DEFAULT_KEY));
    assert_eq!(text, "Toeplitz { .. }");
}
