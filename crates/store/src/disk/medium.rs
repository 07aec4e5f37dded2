//! All that the store does to files and directories, in one place, so that a test can count it, record it for the
//! image of a crash, and let any of it fail.
//!
//! What is written to the mapped index passes by here only when it is made durable (`Step::Flush`).

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// One thing that is about to be done.
#[derive(Debug)]
pub enum Step<'a> {
    /// A file is made, empty.
    Create(&'a Path),
    /// Bytes are written.
    Write(&'a Path, u64, &'a [u8]),
    /// Bytes are read.
    Read(&'a Path),
    /// What a file has beyond so many bytes is taken away.
    Cut(&'a Path, u64),
    /// The content of a file is made durable.
    Sync(&'a Path),
    /// A mapped file is made durable with this content.
    Flush(&'a Path, &'a [u8]),
    /// A file or directory gets another name, in place of what had it.
    Rename(&'a Path, &'a Path),
    /// A name is taken away.
    Remove(&'a Path),
    /// The names in a directory are made durable.
    SyncDirectory(&'a Path),
}

/// Sees each step before it is done, and may refuse it. For tests.
pub trait Gate: Send + Sync {
    /// An error is what the operating system would say.
    fn pass(&self, step: Step<'_>) -> io::Result<()>;
}

/// The way to the disk.
#[derive(Clone, Default)]
pub(super) struct Medium {
    gate: Option<Arc<dyn Gate>>,
}

impl Medium {
    pub fn new(gate: Option<Arc<dyn Gate>>) -> Self {
        Self { gate }
    }

    pub fn pass(&self, step: Step<'_>) -> io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), |gate| gate.pass(step))
    }

    /// Makes a file that does not exist, to be read and written.
    pub fn create(&self, path: PathBuf, mode: u32) -> io::Result<Disk> {
        self.pass(Step::Create(&path))?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&path)?;
        // Whatever the process masks.
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(Disk { medium: self.clone(), path: path.into(), file })
    }

    pub fn open(&self, path: PathBuf) -> io::Result<Disk> {
        self.pass(Step::Read(&path))?;
        let file = File::open(&path)?;
        Ok(Disk { medium: self.clone(), path: path.into(), file })
    }

    pub fn open_to_write(&self, path: PathBuf) -> io::Result<Disk> {
        self.pass(Step::Read(&path))?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Disk { medium: self.clone(), path: path.into(), file })
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Step::Rename(from, to))?;
        fs::rename(from, to)
    }

    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.pass(Step::Remove(path))?;
        fs::remove_file(path)
    }

    pub fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.pass(Step::SyncDirectory(path))?;
        File::open(path)?.sync_all()
    }

    /// Makes a small file with this content, in place of an older one, durably and all at once.
    pub fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let passing = path.with_extension("new");
        let _ = fs::remove_file(&passing);
        let write = || {
            let file = self.create(passing.clone(), 0o644)?;
            file.write_at(content, 0)?;
            file.sync()?;
            self.rename(&passing, path)
        };
        write().inspect_err(|_| drop(fs::remove_file(&passing)))?;
        path.parent().map_or(Ok(()), |directory| self.sync_directory(directory))
    }
}

/// Whether the disk itself cannot give what it has, rather than that something was in the way this moment.
pub(super) fn is_broken(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// An open file.
pub(super) struct Disk {
    medium: Medium,
    path: Arc<Path>,
    file: File,
}

impl Disk {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.medium.pass(Step::Write(&self.path, offset, bytes))?;
        self.file.write_all_at(bytes, offset)
    }

    /// Takes away what lies beyond so many bytes.
    pub fn cut(&self, length: u64) -> io::Result<()> {
        self.medium.pass(Step::Cut(&self.path, length))?;
        self.file.set_len(length)
    }

    /// So many bytes from `offset`, or an error. A disk that fails is asked once more.
    pub fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        match self.try_read_at(offset, length) {
            Err(error) if is_broken(&error) => self.try_read_at(offset, length),
            done => done,
        }
    }

    fn try_read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.medium.pass(Step::Read(&self.path))?;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            let read = rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut bytes), at);
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// So many bytes from `offset`, if the page cache holds them all.
    pub fn read_now(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.fill_now(offset, &mut bytes).then_some(bytes)
    }

    /// Fills `bytes` from `offset`, if the page cache holds them all.
    pub fn fill_now(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let (length, parts) = (bytes.len(), &mut [io::IoSliceMut::new(bytes)]);
        let now = rustix::io::ReadWriteFlags::NOWAIT;
        self.medium.pass(Step::Read(&self.path)).is_ok()
            && rustix::io::preadv2(&self.file, parts, offset, now) == Ok(length)
    }

    pub fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub fn sync(&self) -> io::Result<()> {
        self.medium.pass(Step::Sync(&self.path))?;
        self.file.sync_data()
    }
}
