//! Makes a directory on disk: first what has no content, then the files, as their contents come. Contents are read ahead
//! on the reactor; threads write them, as many as there are cores.

use super::{
    BLOCK, Layer, Shared, look,
    pool::{Claim, FileKey, Look},
    work::Work,
};
use crate::{
    blocking::blocking,
    source::{Content, Source},
};
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{Blob, Error, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    runtime::Handle,
    sync::mpsc::{Receiver, channel},
};

/// Contents that are read at the same time.
const READS: usize = 64;
/// Files that go to a thread together, and such parcels that wait for one.
const PARCEL: usize = 16;
const WAITING: usize = 2;
/// Fewer files than this are no work for a second thread.
const WORTH_A_THREAD: usize = 64;
const MOST_THREADS: usize = 8;

/// A file to be made, in all its places.
struct Task {
    key: FileKey,
    paths: Vec<PathBuf>,
    how: How,
}

enum How {
    /// By links to the pool's file here, if that looks so.
    Link(Box<Path>, Look),
    /// The first by making the pool's file there, the others by links to it.
    Make(Option<Content>),
    /// Each for itself.
    Apart(Option<Content>),
}

/// Makes a directory. Where that fails, nothing is left.
pub(super) async fn build(shared: &Arc<Shared>, work: Work, source: &Source<'_>) -> Result<Layer> {
    let mut layer = Layer::new(shared, &work);
    let tasks = layer.claim(group(&work));
    let is_wanted = |task: &&Task| !matches!(task.how, How::Link(..));
    source.expect(tasks.iter().filter(is_wanted).map(|task| task.key.digest).collect()).await?;
    let top = layer.path.clone();
    blocking(move || skeleton(&top, &work).map_err(failed)).await?;
    let layer = Arc::new(parking_lot::Mutex::new(layer));
    let mut left = fill(&layer, tasks, source).await?;
    // What could not be linked, because its file was changed or has all the names that a file may have.
    left.iter_mut().for_each(|task| task.how = How::Apart(None));
    if !left.is_empty() {
        fill(&layer, left, source).await?;
    }
    let layer =
        Arc::into_inner(layer).ok_or_else(|| Error::internal("a thread still makes an input root"))?;
    let mut layer = layer.into_inner();
    layer.look =
        look(&layer.path).ok_or_else(|| Error::internal("a directory that was made is not there"))?;
    Ok(layer)
}

/// An error of the worker's disk.
fn failed(error: io::Error) -> Error {
    Error::io("make an input root", error)
}

/// The files by their contents, in the order in which they occur.
fn group(work: &Work) -> Vec<(FileKey, Vec<PathBuf>)> {
    let mut places = HashMap::new();
    let mut groups: Vec<(FileKey, Vec<PathBuf>)> = Vec::new();
    for (path, key) in &work.files {
        let index = *places.entry(*key).or_insert_with(|| {
            groups.push((*key, Vec::new()));
            groups.len() - 1
        });
        groups[index].1.push(path.clone());
    }
    groups
}

impl Layer {
    /// A directory that is not there yet, accounted for.
    fn new(shared: &Arc<Shared>, work: &Work) -> Self {
        let directories = work.directories.len() as u64;
        let bytes = directories * BLOCK;
        let inodes = directories + (work.links.len() + work.hidden.len()) as u64;
        let mut state = shared.state.lock();
        state.bytes += bytes;
        state.inodes += inodes;
        drop(state);
        let (path, files) = (shared.layer_path(), Vec::new());
        Self { shared: shared.clone(), path, look: (0, 0, 0), files, bytes, inodes, is_lent: false }
    }

