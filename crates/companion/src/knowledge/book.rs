//! The file of what is known: batches of records, each batch framed. Nothing waits for it to be synced: what is lost is
//! asked for again, and what is kept beyond its truth is found out when it is used. Numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 1 + 2 + 2 + n | 0, the number of a scope, its name |
//! | 1 + 2 + 41 + 8 + 4 | 1, scope, blob, when the upstream said that it has it (seconds since the epoch), its lease in seconds |
//! | 1 + 2 + 41 | 2, scope, blob that is no longer there |

use super::{News, Scope, Told};
use bytes::{Buf, BufMut, Bytes};
use mortar_model::{Digest, DigestFunction, Error, Result};
use mortar_store::framed;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const HEADER: &[u8; 20] = b"mortar knowledge 1\n\n";
const SCOPE: u8 = 0;
const KNOWN: u8 = 1;
const GONE: u8 = 2;
/// Records in one batch.
const BATCH: usize = 4_096;
/// A file with fewer records is not written anew.
const FEW: usize = 20_000;
/// Bytes of most records.
const RECORD: usize = 1 + 2 + 41 + 8 + 4;

pub(super) struct Book {
    path: PathBuf,
    file: File,
    records: usize,
    /// Records that were of use when the file was written.
    live: usize,
}

type Known = HashMap<(Scope, Digest), Told>;

impl Book {
    /// The file, and all in it that is still worth knowing. One that cannot be understood is begun anew.
    pub fn open(path: &Path, now: u64) -> Result<(Self, Vec<String>, Known)> {
        let failed = |error| Error::io(format!("opening `{}`", path.display()), error);
        let bytes = match fs::read(path) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Bytes::new(),
            Err(error) => return Err(failed(error)),
        };
        let (mut scopes, mut known) = (Vec::new(), Known::with_capacity(bytes.len() / RECORD));
        let mut records = 0;
        let mut whole = bytes.starts_with(HEADER);
        if whole {
            let mut rest = bytes.slice(HEADER.len()..);
            while let Some(mut batch) = framed::unframe(&mut rest) {
                while batch.has_remaining() && whole {
                    whole = read(&mut batch, &mut scopes, &mut known).is_some();
                    records += 1;
                }
            }
            whole &= rest.is_empty();
        }
        known.retain(|_, told| told.is_recent(now));
        let file = fs::OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        let live = scopes.len() + known.len();
        let mut book = Self { path: path.to_owned(), file, records, live };
        if !whole {
            book.write_anew(&scopes, &known)?;
        }
        Ok((book, scopes, known))
    }

    pub fn append(&mut self, news: &[News]) -> Result<()> {
        let mut bytes = Vec::new();
        for batch in news.chunks(BATCH) {
            let mut records = Vec::new();
            batch.iter().for_each(|news| put(news, &mut records));
            framed::frame(&records, &mut bytes);
        }
        self.records += news.len();
        let written = self.file.write_all(&bytes);
        written.map_err(|error| Error::io(format!("writing `{}`", self.path.display()), error))
    }

    /// Whether most of it is of no use any more, as far as that can be told.
    pub fn is_long(&self) -> bool {
        self.records > FEW && self.records > 3 * self.live
    }

    pub fn write_anew(&mut self, scopes: &[String], known: &Known) -> Result<()> {
        let failed = |error| Error::io(format!("writing `{}`", self.path.display()), error);
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh).map_err(failed)?;
        file.write_all(HEADER).map_err(failed)?;
        fs::rename(&fresh, &self.path).map_err(failed)?;
        (self.file, self.records) = (file, 0);
        let scopes = scopes.iter().enumerate().map(|(at, name)| News::Scope(Scope(at as u16), name.clone()));
        let known = known.iter().map(|((scope, digest), told)| News::Known(*scope, *digest, *told));
        let news: Vec<_> = scopes.chain(known).collect();
        self.live = news.len();
        self.append(&news)
    }
}

fn put(news: &News, to: &mut Vec<u8>) {
    match news {
        News::Scope(scope, name) => {
            to.put_u8(SCOPE);
            to.put_u16_le(scope.0);
            to.put_u16_le(name.len() as u16);
            to.put_slice(name.as_bytes());
        }
        News::Known(scope, digest, told) => {
            to.put_u8(KNOWN);
            put_blob(*scope, *digest, to);
            to.put_u64_le(told.asked);
            to.put_u32_le(told.lease);
        }
        News::Gone(scope, digest) => {
            to.put_u8(GONE);
            put_blob(*scope, *digest, to);
        }
    }
}

fn put_blob(scope: Scope, digest: Digest, to: &mut Vec<u8>) {
    to.put_u16_le(scope.0);
    to.put_u8(match digest.function() {
        DigestFunction::Sha256 => 1,
        DigestFunction::Blake3 => 2,
    });
    to.put_slice(digest.hash());
    to.put_u64_le(digest.size());
}

/// None if that makes no sense.
fn read(from: &mut Bytes, scopes: &mut Vec<String>, known: &mut Known) -> Option<()> {
    match from.try_get_u8().ok()? {
        SCOPE => {
            let (scope, length) = (from.try_get_u16_le().ok()?, usize::from(from.try_get_u16_le().ok()?));
            if usize::from(scope) != scopes.len() || from.len() < length {
                return None;
            }
            scopes.push(String::from_utf8(from.split_to(length).to_vec()).ok()?);
        }
        KNOWN => {
            let blob = blob(from)?;
            let (asked, lease) = (from.try_get_u64_le().ok()?, from.try_get_u32_le().ok()?);
            known.insert(blob, Told { asked, lease });
        }
        GONE => {
            known.remove(&blob(from)?);
        }
        _ => return None,
    }
    Some(())
}

fn blob(from: &mut Bytes) -> Option<(Scope, Digest)> {
    let scope = Scope(from.try_get_u16_le().ok()?);
    let function = match from.try_get_u8().ok()? {
        1 => DigestFunction::Sha256,
        2 => DigestFunction::Blake3,
        _ => return None,
    };
    let mut hash = [0; 32];
    from.try_copy_to_slice(&mut hash).ok()?;
    Some((scope, Digest::new(function, hash, from.try_get_u64_le().ok()?)))
}
