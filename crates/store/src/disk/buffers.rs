//! Buffers that pieces of large blobs are read into, used again and again: memory that was just used is still in the
//! processor's caches, and needs neither to be found nor to be cleared.

use super::pieces::PIECE;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// Buffers that are kept while nobody uses them; more are given back to the allocator.
const KEPT: usize = 32;

/// The buffers of a store. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

impl Buffers {
    /// The bytes that `read` writes into a buffer of this length, at most a piece; none if it says that it did not.
    pub fn fill(&self, length: usize, read: impl FnOnce(&mut [u8]) -> bool) -> Option<Bytes> {
        let kept = self.0.lock().pop();
        let buffer = kept.unwrap_or_else(|| vec![0; PIECE as usize].into());
        let mut lent = Lent { buffer, length, home: self.clone() };
        let filled = lent.buffer.get_mut(..length).is_some_and(read);
        filled.then(|| Bytes::from_owner(lent))
    }
}

/// A buffer that goes home when nobody reads it any more.
struct Lent {
    buffer: Box<[u8]>,
    length: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut kept = self.home.0.lock();
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_and_is_not_lent_twice() {
        let buffers = Buffers::default();
        let fill = |byte: u8| {
            buffers.fill(3, |buffer| {
                buffer.fill(byte);
                true
            })
        };
        let (one, two) = (fill(1).unwrap(), fill(2).unwrap());
        assert_eq!((&one[..], &two[..]), (&[1; 3][..], &[2; 3][..]));
        let part = one.slice(1..);
        drop(one);
        assert!(buffers.0.lock().is_empty());
        drop(part);
        assert_eq!(buffers.0.lock().len(), 1);
        assert_eq!((&fill(3).unwrap()[..], &two[..]), (&[3; 3][..], &[2; 3][..]));
    }

    #[test]
    fn what_cannot_be_read_is_nothing_and_gives_the_buffer_back() {
        let buffers = Buffers::default();
        assert!(buffers.fill(3, |_| false).is_none());
        assert!(buffers.fill(PIECE as usize + 1, |_| true).is_none());
        assert_eq!(buffers.0.lock().len(), 1);
    }
}
