//! A worker process: started with its tools in a sandbox, asked one thing at a time, ended with all that it started.

use super::{
    ask::Key,
    protocol::{Protocol, Request, Response},
    view::View,
};
use crate::{
    alone,
    blocking::blocking,
    images::InUse,
    job::Job,
    outputs::Places,
    scratch::Scratch,
    source::Source,
    stage::{Plan, Protection},
    tree::{Kind, Tree},
};
use mortar_model::{Error, Result};
use mortar_sandbox::{Canceller, Exit, Limits, Running, Sandbox, Spec};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::watch,
};

/// A worker process. Its end is [`Process::end`]; dropping it does the same, and blocks.
#[derive(Debug)]
pub struct Process {
    /// What it may be used for.
    pub key: Key,
    /// What it sees.
    pub view: Arc<View>,
    /// Requests that it has answered.
    pub answered: u64,
    directory: PathBuf,
    input: pipe::Sender,
    output: pipe::Receiver,
    canceller: Canceller,
    ended: watch::Receiver<Option<Ended>>,
    /// Whether the sandbox was told to start it.
    is_begun: bool,
    waiting: Option<JoinHandle<()>>,
    /// The root file system that it was started in stays.
    _image: Option<Arc<InUse>>,
}

/// How a process ended, or why it could not be started.
pub type Ended = std::result::Result<Exit, String>;

/// What is needed to start one.
pub struct Start<'a> {
    /// Where its tools come from.
    pub source: &'a Source<'a>,
    /// Where it runs.
    pub sandbox: &'a Sandbox,
    /// Where its directory is made.
    pub scratch: &'a Scratch,
    /// What it may use.
    pub usable: &'a Limits,
    /// Its tools.
    pub tools: Arc<Tree>,
    /// What it sees of the host, or instead.
    pub image: Option<Arc<InUse>>,
}

/// What came of a request.
#[derive(Debug)]
pub enum Told {
    /// It was answered.
    Answer(Response),
    /// Not in time.
    TimedOut,
    /// Nobody wants to know any more.
    Cancelled,
    /// It wrote more than it may.
    TooMuch,
    /// The process ended instead.
    Ended(Ended),
    /// What came was no answer.
    Garbage(String),
}

/// The bounds of a request.
pub struct Bounds<'a> {
    /// Whether it is still wanted.
    pub job: &'a Job,
    /// When an answer is too late.
    pub limit: Duration,
    /// Bytes that an answer may have.
    pub answer: u64,
    /// Bytes that it may write to outputs.
    pub written: Option<u64>,
}

/// How often it is looked how much was written.
const LOOK: Duration = Duration::from_secs(1);
/// So much of what it wrote to standard error is shown.
const TAIL: u64 = 4096;

impl Process {
    /// Starts one: makes its root and the pipes, and has the sandbox run it.
    pub async fn start(with: Start<'_>, key: Key) -> Result<Self> {
        let directory = with.scratch.directory().await?;
        let started = Self::start_in(&with, key, directory.clone()).await;
        if started.is_err() {
            with.scratch.remove(directory).await;
        }
        started
    }

