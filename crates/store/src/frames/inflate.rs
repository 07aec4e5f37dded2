//! Decompresses a stream of zstd frames as it comes, without trusting it.

use super::Flaw;
use bytes::Bytes;
use std::fmt;
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

/// The largest piece of content that is given out, in bytes.
const PIECE: u64 = 128 * 1024;
/// The largest window that a frame may ask for, as a power of two: 128 MiB, as much as any level of the zstd tool
/// takes. Memory is used only as far as there is content.
const MAX_WINDOW_LOG: u32 = 27;
/// How much longer than their content frames may be: whoever sends each piece in a frame of its own still fits, an
/// endless stream of empty frames does not.
const MAX_BLOAT: u64 = 4;
/// On top of that, for small contents.
const BLOAT_ALLOWANCE: u64 = 1024 * 1024;

/// A decoder of one or more frames, also skippable ones, that together hold content of known length.
///
/// Its owner checks the content's hash; this bounds what is produced: never more than one byte beyond the length.
pub struct Inflate {
    context: DCtx<'static>,
    expected: u64,
    produced: u64,
    consumed: u64,
    at_boundary: bool,
    /// The last piece was full, so that the decoder may hold back content whose input it has taken.
    may_hold_more: bool,
}

impl Inflate {
    /// For frames that hold `expected` bytes of content.
    pub fn new(expected: u64) -> Self {
        let mut context = DCtx::create();
        context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).expect("zstd knows this parameter");
        Self { context, expected, produced: 0, consumed: 0, at_boundary: true, may_hold_more: false }
    }

    /// The next piece of content in `input`, which is moved past what was taken of it; none once more input is
    /// needed. After an error it is of no further use.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, Flaw> {
        if input.is_empty() && !self.may_hold_more {
            return Ok(None);
        }
        // One byte more than there may be, to see whether there is one.
        let room = (self.expected - self.produced).saturating_add(1).min(PIECE);
        let mut piece = Vec::with_capacity(room as usize);
        while piece.len() < room as usize && (!input.is_empty() || self.may_hold_more) {
            let (mut from, length) = (InBuffer::around(input), piece.len());
            let mut to = OutBuffer::around_pos(&mut piece, length);
            let left_in_frame = self.context.decompress_stream(&mut to, &mut from);
            let taken = from.pos();
            self.at_boundary = left_in_frame.map_err(|code| Flaw::Garbage(get_error_name(code)))? == 0;
            *input = &input[taken..];
            self.consumed += taken as u64;
            self.may_hold_more = piece.len() == room as usize && !self.at_boundary;
        }
        self.produced += piece.len() as u64;
        self.check_bounds()?;
        Ok((!piece.is_empty()).then(|| piece.into()))
    }

    fn check_bounds(&self) -> Result<(), Flaw> {
        let expected = self.expected;
        if self.produced > expected {
            return Err(Flaw::TooLong { expected });
        }
        if self.consumed > expected.saturating_mul(MAX_BLOAT).saturating_add(BLOAT_ALLOWANCE) {
            return Err(Flaw::Bloated { expected, length: self.consumed });
        }
        Ok(())
    }

    /// How much content was given out.
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// Whether the input may end here: between frames, or before the first.
    pub fn at_boundary(&self) -> bool {
        self.at_boundary
    }

    /// That the input may end here, and all content has come.
    pub fn finish(self) -> Result<(), Flaw> {
        let (expected, actual) = (self.expected, self.produced);
        match (self.at_boundary, actual == expected) {
            (true, true) => Ok(()),
            (true, false) => Err(Flaw::TooShort { expected, actual }),
            (false, _) => Err(Flaw::CutOff { content: actual }),
        }
    }
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inflate({} of {} bytes)", self.produced, self.expected)
    }
}
