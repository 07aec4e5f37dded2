//! What is known of a file that holds a blob: for each piece of content, how many bytes of the file it takes, and their
//! checksum. So a part of a large blob is checked without reading all of it, each time that it is read.
//!
//! The payload of a record of the role `File`: length of a piece's content (u32), number of pieces (u32), then for each
//! piece its length in the file (u32) and its checksum (u64, XXH3 with the store's secret).

use super::frame::number;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// Content of a piece, in bytes; the last one may have fewer.
pub(super) const PIECE: u64 = 256 * 1024;
const HEADER: usize = 8;
const EACH: usize = 12;

/// The pieces of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    each: Vec<Piece>,
    /// Where each piece begins in the file, and where the last one ends.
    starts: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// In the file.
    pub length: u32,
    pub sum: u64,
}

impl Pieces {
    pub fn new(each: Vec<Piece>) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for piece in &each {
            end += u64::from(piece.length);
            starts.push(end);
        }
        Self { each, starts }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.each.len() * EACH);
        bytes.extend_from_slice(&(PIECE as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.each.len() as u32).to_le_bytes());
        for piece in &self.each {
            bytes.extend_from_slice(&piece.length.to_le_bytes());
            bytes.extend_from_slice(&piece.sum.to_le_bytes());
        }
        bytes
    }

    /// The pieces of a blob of this size; none if the bytes tell of no such thing.
    pub fn decode(bytes: &[u8], size: u64) -> Option<Self> {
        let count = size.div_ceil(PIECE);
        let fits = bytes.len() >= HEADER
            && number(&bytes[..4]) == PIECE
            && number(&bytes[4..8]) == count
            && (bytes.len() - HEADER) as u64 == count * EACH as u64;
        let piece = |bytes: &[u8]| Piece { length: number(&bytes[..4]) as u32, sum: number(&bytes[4..]) };
        fits.then(|| Self::new(bytes[HEADER..].chunks_exact(EACH).map(piece).collect()))
    }

    /// How many bytes the file has.
    pub fn file_length(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Where a piece lies in the file, and its length there.
    pub fn place(&self, index: usize) -> (u64, usize) {
        (self.starts[index], self.each[index].length as usize)
    }

    pub fn matches(&self, index: usize, bytes: &[u8], secret: u64) -> bool {
        xxh3_64_with_seed(bytes, secret) == self.each[index].sum
    }
}

/// Makes the pieces of content that is written as it is.
pub(super) struct Cutter {
    secret: u64,
    each: Vec<Piece>,
    sum: Xxh3,
    length: u64,
}

impl Cutter {
    pub fn new(secret: u64) -> Self {
        Self { secret, each: Vec::new(), sum: Xxh3::with_seed(secret), length: 0 }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min((PIECE - self.length) as usize));
            self.sum.update(now);
            self.length += now.len() as u64;
            if self.length == PIECE {
                self.cut();
            }
            bytes = later;
        }
    }

    pub fn finish(mut self) -> Pieces {
        if self.length > 0 {
            self.cut();
        }
        Pieces::new(self.each)
    }

    fn cut(&mut self) {
        self.each.push(Piece { length: self.length as u32, sum: self.sum.digest() });
        self.sum = Xxh3::with_seed(self.secret);
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_same_however_content_comes_and_come_back() {
        let content: Vec<u8> = (0..PIECE * 2 + 5).map(|at| (at * 7 / 3) as u8).collect();
        let mut expected = None;
        for step in [content.len(), 1000, PIECE as usize, PIECE as usize + 1] {
            let mut cutter = Cutter::new(4);
            content.chunks(step).for_each(|chunk| cutter.update(chunk));
            let pieces = cutter.finish();
            assert_eq!(*expected.get_or_insert(pieces.clone()), pieces);
        }
        let pieces = expected.unwrap();
        assert_eq!((pieces.len(), pieces.file_length()), (3, content.len() as u64));
        let (start, length) = pieces.place(2);
        assert!(pieces.matches(2, &content[start as usize..start as usize + length], 4));
        assert!(!pieces.matches(1, &content[start as usize..start as usize + length], 4));
        let bytes = pieces.encode();
        assert_eq!(Pieces::decode(&bytes, content.len() as u64), Some(pieces));
        assert_eq!(Pieces::decode(&bytes, PIECE), None);
        assert_eq!(Pieces::decode(&bytes[1..], content.len() as u64), None);
    }
}
