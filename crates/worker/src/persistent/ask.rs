//! Which actions ask for a persistent worker, what they ask it, and which process may be asked.

use super::{
    flags,
    protocol::{Input, Protocol, Request},
    split::{self, Parts, Tools},
};
use crate::{
    Limits,
    outputs::Places,
    source::Source,
    tree::{Listing, Tree},
};
use mortar_model::{
    Action, Command, Digest, Platform, Result,
    action::{PERSISTENT_WORKER_KEY as KEY, PERSISTENT_WORKER_PROTOCOL as PROTOCOL},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What makes two actions able to share a process: all that it is started with, and that the client says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The instance that the action is of.
    pub instance: String,
    /// The files of the tool.
    pub tools: Digest,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Where it is started, relative to its root.
    pub working_directory: PathBuf,
    /// What the action asks of its worker, among which is the client's own name for the tool.
    pub platform: Platform,
    /// The image that it runs in.
    pub image: Option<PathBuf>,
    /// How one talks to it.
    pub protocol: Protocol,
}

/// An action, as far as this is concerned.
pub struct Subject<'a> {
    /// The Action message.
    pub action: &'a Action,
    /// Its Command.
    pub command: &'a Command,
    /// Its inputs.
    pub root: &'a Arc<Tree>,
    /// What its outputs need.
    pub places: &'a Places,
    /// The root of its image.
    pub image: Option<&'a Path>,
}

/// What an action asks for.
pub enum Asked {
    /// No persistent worker.
    Nothing,
    /// One, which it cannot have, for this reason.
    Impossible(String),
    /// One.
    Work(Box<Work>),
}

/// Work for a persistent worker.
pub struct Work {
    /// Who may do it.
    pub key: Key,
    /// Its tools, and what is for this request alone.
    pub parts: Parts,
    /// The request.
    pub request: Request,
}

/// Finds out what an action asks for.
pub async fn recognise(source: &Source<'_>, subject: &Subject<'_>, limits: Limits) -> Result<Asked> {
    let Subject { command, root, .. } = subject;
    // Older clients have it in the command alone.
    let platform = subject.action.platform.as_ref().or(command.platform.as_ref());
    let Some(platform) = platform.filter(|platform| value(platform, KEY).is_some_and(|key| !key.is_empty()))
    else {
        return Ok(Asked::Nothing);
    };
    let impossible = |why: &str| Ok(Asked::Impossible(why.into()));
    let protocol = match value(platform, PROTOCOL) {
        None | Some("" | "proto") => Protocol::Proto,
        Some("json") => Protocol::Json,
        Some(other) => {
            return impossible(&format!("its `{PROTOCOL}` is `{other}`; expected `proto` or `json`"));
        }
    };
    if !root.is_plain {
        return impossible("its inputs have modes or times of their own");
    }
    let Some((arguments, flags)) = flags::split(&command.arguments) else {
        return impossible(
            "its arguments do not hold a programme and a flag file (`@FILE` or `--flagfile=FILE`)",
        );
    };
    let directory = Path::new(&command.working_directory);
    let programme = flags::below(directory, &arguments[0]);
    let Some(tools) = Tools::find(root, programme) else {
        return impossible("no input is marked as its tool's, and its programme is no input");
    };
    let function = source.job.action.function();
    let parts = split::part(root, &tools, &needed(subject.places), function, limits)?;
    if let Some(output) = output_in_place_of(&parts.tools, command) {
        return impossible(&format!("its output `{output}` is in the place of its tool"));
    }
    let arguments_said = flags::expand(source, root, directory, flags, limits.message).await?;
    let said = match arguments_said {
        Ok(said) => said,
        Err(why) => return impossible(&why),
    };
    let key = Key {
        instance: source.job.context.instance.to_string(),
        tools: parts.tools.digest,
        arguments,
        environment: command.environment.clone(),
        working_directory: directory.into(),
        platform: platform.clone(),
        image: subject.image.map(Path::to_owned),
        protocol,
    };
    let request = Request { arguments: said, inputs: inputs(root, directory) };
    Ok(Asked::Work(Box::new(Work { key, parts, request })))
}

fn value<'a>(platform: &'a Platform, name: &str) -> Option<&'a str> {
    let property = platform.properties.iter().find(|property| property.name == name)?;
    Some(&property.value)
}

/// Directories that a request must bring with it, be it that the tool has them too: those that are given to the command,
/// and those in which others are made.
fn needed(places: &Places) -> BTreeSet<PathBuf> {
    let all = places.writable.iter().chain(&places.create);
    all.flat_map(|path| path.ancestors()).map(Path::to_owned).collect()
}

/// An output that would be made where the tool has something.
fn output_in_place_of<'a>(tools: &Tree, command: &'a Command) -> Option<&'a str> {
    let directory = Path::new(&command.working_directory);
    let is_tools =
        |output: &&str| flags::below(directory, output).is_none_or(|path| tools.kind(&path).is_some());
    command.outputs.all().find(is_tools)
}

/// Every file of the root, tools too, as the process reaches it.
fn inputs(root: &Tree, directory: &Path) -> Vec<Input> {
    let mut files = Listing::of(root).files;
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let up = "../".repeat(directory.components().count());
    let reached = |path: &Path| match path.strip_prefix(directory) {
        Ok(below) => below.to_string_lossy().into_owned(),
        Err(_) => format!("{up}{}", path.display()),
    };
    files
        .iter()
        .map(|file| Input { path: reached(&file.path), hash: file.digest.hex().to_string() })
        .collect()
}
