//! Jobs as tests tell them, in the protocol's own messages: they may be as wrong as a test wants.

use crate::House;
use mortar_model::DigestFunction;
use mortar_wire::reapi;
use prost::Message;

/// What is to be executed, and how it is asked for.
#[derive(Clone)]
pub struct Job {
    pub function: DigestFunction,
    pub instance: String,
    pub command: reapi::Command,
    /// Instead of the command's own digest.
    pub command_digest: Option<reapi::Digest>,
    /// Instead of an empty input root.
    pub root: Option<reapi::Digest>,
    pub timeout: Option<prost_types::Duration>,
    pub do_not_cache: bool,
    pub skip_cache_lookup: bool,
    /// Of the action.
    pub platform: Option<reapi::Platform>,
}

impl Job {
    /// Runs a script.
    pub fn new(script: &str) -> Self {
        let variable = |name: &str, value: &str| reapi::command::EnvironmentVariable {
            name: name.into(),
            value: value.into(),
        };
        let command = reapi::Command {
            arguments: ["/bin/bash", "-c", script].map(String::from).to_vec(),
            environment_variables: vec![variable("PATH", "/usr/bin:/bin")],
            ..Default::default()
        };
        Self {
            function: DigestFunction::Sha256,
            instance: String::new(),
            command,
            command_digest: None,
            root: None,
            timeout: None,
            do_not_cache: false,
            skip_cache_lookup: false,
            platform: None,
        }
    }

    /// Prints something that no other run prints.
    pub fn unique() -> Self {
        Self::new("cat /proc/sys/kernel/random/uuid")
    }

    pub fn paths(mut self, paths: &[&str]) -> Self {
        self.command.output_paths = paths.iter().map(|path| (*path).into()).collect();
        self
    }

    pub fn root(mut self, digest: reapi::Digest) -> Self {
        self.root = Some(digest);
        self
    }

    pub fn timeout(mut self, seconds: i64, nanos: i32) -> Self {
        self.timeout = Some(prost_types::Duration { seconds, nanos });
        self
    }

    /// Asks for an image.
    pub fn image(mut self, name: &str) -> Self {
        let property = reapi::platform::Property { name: "container-image".into(), value: name.into() };
        self.platform = Some(reapi::Platform { properties: vec![property] });
        self
    }

    /// Uploads what was not given as digests; the action's digest.
    pub async fn upload(&self, house: &House) -> reapi::Digest {
        let command = match self.command_digest.clone() {
            Some(digest) => digest,
            None => house.put(self.function, self.command.encode_to_vec()).await,
        };
        let root = match self.root.clone() {
            Some(digest) => digest,
            None => house.put(self.function, "").await,
        };
        let action = reapi::Action {
            command_digest: Some(command),
            input_root_digest: Some(root),
            timeout: self.timeout,
            do_not_cache: self.do_not_cache,
            platform: self.platform.clone(),
            ..Default::default()
        };
        house.put(self.function, action.encode_to_vec()).await
    }
}

/// A directory of these files, directories and links.
pub fn directory(
    files: &[(&str, &reapi::Digest)],
    directories: &[(&str, &reapi::Digest)],
    links: &[(&str, &str)],
) -> Vec<u8> {
    let file = |(name, digest): &(&str, &reapi::Digest)| reapi::FileNode {
        name: (*name).into(),
        digest: Some((*digest).clone()),
        ..Default::default()
    };
    let node = |(name, digest): &(&str, &reapi::Digest)| reapi::DirectoryNode {
        name: (*name).into(),
        digest: Some((*digest).clone()),
    };
    let link = |(name, target): &(&str, &str)| reapi::SymlinkNode {
        name: (*name).into(),
        target: (*target).into(),
        ..Default::default()
    };
    let directory = reapi::Directory {
        files: files.iter().map(file).collect(),
        directories: directories.iter().map(node).collect(),
        symlinks: links.iter().map(link).collect(),
        ..Default::default()
    };
    directory.encode_to_vec()
}
