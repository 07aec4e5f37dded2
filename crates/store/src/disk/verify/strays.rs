//! The second pass: what lies on disk without being in the index. Blobs in segments are appended anew, files are told of,
//! once their content has been hashed; what is no blob, or was removed on purpose, is removed.

use super::{
    Pass, STEP, Verdict, named,
    records::{Records, Unknown},
};
use crate::{
    disk::{
        BLOCK, Shared,
        frame::{Place, Role},
        key::{Key, Space},
        log::{Append, answered_blocking},
        medium::Disk,
        pieces::{PIECE, Piece, Pieces},
        room::Reservation,
        squeeze::may_get_smaller,
        table::Form,
    },
    frames::{self, SeekTable},
};
use mortar_model::{Digest, Encoding, Hasher, Result};
use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The pass, as far as it has come.
pub(super) struct Strays {
    unknown: Unknown,
    directories: Vec<(Space, PathBuf)>,
    files: Vec<(Space, PathBuf)>,
    file: Option<FoundFile>,
}

/// A file of which nobody told, as far as it was read.
struct FoundFile {
    key: Key,
    encoding: Encoding,
    path: PathBuf,
    disk: Disk,
    /// As it was when it was opened.
    seen: Seen,
    /// Where each piece ends in the file, and how much content it has.
    plan: Vec<(u64, usize, usize)>,
    each: Vec<Piece>,
    hasher: Hasher,
}

/// Tells whether a name still means the same file.
type Seen = (u64, u64, i64, i64);

