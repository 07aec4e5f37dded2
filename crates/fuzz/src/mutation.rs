//! Changes inputs the way damage, mistakes and malice do.

use mortar_testkit::conformance::Random;

/// The longest input that is made, in bytes.
const LONGEST: usize = 64 * 1024;
/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    7,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// Makes new inputs of known ones; the same ones for the same seed.
pub struct Mutator {
    random: Random,
}

impl Mutator {
    /// With this seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::seeded(seed) }
    }

    /// One of the known inputs, changed in one to eight places.
    pub fn input(&mut self, known: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(known).cloned().unwrap_or_default();
        for _ in 0..=self.below(8) {
            self.change(&mut input, known);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, known: &[Vec<u8>]) {
        let (start, end) = self.span(input.len());
        match self.below(9) {
            0 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] ^= 1 << self.below(8);
            }
            1 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] = self.random.number() as u8;
            }
            2 => input.truncate(start),
            3 => drop(input.drain(start..end)),
            4 => {
                let copy = input[start..end].to_vec();
                input.splice(start..start, copy);
            }
            5 => {
                let length = self.below(16);
                let noise = self.random.bytes(length);
                input.splice(start..start, noise);
            }
            6 => self.put_edge(input),
            7 => self.step_number(input),
            _ => {
                let other = self.pick(known).cloned().unwrap_or_default();
                let (from, to) = self.span(other.len());
                input.splice(start..end, other[from..to].iter().copied());
            }
        }
    }

    /// Writes a number at an edge over what is there, in either order of bytes.
    fn put_edge(&mut self, input: &mut [u8]) {
        let (edge, width) = (EDGES[self.below(EDGES.len())], 1 << self.below(4));
        let Some(last) = input.len().checked_sub(width) else { return };
        let at = self.below(last + 1);
        let mut bytes = edge.to_le_bytes()[..width].to_vec();
        if self.below(2) == 0 {
            bytes.reverse();
        }
        input[at..at + width].copy_from_slice(&bytes);
    }

    /// Makes a byte a little larger or smaller.
    fn step_number(&mut self, input: &mut [u8]) {
        if !input.is_empty() {
            let (at, step) = (self.below(input.len()), self.below(33) as u8);
            input[at] = input[at].wrapping_add(step).wrapping_sub(16);
        }
    }

    /// A part of something of this length; short ones are as likely as long ones.
    fn span(&mut self, length: usize) -> (usize, usize) {
        let start = self.below(length + 1);
        let most = (length - start).min(1 << self.below(17));
        (start, start + self.below(most + 1))
    }

    fn pick<'a>(&mut self, known: &'a [Vec<u8>]) -> Option<&'a Vec<u8>> {
        known.get(self.below(known.len().max(1)))
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.random.number() % limit as u64) as usize
    }
}
