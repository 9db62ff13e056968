//! Writes operations and works out their jumps.

use std::net::Ipv6Addr;

/// `INET_DIAG_BC_JMP`: never holds.
const JUMP: u8 = 1;

/// `AF_UNSPEC`, `AF_INET`, `AF_INET6`.
const FAMILY_ANY: u8 = 0;
const FAMILY_INET: u8 = 2;
const FAMILY_INET6: u8 = 10;

/// The bits before the IPv4 address in an IPv4-mapped one.
const MAPPED_BITS: u32 = 96;

/// Which end of a socket an operation looks at, as the codes of the operations that do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    at_least: u8,
    at_most: u8,
    condition: u8,
}

impl End {
    /// `INET_DIAG_BC_S_GE`, `INET_DIAG_BC_S_LE`, `INET_DIAG_BC_S_COND`.
    pub(super) const LOCAL: Self = Self { at_least: 2, at_most: 3, condition: 7 };
    /// `INET_DIAG_BC_D_GE`, `INET_DIAG_BC_D_LE`, `INET_DIAG_BC_D_COND`.
    pub(super) const REMOTE: Self = Self { at_least: 4, at_most: 5, condition: 8 };
}

/// Where a jump leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The end of the program: the socket is accepted.
    Accept,
    /// Beyond the end of the program: the socket is turned down.
    Reject,
    /// Wherever the label is placed, which has to be after the jump.
    Label(Label),
}

/// A place in the program, perhaps not reached yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// All addresses that begin with the same bits. IPv4 addresses count as IPv4-mapped ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    /// An address that begins so.
    pub(super) address: u128,
    /// How many of its bits count, 128 at most.
    pub(super) bits: u32,
}

impl Prefix {
    /// The one address alone.
    pub(super) fn whole(address: u128) -> Self {
        Self { address, bits: u128::BITS }
    }
}

/// A program that is ready, and what its audit costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assembled {
    /// The operations.
    pub(super) bytes: Vec<u8>,
    /// How many operations the audit steps over, looking for where jumps lead to.
    pub(super) audit_steps: u64,
}

/// The most bytes that an attribute holds: its u16 length counts its header too, and programs consist of 4-byte words.
const ATTRIBUTE_BYTES: usize = 65_528;

/// A place in the program: how many bytes are before it, and how many operations.
#[derive(Debug, Clone, Copy)]
struct Place {
    bytes: usize,
    operations: usize,
}

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    bytes: Vec<u8>,
    /// The operations written so far, by their place, and where each goes when it does not hold.
    jumps: Vec<(usize, Target)>,
    /// Where each label was placed.
    labels: Vec<Option<Place>>,
}

impl Assembler {
    /// A label to jump to and to place later.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places the label before the next operation.
    pub(super) fn place(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(Place { bytes: self.bytes.len(), operations: self.jumps.len() });
        }
    }

    /// Goes to the target.
    pub(super) fn jump(&mut self, target: Target) {
        self.operation(JUMP, 4, target);
    }

    /// Goes on if the port is that one or higher.
    pub(super) fn port_at_least(&mut self, end: End, port: u16, otherwise: Target) {
        self.compare(end.at_least, port, otherwise);
    }

    /// Goes on if the port is that one or lower.
    pub(super) fn port_at_most(&mut self, end: End, port: u16, otherwise: Target) {
        self.compare(end.at_most, port, otherwise);
    }

    /// Goes on if the port is that one.
    pub(super) fn port_is(&mut self, end: End, port: u16, otherwise: Target) {
        self.host_condition(end, Some(port), FAMILY_ANY, 0, &[], otherwise);
    }

    /// Goes on if the address begins so and the port, where given, is that one.
    pub(super) fn address_in(&mut self, end: End, port: Option<u16>, prefix: Prefix, otherwise: Target) {
        let address = Ipv6Addr::from_bits(prefix.address);
        match (address.to_ipv4_mapped(), prefix.bits.checked_sub(MAPPED_BITS)) {
            // On an AF_INET6 socket, the kernel looks for this behind ::ffff:.
            (Some(ipv4), Some(bits)) => {
                self.host_condition(end, port, FAMILY_INET, bits, &ipv4.octets(), otherwise);
            }
            _ => self.host_condition(end, port, FAMILY_INET6, prefix.bits, &address.octets(), otherwise),
        }
    }

    /// The program, or `None` when it is too long for an attribute, or a jump for its u16.
    pub(super) fn finish(mut self) -> Option<Assembled> {
        let end = self.bytes.len();
        if end > ATTRIBUTE_BYTES {
            return None;
        }
        let mut audit_steps = 0;
        for (place, target) in self.jumps {
            let destination = match target {
                Target::Accept => end,
                Target::Reject => end + 4,
                Target::Label(label) => {
                    let place = self.labels.get(label.0).copied().flatten()?;
                    // `valid_cc` begins at the first operation each time, and is spared jumps to the end and beyond.
                    if place.bytes < end {
                        audit_steps += u64::try_from(place.operations).ok()? + 1;
                    }
                    place.bytes
                }
            };
            let distance = u16::try_from(destination.checked_sub(place)?).ok()?;
            self.bytes.get_mut(place + 2..place + 4)?.copy_from_slice(&distance.to_ne_bytes());
        }
        Some(Assembled { bytes: self.bytes, audit_steps })
    }

    /// The port stands in the `no` of a second `struct inet_diag_bc_op`, in the host's byte order.
    fn compare(&mut self, code: u8, port: u16, otherwise: Target) {
        self.operation(code, 8, otherwise);
        self.bytes.extend([0, 0]);
        self.bytes.extend(port.to_ne_bytes());
    }

    /// `struct inet_diag_hostcond`: an int holds the port, in the host's byte order, or -1 for any.
    fn host_condition(
        &mut self,
        end: End,
        port: Option<u16>,
        family: u8,
        prefix_bits: u32,
        address: &[u8],
        otherwise: Target,
    ) {
        let length = if family == FAMILY_INET6 {
            28
        } else if family == FAMILY_INET {
            16
        } else {
            12
        };
        self.operation(end.condition, length, otherwise);
        self.bytes.extend([family, u8::try_from(prefix_bits).unwrap_or(128), 0, 0]);
        self.bytes.extend(port.map_or(-1, i32::from).to_ne_bytes());
        self.bytes.extend(address);
    }

    /// `struct inet_diag_bc_op`; the jump is filled in when the program is finished.
    fn operation(&mut self, code: u8, length: u8, otherwise: Target) {
        self.jumps.push((self.bytes.len(), otherwise));
        self.bytes.extend([code, length, 0, 0]);
    }
}
