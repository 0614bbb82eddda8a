use std::collections::HashSet;

use super::*;
use crate::placement::{Binding, Buckets, Ties, Toeplitz};

fn placement(weights: &[u32]) -> Placement {
    let buckets = Buckets::new(weights).unwrap();
    let ties = Ties::new(1, buckets.cpus()).unwrap();
    Placement::new(Toeplitz::from_seed(3), buckets, ties).unwrap()
}

fn search(range: RangeInclusive<u16>, start: u16) -> SourcePortSearch {
    SourcePortSearch {
        transport: Transport::Udp,
        local: "10.0.0.1".parse().unwrap(),
        peer: "10.0.0.2:53".parse().unwrap(),
        range,
        start,
    }
}

#[test]
fn each_cpu_finds_every_port_that_is_its_own_and_then_none() {
    let placement = placement(&[1, 2, 3]);
    let mut in_use = HashSet::new();
    for cpu in 0..3 {
        let search = search(50_000..=50_999, 7777);
        loop {
            match placement.choose_source_port(cpu, &search, |port| in_use.contains(&port)) {
                Ok(port) => {
                    assert!(search.range.contains(&port));
                    assert!(in_use.insert(port));
                }
                Err(error) => {
                    let (first, last) = (50_000, 50_999);
                    assert_eq!(error, SourcePortError::NoPort { cpu, first, last });
                    break;
                }
            }
        }
    }
    assert_eq!(in_use.len(), 1000);
}

#[test]
fn no_port_is_looked_at_twice() {
    let placement = placement(&[1, 1]);
    for (range, looked_at) in [(0..=u16::MAX, 65_535), (9..=9, 1), (0..=0, 0)] {
        let mut seen = HashSet::new();
        let search = search(range, 40_000);
        let result = placement.choose_source_port(0, &search, |port| {
            assert!(seen.insert(port), "{port} again");
            true
        });
        assert!(matches!(result, Err(SourcePortError::NoPort { .. })));
        assert_eq!(seen.len(), looked_at);
    }
    #[expect(clippy::reversed_empty_ranges, reason = "a range that holds no port")]
    let search = search(9..=8, 0);
    let result = placement.choose_source_port(0, &search, |_| false);
    assert!(matches!(result, Err(SourcePortError::NoPort { .. })));
}

#[test]
fn the_search_starts_at_random_and_stays_short() {
    let placement = placement(&[1; 8]);
    let mut ports = HashSet::new();
    for start in 0..200_u16 {
        let search = search(49_152..=65_535, start.wrapping_mul(331));
        let mut looked_at = 0;
        let port = placement.choose_source_port(5, &search, |_| {
            looked_at += 1;
            false
        });
        ports.insert(port.unwrap());
        assert!(looked_at <= 1024, "{looked_at}");
    }
    assert!(ports.len() > 100, "{}", ports.len());
}

#[test]
fn a_cpu_without_flows_and_unlike_versions_are_refused() {
    let placement = placement(&[1, 0]);
    let mut search = search(1..=u16::MAX, 0);
    let refused = Err(SourcePortError::NoBucket(1));
    assert_eq!(placement.choose_source_port(1, &search, |_| false), refused);
    search.local = "fd00::1".parse().unwrap();
    let refused = Err(SourcePortError::VersionsDiffer);
    assert_eq!(placement.choose_source_port(0, &search, |_| false), refused);
}

#[test]
fn a_port_that_is_bound_elsewhere_is_passed_over() {
    let mut placement = placement(&[1, 1]);
    for port in 2000..2100 {
        let binding = Binding {
            transport: Transport::Udp,
            port,
            address: "0.0.0.0".parse().unwrap(),
        };
        placement.exceptions_mut().bind(binding, 1).unwrap();
    }
    let result = placement.choose_source_port(0, &search(2000..=2099, 0), |_| false);
    assert!(matches!(result, Err(SourcePortError::NoPort { .. })));
}