    /// Takes what is in the pool, and what is to come into it.
    fn claim(&mut self, groups: Vec<(FileKey, Vec<PathBuf>)>) -> Vec<Task> {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let mut tasks = Vec::with_capacity(groups.len());
        for (key, paths) in groups {
            let how = match state.pool.claim(key) {
                Claim::Link { path, look, is_lent } => {
                    self.is_lent |= is_lent;
                    How::Link(path, look)
                }
                Claim::Make => {
                    state.bytes += key.bytes();
                    state.inodes += 1;
                    How::Make(None)
                }
                Claim::Apart => How::Apart(None),
            };
            if !matches!(how, How::Apart(_)) {
                self.files.push(key);
            }
            tasks.push(Task { key, paths, how });
        }
        tasks
    }

    /// Accounts for files that only this directory has.
    fn add(&mut self, bytes: u64, inodes: u64) {
        (self.bytes, self.inodes) = (self.bytes + bytes, self.inodes + inodes);
        let mut state = self.shared.state.lock();
        (state.bytes, state.inodes) = (state.bytes + bytes, state.inodes + inodes);
    }
}

/// Directories, links, and what hides.
fn skeleton(top: &Path, work: &Work) -> io::Result<()> {
    let mut maker = fs::DirBuilder::new();
    maker.mode(0o755);
    for directory in &work.directories {
        maker.create(top.join(directory))?;
    }
    // Everybody may read, whatever this process's own habits: the command may be somebody else.
    if fs::symlink_metadata(top)?.permissions().mode() & 0o777 != 0o755 {
        for directory in &work.directories {
            fs::set_permissions(top.join(directory), Permissions::from_mode(0o755))?;
        }
    }
    for (path, target) in &work.links {
        symlink(target, top.join(path))?;
    }
    for path in &work.hidden {
        hide(&top.join(path))?;
    }
    Ok(())
}

/// Makes what overlay takes for nothing at all: a character device of this number. No privilege is needed for that.
pub fn hide(path: &Path) -> io::Result<()> {
    Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// Makes files; tells those that could not be linked.
async fn fill(
    layer: &Arc<parking_lot::Mutex<Layer>>,
    tasks: Vec<Task>,
    source: &Source<'_>,
) -> Result<Vec<Task>> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads = tasks.len().div_ceil(WORTH_A_THREAD).min(cores).clamp(1, MOST_THREADS);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel(WAITING)).unzip();
    let writers = receivers.into_iter().map(|receiver| {
        let layer = layer.clone();
        let (top, shared) = {
            let layer = layer.lock();
            (layer.path.clone(), layer.shared.clone())
        };
        let writer = Writer { shared, layer, top, handle: Handle::current(), left: Vec::new() };
        blocking(move || writer.run(receiver))
    });
    let writing = stream::iter(writers).buffer_unordered(threads).collect::<Vec<Result<_>>>();
    let reading = async {
        let mut parcels =
            Box::pin(stream::iter(tasks).map(|task| read(task, source)).buffered(READS).try_chunks(PARCEL));
        let mut turn = 0;
        while let Some(parcel) = parcels.next().await {
            let parcel = parcel.map_err(|error| error.1)?;
            // A thread that is gone has failed, and tells why.
            if senders[turn % threads].send(parcel).await.is_err() {
                break;
            }
            turn += 1;
        }
        drop(senders);
        Ok::<_, Error>(())
    };
    let (read, written) = tokio::join!(reading, writing);
    let mut left = Vec::new();
    for written in written {
        left.extend(written?);
    }
    read.map(|()| left)
}

async fn read(mut task: Task, source: &Source<'_>) -> Result<Task> {
    if let How::Make(content) | How::Apart(content) = &mut task.how {
        *content = Some(source.content(task.key.digest).await?);
    }
    Ok(task)
}

/// One of the threads that write.
struct Writer {
    shared: Arc<Shared>,
    layer: Arc<parking_lot::Mutex<Layer>>,
    top: PathBuf,
    handle: Handle,
    left: Vec<Task>,
}

impl Writer {
    fn run(mut self, mut tasks: Receiver<Vec<Task>>) -> Result<Vec<Task>> {
        while let Some(parcel) = tasks.blocking_recv() {
            for task in parcel {
                self.make(task)?;
            }
        }
        Ok(self.left)
    }

