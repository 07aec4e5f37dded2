//! Protobuf's numbers and the types of its fields, a byte at a time.

use super::message::malformed;
use mortar_model::Result;

/// A number of which the first bytes have come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Varint {
    value: u64,
    bits: u32,
}

impl Varint {
    pub(super) const START: Self = Self { value: 0, bits: 0 };

    pub(super) fn is_start(self) -> bool {
        self.bits == 0
    }

    /// Takes one byte. The number, if that was its last.
    pub(super) fn push(&mut self, byte: u8) -> Result<Option<u64>> {
        // The tenth byte has room for a single bit.
        if self.bits == 63 && byte > 1 {
            return Err(malformed("a number has more than 64 bits"));
        }
        self.value |= u64::from(byte & 0x7f) << self.bits;
        self.bits += 7;
        Ok((byte < 0x80).then_some(self.value))
    }
}

/// How the value of a field is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Fixed64,
    Length,
    GroupStart,
    GroupEnd,
    Fixed32,
}

impl WireType {
    /// The type in a field's key.
    pub(super) fn of(key: u32) -> Result<Self> {
        match key & 7 {
            0 => Ok(Self::Varint),
            1 => Ok(Self::Fixed64),
            2 => Ok(Self::Length),
            3 => Ok(Self::GroupStart),
            4 => Ok(Self::GroupEnd),
            5 => Ok(Self::Fixed32),
            unknown => Err(malformed(&format!("a field is of the unknown type {unknown}"))),
        }
    }
}
