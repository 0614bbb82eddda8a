//! Text of Ethernet addresses: what is accepted prints and parses back to the same address.

#![no_main]

use libfuzzer_sys::fuzz_target;
use virtroupe_wire::MacAddr;

fuzz_target!(|text: &str| {
    if let Ok(address) = text.parse::<MacAddr>() {
        let printed = address.to_string();
        assert_eq!(printed.parse(), Ok(address), "{text:?}");
        assert!(printed.eq_ignore_ascii_case(text) || text.len() < printed.len());
    }
});
