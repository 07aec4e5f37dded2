//! Files of the index in memory: the one place of this crate that needs `unsafe`.

#![allow(unsafe_code)]

use super::super::medium::{Medium, Step};
use memmap2::MmapMut;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// A file that is read and written as memory. What is written is the file's at once, and durable after `flush`.
pub(super) struct Map {
    bytes: MmapMut,
    path: PathBuf,
}

impl Map {
    /// Maps a file of this length, whose blocks are all there. The store's lock keeps other processes of ours away.
    pub fn new(file: &File, path: &Path, length: usize) -> io::Result<Self> {
        if file.metadata()?.len() != length as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file has another length"));
        }
        // Sound as long as nobody changes the file's length or content while it is mapped. Only the owner of the
        // store's directory writes to it; whoever else tampers with it can make the process end, not misread memory
        // it does not own, and each slot that is read is checked.
        let bytes = unsafe { memmap2::MmapOptions::new().len(length).map_mut(file)? };
        Ok(Self { bytes, path: path.into() })
    }

    /// The file has this name now.
    pub fn is_at(&mut self, path: &Path) {
        self.path = path.into();
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub fn flush(&self, medium: &Medium) -> io::Result<()> {
        medium.pass(Step::Flush(&self.path, &self.bytes))?;
        self.bytes.flush()
    }
}
