//! What an action left behind.

use crate::{Digest, DigestSet, NodeProperties};
use bytes::Bytes;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// The result of an action that ran to its end, or as far as it got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionResult {
    /// Files among the outputs.
    pub files: Vec<OutputFile>,
    /// Directories among the outputs.
    pub directories: Vec<OutputDirectory>,
    /// Links among the outputs, as 2.1 reports them.
    pub symlinks: Vec<OutputSymlink>,
    /// Links to files, as clients before 2.1 read them.
    pub file_symlinks: Vec<OutputSymlink>,
    /// Links to directories, as clients before 2.1 read them.
    pub directory_symlinks: Vec<OutputSymlink>,
    /// Exit code of the command.
    pub exit_code: i32,
    /// Standard output, inline.
    pub stdout_raw: Bytes,
    /// Standard output in the CAS.
    pub stdout_digest: Option<Digest>,
    /// Standard error, inline.
    pub stderr_raw: Bytes,
    /// Standard error in the CAS.
    pub stderr_digest: Option<Digest>,
    /// Who ran it and when.
    pub metadata: ExecutionMetadata,
}

/// A file that the action made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Relative to the working directory.
    pub path: String,
    /// Its content.
    pub digest: Digest,
    /// Whether it may be executed.
    pub is_executable: bool,
    /// Its content again, where the client asked for that.
    pub contents: Bytes,
    /// Further attributes.
    pub properties: Option<NodeProperties>,
}

/// A directory that the action made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputDirectory {
    /// Relative to the working directory.
    pub path: String,
    /// Its Tree message.
    pub tree_digest: Option<Digest>,
    /// Whether the tree lists parents before children.
    pub is_topologically_sorted: bool,
    /// Its root Directory message.
    pub root_directory_digest: Option<Digest>,
}

/// A symbolic link that the action made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSymlink {
    /// Relative to the working directory.
    pub path: String,
    /// Where it points.
    pub target: String,
    /// Further attributes.
    pub properties: Option<NodeProperties>,
}

/// A log of the server about an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Its content.
    pub digest: Digest,
    /// Whether a person would read it.
    pub human_readable: bool,
}

/// Who executed, and when each step began and ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecutionMetadata {
    /// The worker's name.
    pub worker: String,
    /// Entered the queue.
    pub queued: Option<SystemTime>,
    /// A worker took it.
    pub worker_start: Option<SystemTime>,
    /// The worker was done with it.
    pub worker_completed: Option<SystemTime>,
    /// Inputs: first look.
    pub input_fetch_start: Option<SystemTime>,
    /// Inputs: all there.
    pub input_fetch_completed: Option<SystemTime>,
    /// The command was started.
    pub execution_start: Option<SystemTime>,
    /// The command had ended.
    pub execution_completed: Option<SystemTime>,
    /// Time that the worker spent on the command.
    pub virtual_execution_duration: Option<Duration>,
    /// Outputs: first look.
    pub output_upload_start: Option<SystemTime>,
    /// Outputs: all stored.
    pub output_upload_completed: Option<SystemTime>,
    /// What the command used.
    pub usage: Option<Usage>,
    /// The persistent worker that did it, where one did.
    pub persistent_worker: Option<PersistentWorker>,
    /// Why it is not yet on a worker; only while it is queued.
    pub waiting: Option<Arc<Waiting>>,
    /// Attempts before this one, and how workers failed at them, for people. Not told to clients as such.
    pub setbacks: Option<Arc<[String]>>,
}

/// What a command used of its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The most memory at any time, in bytes; 0 where it is not known.
    pub peak_memory: u64,
    /// Bytes read from disks.
    pub read_bytes: u64,
    /// Bytes written to disks.
    pub written_bytes: u64,
}

/// A process that does one action after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PersistentWorker {
    /// Actions that it had done with this one: 1 where it was started for it.
    pub requests: u64,
}

/// Why an action waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// For people.
    pub reason: Arc<str>,
    /// How many actions that ask for the same were queued when this was said.
    pub ahead: u64,
    /// Since when.
    pub since: SystemTime,
}

impl ActionResult {
    /// The blobs that the message itself names: files, trees, root directories, stdout and stderr. What the trees name is not among them.
    pub fn named_blobs(&self) -> DigestSet {
        let files = self.files.iter().map(|file| file.digest);
        let directories =
            self.directories.iter().flat_map(|dir| [dir.tree_digest, dir.root_directory_digest]).flatten();
        files.chain(directories).chain(self.stdout_digest).chain(self.stderr_digest).collect()
    }

    /// Whether it may be served from, or stored in, the action cache.
    pub fn is_success(&self) -> bool {
        self.exit_code == 0
    }
}
