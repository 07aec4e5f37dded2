//! A file that is being made: it vanishes unless it is published.

use mortar_model::{Error, Kind, Result};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Blobs may be linked into input roots, where they are read and run but never written.
const MODE: u32 = 0o555;
/// After this time a full disk may have been cleared.
const FULL_DISK_RETRY: Duration = Duration::from_secs(10);

/// An unfinished file. Dropping it removes it.
pub(super) struct TempFile {
    /// Absent only while it is dropped.
    file: Option<File>,
    path: PathBuf,
    /// Under this name it is somebody else's.
    published: bool,
}

impl TempFile {
    pub fn create(path: PathBuf) -> Result<Self> {
        let open = || {
            let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path)?;
            file.set_permissions(Permissions::from_mode(MODE)).map(|()| file)
        };
        let file = open().map_err(|error| storage_error("creating a file", error))?;
        Ok(Self { file: Some(file), path, published: false })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file().write_all(bytes).map_err(|error| storage_error("writing a file", error))
    }

    /// Makes the content durable.
    pub fn sync(&self) -> Result<()> {
        self.file().sync_data().map_err(|error| storage_error("writing a file durably", error))
    }

    /// Gives the file its final name, in place of an older file of that name.
    pub fn publish(mut self, target: &Path) -> Result<()> {
        let rename = || match fs::rename(&self.path, target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_parent(target)?;
                fs::rename(&self.path, target)
            }
            done => done,
        };
        rename().map_err(|error| storage_error("publishing a file", error))?;
        self.published = true;
        Ok(())
    }

    pub fn file(&self) -> &File {
        self.file.as_ref().expect("the file is open until it is dropped")
    }
}

/// The directory for a file; its own name is durable when this returns.
fn make_parent(target: &Path) -> io::Result<()> {
    let Some(parent) = target.parent() else { return Ok(()) };
    fs::create_dir_all(parent)?;
    parent.parent().map_or(Ok(()), super::layout::sync_directory)
}

impl Drop for TempFile {
    /// A dropped future can clean up in no other way. Freeing a large file takes time, so not on the reactor.
    fn drop(&mut self) {
        if self.published {
            return;
        }
        let (file, path) = (self.file.take(), std::mem::take(&mut self.path));
        let remove = move || {
            let _ = fs::remove_file(path);
            drop(file);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// What a remote user is told of a failed file operation: no paths, and whether to come again.
pub(super) fn storage_error(action: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(Kind::ResourceExhausted {
            message: format!("the server's disk is full ({action})"),
            retry_after: Some(FULL_DISK_RETRY),
        }),
        _ => Error::io(format!("{action} of the store"), error),
    }
}