    fn make(&mut self, task: Task) -> Result<()> {
        let Task { key, paths, how } = task;
        match how {
            How::Link(file, look) => {
                let is_same = fs::symlink_metadata(&file).is_ok_and(|found| Look::of(&found) == look);
                let mut state = self.shared.state.lock();
                // It may have moved meanwhile.
                if !is_same && state.pool.is_at(&key, &file) {
                    tracing::error!(digest = %key.digest, "a cached file was changed behind the worker's back");
                    state.pool.spoil(&key);
                }
                drop(state);
                if !is_same || self.link(&file, &paths).is_err() {
                    self.left.push(Task { key, paths, how: How::Apart(None) });
                }
                Ok(())
            }
            How::Make(content) => {
                let (first, others) = paths.split_first().expect("a file has a place");
                let file = self.top.join(first);
                let (is_lent, look) = self.write(&key, &file, content)?;
                if is_lent {
                    self.layer.lock().is_lent = true;
                }
                self.shared.state.lock().pool.made(&key, &file, look, is_lent);
                if self.link(&file, others).is_err() {
                    self.left.push(Task { key, paths: others.to_vec(), how: How::Apart(None) });
                }
                Ok(())
            }
            How::Apart(content) => {
                let (first, others) = paths.split_first().expect("a file has a place");
                let first = self.top.join(first);
                // It may be there from an attempt that failed half-way.
                fs::remove_file(&first).ok();
                let (is_lent, _) = self.write(&key, &first, content)?;
                for path in others {
                    let path = self.top.join(path);
                    fs::remove_file(&path).ok();
                    fs::copy(&first, &path).map_err(failed)?;
                }
                let mut layer = self.layer.lock();
                layer.is_lent |= is_lent;
                layer.add(key.bytes() * paths.len() as u64, paths.len() as u64);
                Ok(())
            }
        }
    }

    fn link(&self, file: &Path, paths: &[PathBuf]) -> io::Result<()> {
        paths.iter().try_for_each(|path| fs::hard_link(file, self.top.join(path)))
    }

    /// Makes one file; whether it is the store's own too, and how it looks.
    fn write(&self, key: &FileKey, path: &Path, content: Option<Content>) -> Result<(bool, Look)> {
        let content = content.expect("what is to be written was read");
        if let Content::Lent(lent) = &content {
            let is_lent = lend(key, lent.path(), path).map_err(failed)?;
            return Ok((is_lent, Look::of(&fs::symlink_metadata(path).map_err(failed)?)));
        }
        let mut file = create(path, key.mode()).map_err(failed)?;
        match content {
            Content::Bytes(bytes) => file.write_all(&bytes).map_err(failed)?,
            Content::Flow(blob) => self.flow(key, blob, &mut file)?,
            Content::Lent(_) => {}
        }
        let mut made = file.metadata().map_err(failed)?;
        if made.permissions().mode() & 0o777 != key.mode() {
            file.set_permissions(Permissions::from_mode(key.mode())).map_err(failed)?;
            made = file.metadata().map_err(failed)?;
        }
        Ok((false, Look::of(&made)))
    }

    fn flow(&self, key: &FileKey, blob: Blob, file: &mut File) -> Result<()> {
        let mut chunks = blob.into_stream();
        while let Some(chunk) =
            self.handle.block_on(chunks.try_next()).map_err(|error| crate::source::gone(key.digest, error))?
        {
            file.write_all(&chunk).map_err(failed)?;
        }
        Ok(())
    }
}

/// Makes a file that is not there.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Makes a file of one that is lent: the same, where it is as it should be, else a copy.
fn lend(key: &FileKey, lent: &Path, path: &Path) -> io::Result<bool> {
    if key.is_executable {
        // A file has a largest number of names, and may lie on another file system; neither is worth an error.
        if fs::hard_link(lent, path).is_ok() {
            return Ok(true);
        }
    }
    fs::copy(lent, path)?;
    fs::set_permissions(path, Permissions::from_mode(key.mode()))?;
    Ok(false)
}
