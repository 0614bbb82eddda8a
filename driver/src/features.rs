//! Feature bits (virtio 1.3, sections 5.1.3 and 6).

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub};

/// A set of virtio feature bits, as offered by a device or accepted by a driver.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FeatureBits(pub u64);

macro_rules! feature_bits {
    ($($(#[$doc:meta])* $name:ident = $bit:literal,)*) => {
        impl FeatureBits {
            $($(#[$doc])* pub const $name: FeatureBits = FeatureBits(1 << $bit);)*
        }

        const NAMES: &[(FeatureBits, &str)] = &[$((FeatureBits::$name, stringify!($name)),)*];
    };
}

feature_bits! {
    /// The device handles packets with a partial checksum.
    CSUM = 0,
    /// The driver handles packets with a partial checksum.
    GUEST_CSUM = 1,
    /// The device reports its MTU.
    MTU = 3,
    /// The device reports its Ethernet address.
    MAC = 5,
    /// The driver can receive TSOv4.
    GUEST_TSO4 = 7,
    /// The driver can receive TSOv6.
    GUEST_TSO6 = 8,
    /// The driver can receive TSO with ECN.
    GUEST_ECN = 9,
    /// The driver can receive UFO.
    GUEST_UFO = 10,
    /// The device can receive TSOv4.
    HOST_TSO4 = 11,
    /// The device can receive TSOv6.
    HOST_TSO6 = 12,
    /// The device can receive TSO with ECN.
    HOST_ECN = 13,
    /// The device can receive UFO.
    HOST_UFO = 14,
    /// The driver can merge receive buffers.
    MRG_RXBUF = 15,
    /// The device reports its link status.
    STATUS = 16,
    /// There is a control queue.
    CTRL_VQ = 17,
    /// The control queue sets receive modes.
    CTRL_RX = 18,
    /// The driver can announce itself when told.
    GUEST_ANNOUNCE = 21,
    /// Several queue pairs.
    MQ = 22,
    /// A descriptor layout without framing assumptions (legacy devices).
    ANY_LAYOUT = 27,
    /// Indirect descriptors (section 2.7.5.3).
    INDIRECT_DESC = 28,
    /// Notification suppression by index (section 2.7.7).
    EVENT_IDX = 29,
    /// vhost-user protocol features; a bit of the vhost-user protocol, not of virtio.
    VHOST_USER_PROTOCOL_FEATURES = 30,
    /// The modern interface of virtio 1.x.
    VERSION_1 = 32,
    /// The device's memory accesses are translated and limited by the platform.
    ACCESS_PLATFORM = 33,
    /// The packed ring layout (section 2.8).
    RING_PACKED = 34,
    /// Buffers are used in the order in which they were made available.
    IN_ORDER = 35,
    /// Memory accesses need the barriers of the platform.
    ORDER_PLATFORM = 36,
    /// The driver can receive USO over IPv4.
    GUEST_USO4 = 54,
    /// The driver can receive USO over IPv6.
    GUEST_USO6 = 55,
    /// The device takes UDP segmentation.
    HOST_USO = 56,
    /// The device reports the hash of each packet.
    HASH_REPORT = 57,
    /// The device steers by receive-side scaling.
    RSS = 60,
}

impl FeatureBits {
    /// No feature.
    pub const NONE: FeatureBits = FeatureBits(0);

    /// Whether every bit of `other` is in this set.
    pub const fn contains(self, other: FeatureBits) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is no bit.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for FeatureBits {
    type Output = FeatureBits;
    fn bitor(self, other: FeatureBits) -> FeatureBits {
        FeatureBits(self.0 | other.0)
    }
}

impl BitOrAssign for FeatureBits {
    fn bitor_assign(&mut self, other: FeatureBits) {
        self.0 |= other.0;
    }
}

impl BitAnd for FeatureBits {
    type Output = FeatureBits;
    fn bitand(self, other: FeatureBits) -> FeatureBits {
        FeatureBits(self.0 & other.0)
    }
}

impl Sub for FeatureBits {
    type Output = FeatureBits;
    fn sub(self, other: FeatureBits) -> FeatureBits {
        FeatureBits(self.0 & !other.0)
    }
}

impl fmt::Display for FeatureBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let mut separator = "";
        for (bit, name) in NAMES {
            if rest.contains(*bit) {
                write!(f, "{separator}{name}")?;
                separator = " ";
                rest = rest - *bit;
            }
        }
        match (rest.is_empty(), separator.is_empty()) {
            (true, true) => write!(f, "none"),
            (true, false) => Ok(()),
            (false, _) => write!(f, "{separator}{:#x}", rest.0),
        }
    }
}

impl fmt::Debug for FeatureBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FeatureBits({self})")
    }
}
