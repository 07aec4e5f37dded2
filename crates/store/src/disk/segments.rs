//! The segments: files to which records are appended, one after the other, by `log`. Here they are listed, opened,
//! read and removed.
//!
//! ```text
//! segments/NNNNNNNN   16 bytes `mortar segment 2`, its number (u32), zeros up to 64; then records
//! ```

use super::{
    frame::{Flaw, HEADER, Header, Place},
    medium::{Disk, Medium},
    table::MAX_SEGMENT,
};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Where the first record begins.
pub(super) const FIRST: u64 = 64;
const MAGIC: &[u8; 16] = b"mortar segment 2";
/// How many segments are held open.
const MAX_OPEN: usize = 256;

pub(super) struct Segments {
    directory: PathBuf,
    medium: Medium,
    secret: u64,
    /// Every segment there is, and its length.
    lengths: RwLock<BTreeMap<u32, u64>>,
    /// Of all of them, on disk.
    footprint: AtomicU64,
    open: Mutex<HashMap<u32, Arc<Disk>>>,
}

/// Why a record could not be had.
#[derive(Debug)]
pub(super) enum Unread {
    /// There is no such segment (any more).
    Gone,
    /// It is not what was written.
    Damaged(Flaw),
    /// The disk refused.
    Failed(io::Error),
}

impl Segments {
    /// Lists the segments in a directory that exists.
    pub fn open(directory: &Path, secret: u64, medium: &Medium) -> io::Result<Self> {
        let mut lengths = BTreeMap::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| u32::from_str_radix(name, 16).ok());
            if let Some(number) = number {
                lengths.insert(number, entry.metadata()?.len());
            }
        }
        let footprint = lengths.values().copied().map(blocks).sum();
        Ok(Self {
            directory: directory.into(),
            medium: medium.clone(),
            secret,
            lengths: RwLock::new(lengths),
            footprint: AtomicU64::new(footprint),
            open: Mutex::default(),
        })
    }

    /// Makes a new segment after all others; its name is durable when this returns.
    pub fn create(&self) -> io::Result<(u32, Arc<Disk>)> {
        let number = self.last().map_or(1, |last| last + 1);
        if number > MAX_SEGMENT {
            return Err(io::Error::other("the store has used up its segment numbers"));
        }
        let path = self.path(number);
        let begin = || -> io::Result<_> {
            let disk = self.medium.create(path.clone(), 0o644)?;
            let mut header = [0; FIRST as usize];
            header[..16].copy_from_slice(MAGIC);
            header[16..20].copy_from_slice(&number.to_le_bytes());
            disk.write_at(&header, 0)?;
            self.medium.sync_directory(&self.directory)?;
            Ok(Arc::new(disk))
        };
        let disk = begin().inspect_err(|_| drop(fs::remove_file(&path)))?;
        self.lengths.write().insert(number, FIRST);
        self.footprint.fetch_add(blocks(FIRST), Relaxed);
        self.keep_open(number, disk.clone());
        Ok((number, disk))
    }

    pub fn last(&self) -> Option<u32> {
        self.lengths.read().last_key_value().map(|(number, _)| *number)
    }

    pub fn contains(&self, number: u32) -> bool {
        self.lengths.read().contains_key(&number)
    }

    /// All segments from `first` on, with their lengths.
    pub fn from(&self, first: u32) -> Vec<(u32, u64)> {
        self.lengths.read().range(first..).map(|(number, length)| (*number, *length)).collect()
    }

    pub fn set_length(&self, number: u32, length: u64) {
        if let Some(known) = self.lengths.write().get_mut(&number) {
            self.footprint.fetch_add(blocks(length) - blocks(*known), Relaxed);
            *known = length;
        }
    }

    /// Bytes on disk.
    pub fn footprint(&self) -> u64 {
        self.footprint.load(Relaxed)
    }

    /// The record at a place, checked, with its payload of `stored` bytes.
    pub fn read(&self, place: Place, stored: u32) -> Result<(Header, Bytes), Unread> {
        let disk = self.disk(place.segment)?;
        let bytes = disk.read_at(u64::from(place.offset), HEADER + stored as usize);
        self.checked(place, bytes.map_err(failed)?)
    }

    /// As `read`, if that needs no waiting for the disk.
    pub fn read_now(&self, place: Place, stored: u32) -> Option<Result<(Header, Bytes), Unread>> {
        let disk = self.open.lock().get(&place.segment).cloned()?;
        let bytes = disk.read_now(u64::from(place.offset), HEADER + stored as usize)?;
        Some(self.checked(place, bytes))
    }

    /// The record at a place whose length is not known, checked.
    pub fn read_any(&self, place: Place) -> Result<(Header, Bytes), Unread> {
        let disk = self.disk(place.segment)?;
        let header = disk.read_at(u64::from(place.offset), HEADER).map_err(failed)?;
        let header = Header::parse(&header).map_err(Unread::Damaged)?;
        self.read(place, header.stored)
    }

    fn checked(&self, place: Place, bytes: Vec<u8>) -> Result<(Header, Bytes), Unread> {
        let header = Header::check(self.secret, place, &bytes).map_err(Unread::Damaged)?;
        let bytes = Bytes::from(bytes);
        Ok((header, bytes.slice(HEADER..HEADER + header.stored as usize)))
    }

    /// An open segment.
    pub fn disk(&self, number: u32) -> Result<Arc<Disk>, Unread> {
        if let Some(disk) = self.open.lock().get(&number) {
            return Ok(disk.clone());
        }
        if !self.contains(number) {
            return Err(Unread::Gone);
        }
        let disk = Arc::new(self.medium.open_to_write(self.path(number)).map_err(failed)?);
        self.keep_open(number, disk.clone());
        Ok(disk)
    }

    /// Removes a segment whose records are of no more use. Who reads from it may end.
    pub fn remove(&self, number: u32) -> io::Result<()> {
        let length = self.lengths.write().remove(&number);
        self.open.lock().remove(&number);
        match self.medium.remove(&self.path(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // It is there, and takes what it takes.
                length.and_then(|length| self.lengths.write().insert(number, length));
                Err(error)
            }
            _ => {
                self.footprint.fetch_sub(length.map_or(0, blocks), Relaxed);
                Ok(())
            }
        }
    }

    fn keep_open(&self, number: u32, disk: Arc<Disk>) {
        let mut open = self.open.lock();
        if open.len() >= MAX_OPEN {
            // Any will do: opening one again is cheap.
            let victim = open.keys().next().copied();
            victim.and_then(|victim| open.remove(&victim));
        }
        open.insert(number, disk);
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:08x}"))
    }
}

/// What a file of this length takes on disk.
fn blocks(length: u64) -> u64 {
    length.next_multiple_of(super::BLOCK)
}

fn failed(error: io::Error) -> Unread {
    match error.kind() {
        io::ErrorKind::NotFound => Unread::Gone,
        io::ErrorKind::UnexpectedEof => Unread::Damaged(Flaw::Short),
        _ => Unread::Failed(error),
    }
}
