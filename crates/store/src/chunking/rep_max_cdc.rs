//! RepMaxCDC: among all places of the horizon where a chunk may end, the one with the largest gear hash is an end;
//! if that leaves a chunk of twice the smallest size or more before it, the same again for what lies before it, until the
//! chunk is short enough. No chunk is shorter than the smallest size, none twice as long, the last one included
//! (unless the whole blob is shorter).
//!
//! Each chunk needs the maximum over its horizon, which is several chunks long. So that no byte is hashed for each of
//! them, the largest hash of every block of places is kept; only at the rims of a search are bytes hashed again.

use super::{
    Cutter,
    gear::{GEAR, WINDOW},
};
use mortar_model::RepMaxCdc;
use std::{collections::VecDeque, ops::Range};

/// How many places of the blob have one maximum in common.
const BLOCK: usize = 2048;

/// Cuts as the parameters say.
pub(super) struct RepMax {
    minimum: usize,
    reach: usize,
    /// Where in the blob the window begins.
    start: usize,
    /// The maxima of consecutive blocks of the blob, as far as they were needed.
    blocks: VecDeque<Peak>,
    /// The number of the first one.
    first: usize,
}

/// The first place of a stretch where its largest hash is: how many bytes of the blob lie before it.
#[derive(Clone, Copy)]
struct Peak {
    place: usize,
    hash: u64,
}

impl RepMax {
    /// For a smallest chunk of at least 64 bytes.
    pub(super) fn new(RepMaxCdc { minimum, horizon }: RepMaxCdc) -> Self {
        let size = |bytes| usize::try_from(bytes).expect("the parameters were checked");
        let reach = 2 * size(minimum) + size(horizon);
        Self { minimum: size(minimum), reach, start: 0, blocks: VecDeque::new(), first: 0 }
    }

    /// The peak among these places of the blob, of which there is at least one.
    fn peak(&mut self, window: &[u8], places: Range<usize>) -> Peak {
        let inner = places.start.div_ceil(BLOCK)..places.end / BLOCK;
        if inner.is_empty() {
            return self.hash(window, places);
        }
        self.keep(window, &inner);
        let mut best = None;
        if places.start < inner.start * BLOCK {
            best = Some(self.hash(window, places.start..inner.start * BLOCK));
        }
        let kept = self.blocks.range(inner.start - self.first..inner.end - self.first);
        let mut best = kept.fold(best, |best, peak| Some(higher(best, *peak)));
        if inner.end * BLOCK < places.end {
            best = Some(higher(best, self.hash(window, inner.end * BLOCK..places.end)));
        }
        best.expect("there is at least one block")
    }

    /// Hashes the blocks of this range that are not known yet, and forgets those before it.
    fn keep(&mut self, window: &[u8], blocks: &Range<usize>) {
        // Blocks that this chunk's end is not looked for in any more will not be looked at by a later chunk either.
        let over = ((self.start + self.minimum) / BLOCK).saturating_sub(self.first).min(self.blocks.len());
        self.blocks.drain(..over);
        self.first += over;
        if self.blocks.is_empty() {
            self.first = blocks.start;
        }
        for block in self.first + self.blocks.len()..blocks.end {
            let peak = self.hash(window, block * BLOCK..(block + 1) * BLOCK);
            self.blocks.push_back(peak);
        }
    }

    /// The peak among these places, from their bytes.
    fn hash(&self, window: &[u8], places: Range<usize>) -> Peak {
        let first = places.start - self.start;
        let roll = |hash: u64, byte: &u8| (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
        let mut hash = window[first - WINDOW..first].iter().fold(0, roll);
        let mut peak = Peak { place: places.start, hash };
        for (index, byte) in window[first..places.end - 1 - self.start].iter().enumerate() {
            hash = roll(hash, byte);
            if hash > peak.hash {
                peak = Peak { place: places.start + index + 1, hash };
            }
        }
        peak
    }
}

/// The higher one; of equal ones the first.
fn higher(best: Option<Peak>, other: Peak) -> Peak {
    best.filter(|best| best.hash >= other.hash).unwrap_or(other)
}

impl Cutter for RepMax {
    fn reach(&self) -> usize {
        self.reach
    }

    fn cut(&mut self, window: &[u8]) -> usize {
        let window = &window[..window.len().min(self.reach)];
        let length = if window.len() < 2 * self.minimum {
            window.len()
        } else {
            let first = self.start + self.minimum;
            // What follows the chunk must not be too short either.
            let mut last = self.start + window.len() - self.minimum;
            loop {
                let place = self.peak(window, first..last + 1).place;
                if place < first + self.minimum {
                    break place - self.start;
                }
                last = place - self.minimum;
            }
        };
        self.start += length;
        length
    }
}
