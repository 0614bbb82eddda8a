use etherparse::{TcpHeaderSlice, TcpOptionElement};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

prop_compose! {
    fn options()(
        mss in option::of(any::<u16>()),
        scale in option::of(0_u8..15),
        sack_permitted in any::<bool>(),
        timestamps in option::of(any::<(u32, u32)>()),
        user_timeout in option::of(any::<u16>()),
        blocks in vec(any::<(u32, u32)>(), 0..4),
    ) -> HeaderOptions {
        let mut options = HeaderOptions {
            mss,
            window_scale: scale.map(WindowScale::new),
            sack_permitted,
            timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo }),
            sack: SackBlocks::default(),
            user_timeout,
        };
        let room = (40 - options.length()).saturating_sub(4) / 8;
        for (start, end) in blocks.into_iter().take(room) {
            options.sack.push(SackBlock { start: SeqNumber(start), end: SeqNumber(end) });
        }
        options
    }
}

prop_compose! {
    fn header()(
        ports in any::<(u16, u16)>(),
        numbers in any::<(u32, u32)>(),
        flags in any::<u8>(),
        window in any::<u16>(),
        urgent in any::<u16>(),
        options in options(),
    ) -> TcpHeader {
        TcpHeader {
            source_port: ports.0,
            destination_port: ports.1,
            sequence: SeqNumber(numbers.0),
            acknowledgment: SeqNumber(numbers.1),
            flags: TcpFlags(flags),
            window,
            urgent,
            options,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(header in header()) {
        let (bytes, length) = header.to_bytes();
        prop_assert_eq!(length % 4, 0);
        prop_assert_eq!(length, HEADER + header.options.length());
        prop_assert_eq!(TcpHeader::parse(&bytes[..length]), Ok((header, length)));
    }

    #[test]
    fn numbers_say_the_same_as_bytes(header in header(), stamps in any::<(u32, u32)>()) {
        let timestamps = Some(Timestamps { value: stamps.0, echo: stamps.1 });
        let options = HeaderOptions { timestamps, ..HeaderOptions::default() };
        let common = TcpHeader { options, ..header };
        prop_assert!(common.common_numbers().is_some());
        for header in [common, header] {
            if let Some(numbers) = header.common_numbers() {
                let (bytes, length) = header.to_bytes();
                prop_assert_eq!(&numbers.map(u64::to_be_bytes).concat()[..], &bytes[..length]);
            }
        }
    }

    #[test]
    fn etherparse_reads_the_same(bytes in vec(any::<u8>(), 0..64)) {
        let ours = TcpHeader::parse(&bytes);
        match TcpHeaderSlice::from_slice(&bytes) {
            Err(_) => prop_assert_eq!(ours, Err(DropReason::Malformed)),
            Ok(theirs) => {
                let (ours, length) = ours.expect("etherparse reads it");
                prop_assert_eq!(length, theirs.slice().len());
                prop_assert_eq!(ours.source_port, theirs.source_port());
                prop_assert_eq!(ours.destination_port, theirs.destination_port());
                prop_assert_eq!(ours.sequence.0, theirs.sequence_number());
                prop_assert_eq!(ours.acknowledgment.0, theirs.acknowledgment_number());
                prop_assert_eq!(ours.window, theirs.window_size());
                prop_assert_eq!(ours.urgent, theirs.urgent_pointer());
                prop_assert_eq!(ours.flags.contains(TcpFlags::SYN), theirs.syn());
                prop_assert_eq!(ours.flags.contains(TcpFlags::FIN), theirs.fin());
                prop_assert_eq!(ours.flags.contains(TcpFlags::RST), theirs.rst());
                prop_assert_eq!(ours.flags.contains(TcpFlags::ECE), theirs.ece());
                prop_assert_eq!(ours.flags.contains(TcpFlags::CWR), theirs.cwr());
            }
        }
    }

    #[test]
    fn etherparse_reads_the_options_that_we_write(header in header()) {
        let header = TcpHeader {
            options: HeaderOptions { user_timeout: None, ..header.options },
            ..header
        };
        let (bytes, length) = header.to_bytes();
        let slice = TcpHeaderSlice::from_slice(&bytes[..length]).expect("a header");
        let mut read = HeaderOptions::default();
        for element in slice.options_iterator() {
            match element.expect("every option is legal") {
                TcpOptionElement::MaximumSegmentSize(mss) => read.mss = Some(mss),
                TcpOptionElement::WindowScale(shift) => {
                    read.window_scale = Some(WindowScale::new(shift));
                }
                TcpOptionElement::SelectiveAcknowledgementPermitted => read.sack_permitted = true,
                TcpOptionElement::SelectiveAcknowledgement(first, others) => {
                    for (start, end) in std::iter::once(first).chain(others.into_iter().flatten()) {
                        read.sack.push(SackBlock { start: SeqNumber(start), end: SeqNumber(end) });
                    }
                }
                TcpOptionElement::Timestamp(value, echo) => {
                    read.timestamps = Some(Timestamps { value, echo });
                }
                TcpOptionElement::Noop => {}
            }
        }
        prop_assert_eq!(read, header.options);
    }
}

#[test]
fn options_of_every_malformed_kind_are_skipped() {
    let base = TcpHeader::default();
    let read = |list: &[u8]| {
        let (mut bytes, _) = base.to_bytes();
        bytes[12] = (15 << 4) as u8;
        bytes[HEADER..HEADER + list.len()].copy_from_slice(list);
        TcpHeader::parse(&bytes).expect("a header").0.options
    };
    let none = HeaderOptions::default();
    assert_eq!(read(&[2, 0, 5, 180]), none, "length 0");
    assert_eq!(read(&[2, 1, 5, 180]), none, "length 1");
    assert_eq!(read(&[2, 41]), none, "longer than the header");
    assert_eq!(read(&[1; 40]), none, "nothing but NOP");
    assert_eq!(read(&[0, 2, 4, 5, 180]), none, "behind the end");
    assert_eq!(read(&[5, 9, 1, 2, 3, 4, 5, 6, 7]), none, "SACK of 7 bytes");
    assert_eq!(read(&[3, 3, 200]).window_scale, Some(WindowScale::MAX));
    let after_wrong_length = read(&[2, 3, 5, 2, 4, 5, 180]);
    assert_eq!(
        after_wrong_length.mss,
        Some(1460),
        "an MSS of 1 byte, then a right one"
    );
    assert_eq!(
        read(&[254, 4, 0, 0, 4, 2]),
        HeaderOptions {
            sack_permitted: true,
            ..none
        }
    );
}

#[test]
fn a_header_that_ends_early_is_malformed() {
    let (bytes, _) = TcpHeader::default().to_bytes();
    for length in 0..HEADER {
        assert_eq!(
            TcpHeader::parse(&bytes[..length]),
            Err(DropReason::Malformed)
        );
    }
    let mut bytes = bytes;
    for offset in 0..16 {
        bytes[12] = offset << 4;
        assert_eq!(TcpHeader::parse(&bytes[..HEADER]).is_ok(), offset == 5);
    }
}