    async fn start_in(with: &Start<'_>, key: Key, directory: PathBuf) -> Result<Self> {
        let owner = with.sandbox.owner();
        let exec = directory.join("exec");
        let places = Places { create: unmade(&with.tools, &key.working_directory), ..Places::default() };
        // Each file of a tool is covered by a read-only mount.
        let protection = Protection { link: with.sandbox.protects_inputs(), owner };
        let root = Arc::clone(&with.tools);
        alone::build(with.source, Plan { root, places, exec: exec.clone(), protection }).await?;
        let (made, failed) = (directory.clone(), |error| Error::io("prepare a persistent worker", error));
        let view =
            blocking(move || pipes(&made, owner).and_then(|()| View::of(&exec, owner)).map_err(failed));
        let view = view.await?;
        let open = || pipe::OpenOptions::new().read_write(true).clone();
        let input = open().open_sender(directory.join("stdin")).map_err(failed)?;
        let output = open().open_receiver(directory.join("stdout")).map_err(failed)?;
        let spec = Spec {
            directory: directory.clone(),
            arguments: key.arguments.clone(),
            environment: key.environment.clone(),
            working_directory: key.working_directory.clone(),
            writable: view.folders(),
            image: with.image.as_ref().map(|image| image.root().to_owned()),
            converses: true,
            limits: with.usable.clone(),
            ..Spec::default()
        };
        let sandbox = with.sandbox.clone();
        let running = blocking(move || sandbox.start(spec).map_err(crate::run::refused)).await?;
        let canceller = running.canceller();
        let (waiting, ended) = wait_for(running).map_err(failed)?;
        let mut process = Self {
            key,
            view: Arc::new(view),
            answered: 0,
            directory,
            input,
            output,
            canceller,
            ended,
            is_begun: false,
            waiting: Some(waiting),
            _image: with.image.clone(),
        };
        process.wait_for_its_root(with.source.job).await;
        Ok(process)
    }

    /// Waits for the sandbox to have covered the tools: it would cover what is laid in too.
    async fn wait_for_its_root(&mut self, job: &Job) {
        let (mut ended, mut line) = (self.ended.clone(), [0]);
        tokio::select! {
            // The sandbox says so by a line feed.
            read = self.output.read_exact(&mut line) => drop(read),
            // Who asks it will hear of that.
            ended = ended.wait_for(Option::is_some) => drop(ended),
            () = job.cancelled.cancelled() => {}
        }
    }

    /// Has the sandbox start it, if that was not done: it waits for a byte.
    fn begin(&mut self) {
        if !std::mem::replace(&mut self.is_begun, true) {
            // Nothing is in the pipe yet, so there is room.
            rustix::io::write(&self.input, b"\n").ok();
        }
    }

    /// Whether it can be asked something.
    pub fn is_alive(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Asks; the first time, it is started for that, with what was laid in there. After anything but an answer, it is of
    /// no more use.
    pub async fn ask(&mut self, request: &Request, bounds: Bounds<'_>) -> Told {
        self.begin();
        let protocol = self.key.protocol;
        let (view, mut ended) = (Arc::clone(&self.view), self.ended.clone());
        let mut received = Vec::new();
        let asked = async {
            // What came unasked would be taken for the answer.
            drain(&self.output, &mut received);
            if !received.is_empty() {
                return Err(unasked(&received));
            }
            let bytes = protocol.encode(request);
            let write = async { self.input.write_all(&bytes).await.map_err(|error| error.to_string()) };
            let read = read(&mut self.output, &mut received, protocol, bounds.answer);
            tokio::try_join!(write, read).map(|((), response)| response)
        };
        let told = tokio::select! {
            biased;
            told = asked => told.map_or_else(Told::Garbage, Told::Answer),
            ended = ended.wait_for(Option::is_some) => Told::Ended(how(ended.ok().as_deref())),
            () = bounds.job.cancelled.cancelled() => Told::Cancelled,
            () = tokio::time::sleep(bounds.limit) => Told::TimedOut,
            () = too_much(view, bounds.written) => Told::TooMuch,
        };
        match told {
            Told::Ended(ended) => self.last_words(received, bounds.answer).unwrap_or(Told::Ended(ended)),
            told => told,
        }
    }

    /// The answer, if it gave one before it ended.
    fn last_words(&self, mut received: Vec<u8>, most: u64) -> Option<Told> {
        drain(&self.output, &mut received);
        self.key.protocol.decode(&received, most).ok().flatten().map(Told::Answer)
    }

    /// The end of what it wrote to standard error for this request.
    pub fn tail(&self) -> Vec<u8> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.directory.join("stderr"))?;
            let from = file.metadata()?.len().saturating_sub(TAIL);
            file.seek(SeekFrom::Start(from))?;
            let mut tail = Vec::new();
            file.take(TAIL).read_to_end(&mut tail)?;
            Ok(tail)
        };
        // There is none where it did not come to that.
        read().unwrap_or_default()
    }

    /// Forgets what it wrote to standard error.
    pub fn forget_log(&self) {
        let log = File::options().write(true).open(self.directory.join("stderr"));
        if let Err(error) = log.and_then(|log| log.set_len(0)) {
            tracing::warn!(%error, "the log of a persistent worker could not be emptied");
        }
    }

    /// Kills it, waits until nothing of it is left, and removes its directory. How it ended.
    pub async fn end(self, scratch: &Scratch) -> Ended {
        let directory = self.directory.clone();
        self.canceller.cancel();
        let mut ended = self.ended.clone();
        let how = how(ended.wait_for(Option::is_some).await.ok().as_deref());
        // Its thread is at its end; nothing blocks.
        drop(self);
        scratch.remove(directory).await;
        how
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.canceller.cancel();
        if self.waiting.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that waits for a persistent worker panicked");
        }
    }
}

