//! Content-defined chunking: blobs are cut where their content says so, so that a change in one place changes the
//! chunks about that place and no others. Pure: bytes in, chunks out; what becomes of them is the caller's business
//! (`chunked`). Clients cut by the same functions, so every cut is as the protocol says, to the byte.

mod fast_cdc;
mod gear;
mod rep_max_cdc;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use fast_cdc::FastCdc;
use mortar_model::{ChunkingFunction, ChunkingParameters, Error, FastCdc2020, RepMaxCdc, Result};
use rep_max_cdc::RepMax;

/// Refuses parameters outside the ranges that the protocol allows; clients would ignore them.
pub fn check(parameters: &ChunkingParameters) -> Result<()> {
    let FastCdc2020 { average, .. } = parameters.fast_cdc_2020;
    if !average.is_power_of_two() || !(1 << 10..=8 << 20).contains(&average) {
        let message = format!("{average} bytes; expected a power of two from 1 KiB to 8 MiB");
        return Err(Error::invalid("fast_cdc_2020.average", message));
    }
    let RepMaxCdc { minimum, horizon } = parameters.rep_max_cdc;
    if !(gear::WINDOW as u64..=8 << 20).contains(&minimum) {
        let message = format!("{minimum} bytes; expected {} bytes to 8 MiB", gear::WINDOW);
        return Err(Error::invalid("rep_max_cdc.minimum", message));
    }
    if horizon > 64 << 20 {
        return Err(Error::invalid(
            "rep_max_cdc.horizon",
            format!("{horizon} bytes; expected at most 64 MiB"),
        ));
    }
    Ok(())
}

/// From which size on a blob is worth cutting: smaller ones are one chunk, themselves.
pub fn threshold(parameters: &ChunkingParameters, function: ChunkingFunction) -> u64 {
    match function {
        ChunkingFunction::FastCdc2020 => parameters.fast_cdc_2020.average * 4,
        ChunkingFunction::RepMaxCdc => parameters.rep_max_cdc.minimum * 2,
    }
}

/// Finds the ends of chunks, one after the other.
trait Cutter: Send {
    /// How many bytes from the start of a chunk are enough to find its end.
    fn reach(&self) -> usize;

    /// The length of the chunk at the start of `window`, at least 1. The window is not empty, and shorter than the
    /// reach only at the end of the blob. Each call's window begins where the chunk before it ended.
    fn cut(&mut self, window: &[u8]) -> usize;
}

/// Cuts one blob that comes in pieces. Holds no more than the reach of its function and the piece that was pushed last:
/// about 2 MiB for the functions as they are recommended.
pub struct Chunker {
    cutter: Box<dyn Cutter>,
    window: BytesMut,
}

impl Chunker {
    /// Cuts by `function` with the parameters that clients were told, which were checked.
    pub fn new(parameters: &ChunkingParameters, function: ChunkingFunction) -> Self {
        let cutter: Box<dyn Cutter> = match function {
            ChunkingFunction::FastCdc2020 => Box::new(FastCdc::new(parameters.fast_cdc_2020)),
            ChunkingFunction::RepMaxCdc => Box::new(RepMax::new(parameters.rep_max_cdc)),
        };
        Self { cutter, window: BytesMut::new() }
    }

    /// Takes the next bytes and gives the chunks whose ends are known by now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        let reach = self.cutter.reach();
        if self.window.capacity() - self.window.len() < bytes.len() {
            // Room for a few pieces at once: chunks that are given away keep their memory, so growing is copying.
            self.window.reserve(bytes.len().max(reach));
        }
        self.window.extend_from_slice(bytes);
        let mut chunks = Vec::new();
        while self.window.len() >= reach {
            chunks.push(self.next());
        }
        chunks
    }

    /// The chunks that are left at the end of the blob.
    pub fn finish(mut self) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        while !self.window.is_empty() {
            chunks.push(self.next());
        }
        chunks
    }

    fn next(&mut self) -> Bytes {
        let length = self.cutter.cut(&self.window);
        self.window.split_to(length).freeze()
    }
}
