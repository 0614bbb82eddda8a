//! The header in front of every packet (virtio 1.3, section 5.1.6).

/// `struct virtio_net_hdr` as VERSION_1 devices use it: twelve bytes, little-endian. In the order of
/// its fields, so that it moves as whole words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NetHeader {
    /// `VIRTIO_NET_HDR_F_*`: bit 0 says that a checksum is to be completed.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`: 0 for an ordinary packet.
    pub gso_type: u8,
    /// Length of the headers of a packet to be segmented.
    pub hdr_len: u16,
    /// Payload of each segment.
    pub gso_size: u16,
    /// Where the checksum begins.
    pub csum_start: u16,
    /// Where the checksum is stored, from `csum_start`.
    pub csum_offset: u16,
    /// Number of buffers that a received packet fills; zero on transmit.
    pub num_buffers: u16,
}

impl NetHeader {
    /// Length in bytes.
    pub const LENGTH: usize = 12;

    /// The header from its bytes.
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let mut all = [0; 16];
        all[..Self::LENGTH].copy_from_slice(&bytes);
        let value = u128::from_le_bytes(all);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "each field is cut out of the number on purpose"
        )]
        NetHeader {
            flags: value as u8,
            gso_type: (value >> 8) as u8,
            hdr_len: (value >> 16) as u16,
            gso_size: (value >> 32) as u16,
            csum_start: (value >> 48) as u16,
            csum_offset: (value >> 64) as u16,
            num_buffers: (value >> 80) as u16,
        }
    }

    /// The bytes of the header.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let value = u128::from(self.flags)
            | u128::from(self.gso_type) << 8
            | u128::from(self.hdr_len) << 16
            | u128::from(self.gso_size) << 32
            | u128::from(self.csum_start) << 48
            | u128::from(self.csum_offset) << 64
            | u128::from(self.num_buffers) << 80;
        let [bytes @ .., _, _, _, _] = value.to_le_bytes();
        bytes
    }

    /// Whether a driver that accepted no offload may send a packet under this header (section
    /// 5.1.6.2): no flags, no segmentation, and `num_buffers` zero.
    pub fn is_plain_transmit(&self) -> bool {
        self.flags == 0 && self.gso_type == 0 && self.num_buffers == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_field_is_where_the_standard_has_it(bytes: [u8; NetHeader::LENGTH]) {
            let at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let header = NetHeader {
                flags: bytes[0],
                gso_type: bytes[1],
                hdr_len: at(2),
                gso_size: at(4),
                csum_start: at(6),
                csum_offset: at(8),
                num_buffers: at(10),
            };
            prop_assert_eq!(NetHeader::from_bytes(bytes), header);
            prop_assert_eq!(header.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_header_that_asks_for_nothing_is_plain() {
        assert!(NetHeader::default().is_plain_transmit());
        for byte in [0, 1, 10] {
            let mut bytes = [0; NetHeader::LENGTH];
            bytes[byte] = 1;
            assert!(!NetHeader::from_bytes(bytes).is_plain_transmit());
        }
    }
}