fn how(ended: Option<&Option<Ended>>) -> Ended {
    ended.cloned().flatten().unwrap_or_else(|| Err("it was not waited for".into()))
}

/// Reads what is in the pipe by now.
fn drain(output: &pipe::Receiver, received: &mut Vec<u8>) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = rustix::io::read(output, &mut piece) {
        received.extend_from_slice(&piece[..length]);
    }
}

fn unasked(bytes: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    format!("standard output that nobody asked for, beginning with `{}`", shown.escape_debug())
}

async fn read(
    output: &mut pipe::Receiver,
    received: &mut Vec<u8>,
    protocol: Protocol,
    most: u64,
) -> std::result::Result<Response, String> {
    loop {
        // We hold the other end ourselves, so this does not end.
        output.read_buf(received).await.map_err(|error| error.to_string())?;
        if let Some(response) = protocol.decode(received, most)? {
            return Ok(response);
        }
    }
}

/// Returns when it has written more than that.
async fn too_much(view: Arc<View>, most: Option<u64>) {
    let Some(most) = most else { return std::future::pending().await };
    loop {
        tokio::time::sleep(LOOK).await;
        let looked_at = Arc::clone(&view);
        if blocking(move || Ok(looked_at.written())).await.is_ok_and(|written| written > most) {
            return;
        }
    }
}

/// The directories on the way to the working directory that its tools do not have.
fn unmade(tools: &Tree, working_directory: &Path) -> BTreeSet<PathBuf> {
    let way = working_directory.ancestors();
    way.filter(|path| tools.kind(path) != Some(Kind::Directory)).map(Path::to_owned).collect()
}

/// Makes the pipes that it reads and writes, as the sandbox expects them.
fn pipes(directory: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    for name in ["stdin", "stdout"] {
        let path = directory.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        if let Some((user, group)) = owner {
            chown(&path, Some(user), Some(group))?;
        }
    }
    // Standard error is there, whatever the sandbox comes to.
    fs::write(directory.join("stderr"), "")
}

type Waiting = (JoinHandle<()>, watch::Receiver<Option<Ended>>);

/// A thread of its own: one of the runtime's would keep that from ending.
fn wait_for(running: Running) -> io::Result<Waiting> {
    let (tell, ended) = watch::channel(None);
    let wait = move || {
        // What the sandbox says holds paths of this machine.
        let ended = running.wait().map_err(|error| {
            tracing::warn!(%error, "the sandbox could not run a persistent worker");
            "the sandbox could not run it".to_owned()
        });
        tell.send_replace(Some(ended));
    };
    let thread = std::thread::Builder::new().name("persistent-worker".into()).spawn(wait)?;
    Ok((thread, ended))
}
