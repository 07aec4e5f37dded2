//! FastCDC as of 2020, at normalization level 2: a chunk ends where the gear hash of its bytes has zeros in certain
//! places, in more of them before the average size than after it, so that sizes gather round the average.

use super::{Cutter, gear::GEAR};
use mortar_model::FastCdc2020;

/// The bits of a hash that must be zero at the end of a chunk, from the authors' own code. The first is for chunks of
/// `2^SMALLEST` bytes on average, each further one for chunks twice as large.
const MASKS: [u64; 18] = [
    0x0000_0018_0003_5300,
    0x0000_0190_0035_3000,
    0x0000_5900_0353_0000,
    0x0000_d900_0353_0000,
    0x0000_d901_0353_0000,
    0x0000_d903_0353_0000,
    0x0000_d903_1353_0000,
    0x0000_d90f_0353_0000,
    0x0000_d903_0353_7000,
    0x0000_d907_0353_7000,
    0x0000_d907_0753_7000,
    0x0000_d917_0753_7000,
    0x0000_d917_4753_7000,
    0x0000_d917_6753_7000,
    0x0000_d937_6753_7000,
    0x0000_d937_7753_7000,
    0x0000_d937_7757_7000,
    0x0000_db37_7757_7000,
];
const SMALLEST: usize = 8;
/// How many steps the masks are away from that of the average size.
const NORMALIZATION: usize = 2;

/// Cuts as the parameters say.
pub(super) struct FastCdc {
    minimum: usize,
    average: usize,
    maximum: usize,
    /// The gear table with the seed in it.
    gear: Box<[u64; 256]>,
    /// Before the average size.
    strict: u64,
    /// From the average size on.
    lenient: u64,
}

impl FastCdc {
    /// For an average size that is a power of two from 1 KiB to 8 MiB.
    pub(super) fn new(FastCdc2020 { average, seed }: FastCdc2020) -> Self {
        let average = usize::try_from(average).expect("the average size was checked");
        let bits = average.ilog2() as usize - SMALLEST;
        Self {
            minimum: average / 4,
            average,
            maximum: average * 4,
            gear: Box::new(GEAR.map(|number| number ^ u64::from(seed))),
            strict: MASKS[bits + NORMALIZATION],
            lenient: MASKS[bits - NORMALIZATION],
        }
    }

    /// Where, from `start` on, a hash has the zeros. The chunk ends *before* the byte that brings them.
    fn find(&self, bytes: &[u8], start: usize, hash: &mut u64, mask: u64) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            *hash = (*hash << 1).wrapping_add(self.gear[usize::from(*byte)]);
            if *hash & mask == 0 {
                return Some(start + index);
            }
        }
        None
    }
}

impl Cutter for FastCdc {
    fn reach(&self) -> usize {
        self.maximum
    }

    fn cut(&mut self, window: &[u8]) -> usize {
        let end = window.len().min(self.maximum);
        if end <= self.minimum {
            return end;
        }
        // The algorithm goes by pairs of bytes: the odd one at the end of a blob is never looked at.
        let looked_at = end & !1;
        let centre = self.average.min(looked_at);
        let mut hash = 0;
        self.find(&window[self.minimum..centre], self.minimum, &mut hash, self.strict)
            .or_else(|| self.find(&window[centre..looked_at], centre, &mut hash, self.lenient))
            .unwrap_or(end)
    }
}
