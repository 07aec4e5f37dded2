//! What is to be run: actions, commands and the platforms they ask for.

use crate::Digest;
use std::time::Duration;

/// One unit of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The Command message.
    pub command_digest: Digest,
    /// The root Directory of the inputs.
    pub input_root_digest: Digest,
    /// How long the command may run; a server's default where absent.
    pub timeout: Option<Duration>,
    /// The result must not be stored, nor the execution merged with another.
    pub do_not_cache: bool,
    /// Requirements on the worker; since 2.2 this one counts, before it the command's.
    pub platform: Option<Platform>,
}

/// What to run and what to keep of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// The outputs that are wanted.
    pub outputs: Outputs,
    /// Where the command starts, relative to the input root.
    pub working_directory: String,
    /// Requirements on the worker as clients before 2.2 give them.
    pub platform: Option<Platform>,
    /// How output directories are to be described.
    pub output_directory_format: OutputDirectoryFormat,
    /// Names of the node properties that are to be captured.
    pub output_node_properties: Vec<String>,
}

/// The outputs of a command, relative to its working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// 2.1 and later: files, directories or links, as they turn out to be.
    Paths(Vec<String>),
    /// Before 2.1: told apart by the client.
    Typed {
        /// Expected to be files (or links).
        files: Vec<String>,
        /// Expected to be directories (or links).
        directories: Vec<String>,
    },
}

impl Default for Outputs {
    fn default() -> Self {
        Self::Paths(Vec::new())
    }
}

impl Outputs {
    /// Every path, whatever it is expected to be.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let (first, second): (&[String], &[String]) = match self {
            Self::Paths(paths) => (paths, &[]),
            Self::Typed { files, directories } => (files, directories),
        };
        first.iter().chain(second).map(String::as_str)
    }
}

/// How an output directory is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputDirectoryFormat {
    /// As one Tree.
    #[default]
    TreeOnly,
    /// As Directory messages in the CAS.
    DirectoryOnly,
    /// As both.
    TreeAndDirectory,
}

/// Requirements on, or the offer of, a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// Sorted by name, then value; a name may occur more than once.
    pub properties: Vec<Property>,
}

/// One property, called an exec property by Bazel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Property {
    /// Such as `OSFamily`.
    pub name: String,
    /// Such as `Linux`.
    pub value: String,
}

/// The exec property that asks for a persistent worker, by a name for the tool with all that it is started with. Bazel
/// computes it. It tells a worker how to run an action, and says nothing of which worker can.
pub const PERSISTENT_WORKER_KEY: &str = "persistentWorkerKey";
/// The exec property that names the protocol to talk to a persistent worker in: `proto`, also where it is absent, or
/// `json`.
pub const PERSISTENT_WORKER_PROTOCOL: &str = "persistentWorkerProtocol";

impl Platform {
    /// A platform of these properties, sorted.
    pub fn new(properties: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut properties: Vec<_> =
            properties.into_iter().map(|(name, value)| Property { name, value }).collect();
        properties.sort();
        Self { properties }
    }

    /// The value with which an offer accepts any value of a name.
    pub const ANY: &'static str = "*";

    /// The properties asked for that `offer` lacks. An empty answer means that the offer will do. A name that is offered
    /// with several values is met by each of them.
    pub fn unmet_by<'a>(&'a self, offer: &'a Platform) -> impl Iterator<Item = &'a Property> {
        self.properties.iter().filter(|wanted| {
            !offer.properties.iter().any(|offered| {
                offered.name == wanted.name && (offered.value == wanted.value || offered.value == Self::ANY)
            })
        })
    }
}