fn seen(metadata: &Metadata) -> Seen {
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

impl Strays {
    pub(super) fn begin(pass: &Pass, records: Records) -> Self {
        let root = pass.shared.layout.root().join("blobs");
        let of = |space: Space| {
            let entries = fs::read_dir(root.join(space.name())).into_iter().flatten().flatten();
            entries.map(move |entry| (space, entry.path()))
        };
        let directories = of(Space::Sha256).chain(of(Space::Blake3)).collect();
        Self { unknown: records.unknown, directories, files: Vec::new(), file: None }
    }

    /// Takes up some more. Whether there is anything left.
    pub(super) fn step(&mut self, pass: &mut Pass) -> bool {
        if let Some((key, place, sequence)) = self.unknown.blobs.pop() {
            self.blob(pass, key, place, sequence);
        } else if let Some(mut file) = self.file.take() {
            match file.read_on(pass) {
                Ok(true) => self.file = Some(file),
                Ok(false) => self.settle(pass, file),
                Err(why) => remove(pass, file.key, &file.path, file.encoding, &why),
            }
        } else if let Some((space, path)) = self.files.pop() {
            self.consider(pass, space, path);
        } else if let Some((space, directory)) = self.directories.pop() {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            self.files = entries.map(|entry| (space, entry.path())).collect();
        } else {
            return false;
        }
        true
    }

    /// A valid record of a blob that the index does not know.
    fn blob(&self, pass: &mut Pass, key: Key, place: Place, sequence: u64) {
        let shared = pass.shared.clone();
        if self.unknown.is_removed(&key, sequence) || shared.table.get(&key).is_some() {
            return;
        }
        // Its segment may have been reclaimed meanwhile.
        let Ok((header, payload)) = shared.segments.read_any(place) else { return };
        let content = shared.content(&header, payload.clone()).ok();
        let Some(digest) = key.digest(header.size).filter(|_| header.key == key) else { return };
        if content.is_none_or(|content| Digest::of(digest.function(), &content) != digest) {
            return;
        }
        let append = Append::content(digest, header.encoding, payload, shared.leases.own_stamp());
        match shared.take_up_blob(append) {
            Ok(true) => pass.found(Verdict::Recovered, named(&key), "the index did not know it"),
            Ok(false) => {}
            Err(error) => tracing::warn!(?key, "a blob is not taken up again: {error}"),
        }
    }

    /// A file among those of blobs: nothing is to be done where the index knows it.
    fn consider(&mut self, pass: &mut Pass, space: Space, path: PathBuf) {
        let Ok(metadata) = fs::symlink_metadata(&path) else { return };
        if !metadata.is_file() {
            return;
        }
        let Some((key, encoding)) = parse(space, &path) else {
            let name = path.strip_prefix(pass.shared.layout.root()).unwrap_or(&path).display().to_string();
            if pass.shared.medium.remove(&path).is_ok() {
                pass.found(Verdict::Removed, name, "no blob has a file of this name");
            }
            return;
        };
        let shared = &pass.shared;
        match shared.encoding_of_file(&key) {
            Some(known) if known == encoding => {}
            Some(_) => remove(pass, key, &path, encoding, "the blob is kept in another form"),
            None if shared.table.get(&key).is_some() || self.unknown.is_file_removed(&key) => {
                remove(pass, key, &path, encoding, "the blob was removed, or is kept in a segment");
            }
            None => match FoundFile::open(shared, key, encoding, path.clone()) {
                Ok(Some(file)) => self.file = Some(file),
                Ok(None) => remove(pass, key, &path, encoding, "it is no compressed file"),
                Err(error) => pass.found(Verdict::Unreadable, named(&key), error.to_string()),
            },
        }
    }

    /// Its content was read: the file is the blob's, or nobody's.
    fn settle(&self, pass: &mut Pass, file: FoundFile) {
        let (key, encoding, path) = (file.key, file.encoding, file.path.clone());
        let digest = file.hasher.clone().finish();
        if *digest.hash() != key.hash || digest.is_empty() {
            return remove(pass, key, &path, encoding, "its content has another hash");
        }
        match pass.shared.adopt(digest, file) {
            Ok(true) => pass.found(Verdict::Recovered, named(&key), "nothing told of its file"),
            Ok(false) => {}
            Err(error) => tracing::warn!(?key, "a file is not taken up again: {error}"),
        }
    }
}

/// What the name of a file says.
fn parse(space: Space, path: &Path) -> Option<(Key, Encoding)> {
    let name = path.file_name()?.to_str()?;
    let (hex, encoding) = match name.strip_suffix(".zst") {
        Some(hex) => (hex, Encoding::Zstd),
        None => (name, Encoding::Identity),
    };
    let digest = Digest::parse(space.function()?, hex, 0).ok()?;
    let directory = path.parent()?.file_name()?;
    (directory == &hex[..2]).then(|| (Key::new(space, *digest.hash()), encoding))
}

/// Removes a file that the index does not mean, unless somebody has to do with it this moment.
fn remove(pass: &mut Pass, key: Key, path: &Path, encoding: Encoding, why: &str) {
    let shared = pass.shared.clone();
    if !shared.names.begin_removal(key) {
        return;
    }
    let is_meant = shared.encoding_of_file(&key) == Some(encoding);
    let removed = !is_meant && shared.medium.remove(path).is_ok();
    shared.names.end_removal(key);
    if removed {
        pass.found(Verdict::Removed, named(&key), why);
    }
}

impl FoundFile {
    /// None if it cannot be a blob's.
    fn open(shared: &Shared, key: Key, encoding: Encoding, path: PathBuf) -> io::Result<Option<Self>> {
        let disk = shared.medium.open(path.clone())?;
        let metadata = disk.file().metadata()?;
        let plan = match encoding {
            Encoding::Identity => plain(metadata.len()),
            Encoding::Zstd => match SeekTable::read(disk.file(), metadata.len()) {
                Ok(table) => compressed(&table),
                Err(_) => None,
            },
        };
        let (Some(plan), Some(function)) = (plan, key.space.function()) else { return Ok(None) };
        let (seen, hasher) = (seen(&metadata), Hasher::new(function));
        Ok(Some(Self { key, encoding, path, disk, seen, plan, each: Vec::new(), hasher }))
    }

    /// Reads some pieces. Whether there are more; an error tells why it is no blob.
    fn read_on(&mut self, pass: &mut Pass) -> Result<bool, String> {
        let mut read = 0;
        while read < STEP && self.each.len() < self.plan.len() {
            let (at, length, content) = self.plan[self.each.len()];
            let bytes =
                self.disk.read_at(at, length).map_err(|error| format!("it cannot be read: {error}"))?;
            let sum = xxh3_64_with_seed(&bytes, pass.shared.secret);
            match self.encoding {
                Encoding::Identity => self.hasher.update(&bytes),
                Encoding::Zstd => {
                    let grown =
                        frames::grow(&bytes, content).map_err(|flaw| format!("it is damaged: {flaw}"))?;
                    self.hasher.update(&grown);
                }
            }
            self.each.push(Piece { length: length as u32, sum });
            read += length as u64;
        }
        pass.now.done += read;
        Ok(self.each.len() < self.plan.len())
    }
}

/// The pieces of a file that holds content as it is: where each begins, its length, and that of its content.
fn plain(length: u64) -> Option<Vec<(u64, usize, usize)>> {
    let piece = |at: u64| {
        let length = (length - at).min(PIECE) as usize;
        (at, length, length)
    };
    Some((0..length).step_by(PIECE as usize).map(piece).collect())
}

/// Those of a compressed file; none if its frames are not as the store makes them.
fn compressed(table: &SeekTable) -> Option<Vec<(u64, usize, usize)>> {
    let entries = table.frames();
    let last = entries.len().checked_sub(1)?;
    let fits = |(index, entry): (usize, &frames::FrameEntry)| {
        let content = u64::from(entry.content_length);
        if index == last { content <= PIECE } else { content == PIECE }
    };
    let plan =
        entries.iter().map(|entry| (entry.start, entry.length as usize, entry.content_length as usize));
    entries.iter().enumerate().all(fits).then(|| plan.collect())
}

impl Shared {
    /// In which encoding the index means the file of a blob, if it means one.
    fn encoding_of_file(&self, key: &Key) -> Option<Encoding> {
        let entry = self.table.get(key).filter(|entry| entry.form == Form::File)?;
        // Where the record cannot be read, nothing is known; whoever reads the blob finds that out.
        self.segments.read_any(entry.place).ok().map(|(header, _)| header.encoding)
    }

    /// Appends a blob that was found again, unless it was purged meanwhile. Whether it was needed.
    fn take_up_blob(self: &Arc<Self>, append: Append) -> Result<bool> {
        let mut room = Reservation::none(self.clone());
        room.reach(append.payload.len() as u64)?;
        let purged = self.purged.lock();
        if purged.contains(&append.key) {
            return Ok(false);
        }
        let answer = self.log.append([append]).pop().expect("one was handed in");
        answered_blocking(answer).map(|place| place.is_some())
    }

    /// Tells the log of a file that is a blob's, unless that changed meanwhile.
    fn adopt(self: &Arc<Self>, digest: Digest, file: FoundFile) -> Result<bool> {
        let _held = self.names.hold(file.key);
        let is_same = fs::symlink_metadata(&file.path).is_ok_and(|now| seen(&now) == file.seen);
        let purged = self.purged.lock();
        if !is_same || purged.contains(&file.key) || self.table.get(&file.key).is_some() {
            return Ok(false);
        }
        let incompressible = !may_get_smaller(Form::File, file.encoding);
        let append = Append {
            role: Role::File,
            key: file.key,
            encoding: file.encoding,
            size: digest.size(),
            payload: Pieces::new(file.each).encode().into(),
            blocks: u32::try_from(file.seen.1.div_ceil(BLOCK)).unwrap_or(u32::MAX),
            incompressible,
            stamp: self.leases.own_stamp(),
            instead_of: None,
        };
        let answer = self.log.append([append]).pop().expect("one was handed in");
        answered_blocking(answer).map(|place| place.is_some())
    }
}
