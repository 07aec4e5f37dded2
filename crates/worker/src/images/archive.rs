//! Tar archives: what is in them goes into a [`Tree`]. A layer of an image also says what of the layers below it is
//! gone.

use super::tree::{Attributes, Tree, inside};
use mortar_model::{Error, Kind, Result};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, BufReader, Read, Seek},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};
use tar::{Entry, EntryType};

/// An archive, perhaps compressed, and what it is called in messages.
#[derive(Debug)]
pub struct Archive {
    file: File,
    name: String,
}

/// What begins so in a layer removes what is called like the rest of it.
const WHITEOUT: &[u8] = b".wh.";
/// What is called so removes all that lies beside it.
const OPAQUE: &[u8] = b".wh..wh..opq";

impl Archive {
    /// Tar, or tar compressed by gzip or zstd: its first bytes tell.
    pub fn new(file: File, name: impl Into<String>) -> Self {
        Self { file, name: name.into() }
    }

    /// Whether these files are in it, at the top, in this order.
    pub fn holds<const N: usize>(&mut self, names: [&str; N]) -> Result<[bool; N]> {
        let mut found = [false; N];
        self.each(|path, _| {
            for (name, found) in names.iter().zip(&mut found) {
                *found |= path == Path::new(name);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Unpacks all of it. How many devices, pipes and sockets were left out.
    pub fn unpack(&mut self, tree: &Tree) -> Result<u64> {
        let mut skipped = 0;
        self.each(|path, entry| {
            skipped += u64::from(!unpack(path, entry, tree)?);
            Ok(())
        })?;
        Ok(skipped)
    }

    /// Unpacks a layer over the ones below it. What it removes is of those, so that is done first.
    pub fn unpack_layer(&mut self, tree: &Tree) -> Result<u64> {
        self.each(|path, _| {
            let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name());
            match name.map(OsStr::as_bytes) {
                Some(OPAQUE) => tree.empty(parent),
                Some(name) => match name.strip_prefix(WHITEOUT) {
                    // `.wh.` or `.wh...` would remove the directory itself, or the one above it.
                    Some(b"" | b"." | b"..") => Err(Self::refuse(path, "it removes what is no entry")),
                    Some(removed) => tree.remove(&parent.join(OsStr::from_bytes(removed))),
                    None => Ok(()),
                },
                None => Ok(()),
            }
        })?;
        let mut skipped = 0;
        self.each(|path, entry| {
            let is_whiteout = path.file_name().is_some_and(|name| name.as_bytes().starts_with(WHITEOUT));
            skipped += u64::from(!is_whiteout && !unpack(path, entry, tree)?);
            Ok(())
        })?;
        Ok(skipped)
    }

    fn refuse(path: &Path, why: &str) -> Error {
        let message = format!("the entry `{}` cannot be unpacked: {why}", path.display());
        Error::new(Kind::FailedPrecondition { message })
    }

    /// All entries, from the first one.
    fn each(
        &mut self,
        mut visit: impl FnMut(&Path, &mut Entry<'_, Box<dyn Read + '_>>) -> Result<()>,
    ) -> Result<()> {
        let name = self.name.clone();
        let failed = |error| Error::io(format!("read the archive `{name}`"), error);
        let mut archive = tar::Archive::new(self.open().map_err(failed)?);
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let path = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
            let path = inside(&path).ok_or_else(|| Self::refuse(&path, "its path leaves the root"))?;
            visit(&path, &mut entry)?;
        }
        // What comes after the end is padding; but a compressed stream is only known to be whole when it was read.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop).map_err(failed)
    }

    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        decompress(&mut self.file)
    }
}

/// The bytes of a file from its beginning; those that are compressed in it, where something is.
pub fn decompress(file: &mut File) -> io::Result<Box<dyn Read + '_>> {
    let mut magic = [0; 4];
    file.rewind()?;
    let read = read_up_to(file, &mut magic)?;
    file.rewind()?;
    let reader = BufReader::with_capacity(256 << 10, file);
    Ok(match &magic[..read] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(reader)?),
        _ => Box::new(reader),
    })
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read(&mut buffer[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// Unpacks an entry, unless it is of a kind that images have no use for.
fn unpack(path: &Path, entry: &mut Entry<'_, Box<dyn Read + '_>>, tree: &Tree) -> Result<bool> {
    let header = entry.header();
    let failed = |error| Error::io(format!("read the header of `{}`", path.display()), error);
    let modified = i64::try_from(header.mtime().map_err(failed)?).unwrap_or_default();
    let attributes = Attributes { mode: header.mode().map_err(failed)?, modified };
    let link = || {
        let target = entry.link_name_bytes().map(|target| OsString::from_vec(target.into_owned()));
        target.ok_or_else(|| Archive::refuse(path, "it links to nothing"))
    };
    match header.entry_type() {
        EntryType::Directory if path == Path::new("") => {}
        EntryType::Directory => tree.directory(path, attributes)?,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            tree.file(path, entry, attributes)?;
        }
        EntryType::Symlink => tree.symlink(path, &link()?)?,
        EntryType::Link => {
            let target = PathBuf::from(link()?);
            let target =
                inside(&target).ok_or_else(|| Archive::refuse(path, "its target leaves the root"))?;
            tree.hard_link(path, &target)?;
        }
        // They speak of others, or of the whole archive.
        EntryType::XGlobalHeader => {}
        _ => return Ok(false),
    }
    Ok(true)
}
