use proptest::prelude::*;

use super::*;

fn header(request: u32, flags: u32, size: u32) -> [u8; HEADER_LENGTH] {
    let mut bytes = Vec::new();
    put_u32s(&mut bytes, &[request, flags, size]);
    bytes.try_into().expect("three words")
}

#[test]
fn a_request_is_laid_out_as_the_specification_says() {
    let message = encode(Request::SetVringNum, true, &vring_state(3, 256));
    let expected: Vec<u8> = [8u32, 0b1001, 8, 3, 256]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    assert_eq!(message, expected);
}

#[test]
fn the_memory_table_has_one_region_at_our_own_address() {
    let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0];
    for value in [0x7000_0000u64, 0x20_0000, 0x7000_0000, 0] {
        expected.extend_from_slice(&value.to_ne_bytes());
    }
    assert_eq!(memory_table(0x7000_0000, 0x20_0000), expected);
}

#[test]
fn only_the_reply_that_was_asked_for_is_taken() {
    let check = |bytes| check_reply(&bytes, Request::GetFeatures, 8);
    assert_eq!(check(header(1, 5, 8)), Ok(()));
    assert_eq!(
        check(header(2, 5, 8)),
        Err(Malformed::Request {
            got: 2,
            expected: 1
        })
    );
    assert_eq!(
        check(header(1, 1, 8)),
        Err(Malformed::Flags(1)),
        "no reply bit"
    );
    assert_eq!(
        check(header(1, 6, 8)),
        Err(Malformed::Flags(6)),
        "version 2"
    );
    assert_eq!(
        check(header(1, 5, 12)),
        Err(Malformed::Size {
            got: 12,
            expected: 8
        })
    );
}

#[test]
fn the_configuration_space_is_little_endian() {
    let mut reply = [0; MAX_REPLY];
    reply[4..8].copy_from_slice(&12u32.to_ne_bytes());
    reply[12..].copy_from_slice(&[2, 0, 0, 0, 0, 9, 1, 0, 4, 0, 0xdc, 0x05]);
    let config = NetConfig::decode(&reply).expect("well-formed");
    let expected = NetConfig {
        mac: [2, 0, 0, 0, 0, 9],
        status: 1,
        max_queue_pairs: 4,
        mtu: 1500,
    };
    assert_eq!(config, expected);
}

proptest! {
    /// Whatever the backend sends is judged, and never a panic.
    #[test]
    fn arbitrary_replies_are_judged(
        bytes: [u8; HEADER_LENGTH],
        payload: [u8; 8],
        space: [u8; MAX_REPLY],
        expected in 0usize..64,
        ring: u16,
    ) {
        if check_reply(&bytes, Request::GetVringBase, expected).is_ok() {
            let [request, flags, size] = words(&bytes);
            prop_assert_eq!((request, flags & 7, size as usize), (11, 5, expected));
        }
        if decode_vring_state(payload, ring).is_ok() {
            prop_assert_eq!(&payload[..4], &u32::from(ring).to_ne_bytes());
        }
        let _ = NetConfig::decode(&space);
    }

    /// A reply differs from a well-formed one in one word, and is refused for it.
    #[test]
    fn one_wrong_word_is_found(word in 0usize..3, wrong: u32) {
        let mut words = [15, 5, 8];
        prop_assume!(words[word] != wrong && (word != 1 || wrong & 7 != 5));
        words[word] = wrong;
        let [request, flags, size] = words;
        let judged = check_reply(&header(request, flags, size), Request::GetProtocolFeatures, 8);
        prop_assert!(judged.is_err());
    }
}
