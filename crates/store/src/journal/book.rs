//! The file of a journal, and where in it the entries are that are not done.

use super::{HEADER, Line, entry};
use crate::framed::{HEAD, frame};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::PathBuf,
};
use tokio::sync::oneshot;

/// A file smaller than this is not written anew, however little of it is of use.
const SMALL: u64 = 4 << 20;

pub(super) struct Book {
    path: PathBuf,
    file: File,
    length: u64,
    open: BTreeMap<u64, Place>,
    /// The bytes of the open ones.
    live: u64,
    /// A write failed: nobody knows what is in the file.
    torn: bool,
}

/// Of a frame.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    length: u64,
}

impl Book {
    /// A file that holds these and nothing else, in place of what there is.
    pub fn create(path: PathBuf, open: &BTreeMap<u64, Bytes>) -> io::Result<Self> {
        Self::of(path, open.iter().map(|(number, entry)| Ok((*number, entry.to_vec()))))
    }

    fn of(path: PathBuf, entries: impl Iterator<Item = io::Result<(u64, Vec<u8>)>>) -> io::Result<Self> {
        let fresh = path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(true).open(&fresh)?;
        file.write_all(HEADER)?;
        let length = HEADER.len() as u64;
        let mut book = Self { path, file, length, open: BTreeMap::new(), live: 0, torn: false };
        let mut bytes = Vec::new();
        for entry in entries {
            let (number, entry) = entry?;
            book.note(number, &entry, &mut bytes);
        }
        book.put(&bytes, true)?;
        fs::rename(&fresh, &book.path)?;
        if let Some(directory) = book.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(book)
    }

    /// Writes these lines; durable when it returns, if there is anything new. `told` gets those who wait for that. What
    /// could not be written is not in the journal; the next lines then go to a file that is written anew.
    pub fn append(
        &mut self,
        lines: Vec<Line>,
        told: &mut Vec<oneshot::Sender<io::Result<()>>>,
    ) -> io::Result<()> {
        let ready = if self.torn { self.write_anew() } else { Ok(()) };
        let (mut bytes, mut added) = (Vec::new(), Vec::new());
        for line in lines {
            match line {
                Line::Added { number, entry, durable } => {
                    self.note(number, &entry, &mut bytes);
                    added.push(number);
                    told.push(durable);
                }
                Line::Done(number) => {
                    if self.forget(number) {
                        frame(&entry::encode_done(number), &mut bytes);
                    }
                }
            }
        }
        let written = ready.and_then(|()| self.put(&bytes, !told.is_empty()));
        if written.is_err() {
            self.torn = true;
            added.into_iter().for_each(|number| {
                self.forget(number);
            });
            return written;
        }
        if let Err(error) = self.compact() {
            // Which file has the name is not known: another try comes before the next lines.
            self.torn = true;
            tracing::warn!(%error, "the journal cannot be written anew");
        }
        Ok(())
    }

    /// Whether there was such an entry.
    fn forget(&mut self, number: u64) -> bool {
        let place = self.open.remove(&number);
        self.live -= place.map_or(0, |place| place.length);
        place.is_some()
    }

    fn note(&mut self, number: u64, entry: &[u8], bytes: &mut Vec<u8>) {
        let offset = self.length + bytes.len() as u64;
        frame(entry, bytes);
        let length = self.length + bytes.len() as u64 - offset;
        self.live += length;
        self.open.insert(number, Place { offset, length });
    }

    fn put(&mut self, bytes: &[u8], sync: bool) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        if sync { self.file.sync_data() } else { Ok(()) }
    }

    /// Writes the file anew where most of it is of no use any more.
    fn compact(&mut self) -> io::Result<()> {
        if self.length < SMALL || self.length / 4 < self.live { Ok(()) } else { self.write_anew() }
    }

    fn write_anew(&mut self) -> io::Result<()> {
        let read = |(number, place): (&u64, &Place)| {
            let mut entry = vec![0; place.length as usize - HEAD];
            self.file.read_exact_at(&mut entry, place.offset + HEAD as u64)?;
            Ok((*number, entry))
        };
        *self = Self::of(self.path.clone(), self.open.iter().map(read))?;
        Ok(())
    }
}
