//! The header in front of every packet (virtio 1.3, section 5.1.6).

/// `struct virtio_net_hdr` as VERSION_1 devices use it: twelve bytes, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1] = bytes;
        NetHeader {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
            num_buffers: u16::from_le_bytes([n0, n1]),
        }
    }

    /// The bytes of the header.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = self.num_buffers.to_le_bytes();
        [
            self.flags,
            self.gso_type,
            h0,
            h1,
            g0,
            g1,
            s0,
            s1,
            o0,
            o1,
            n0,
            n1,
        ]
    }

    /// Whether a driver that accepted no offload may send a packet under this header (section
    /// 5.1.6.2): no flags, no segmentation, and `num_buffers` zero.
    pub fn is_plain_transmit(&self) -> bool {
        self.flags == 0 && self.gso_type == 0 && self.num_buffers == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_round_trips_in_the_order_of_the_standard() {
        let bytes = [1, 2, 3, 0, 4, 0, 5, 0, 6, 0, 7, 1];
        let header = NetHeader::from_bytes(bytes);
        assert_eq!(header.gso_size, 4);
        assert_eq!(header.num_buffers, 0x107);
        assert_eq!(header.to_bytes(), bytes);
        assert!(!header.is_plain_transmit());
        assert!(NetHeader::default().is_plain_transmit());
    }
}
