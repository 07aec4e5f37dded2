//! `mortar image …`: the images in which a worker runs actions that ask for one.

use crate::settings::default_directory;
use clap::Subcommand;
use mortar_worker::Images;
use serde_json::json;
use std::path::PathBuf;

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Take over a root file system, so that actions can ask for it by `container-image`.
    Import(Import),
    /// Tell which images are there.
    List(List),
    /// Remove an image; what runs in it goes on.
    Remove(Remove),
}

/// Flags of `mortar image import`.
#[derive(clap::Args)]
pub struct Import {
    /// A root directory, an archive of one (.tar, .tar.gz, .tar.zst), an OCI layout (a directory or an archive), or what
    /// `docker save` wrote.
    source: PathBuf,
    /// What actions call it, such as debian:12.
    name: String,
    #[command(flatten)]
    place: Place,
}

/// Flags of `mortar image list`.
#[derive(clap::Args)]
pub struct List {
    #[command(flatten)]
    place: Place,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `mortar image remove`.
#[derive(clap::Args)]
pub struct Remove {
    /// As `mortar image list` tells it.
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
struct Place {
    /// The data directory of `mortar up`, or the directory of `mortar worker` [default: `mortar` in the user's data
    /// directory].
    #[arg(long, env = "MORTAR_DIR", value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

impl Place {
    fn images(self) -> anyhow::Result<Images> {
        let directory = self.dir.map_or_else(default_directory, Ok)?;
        Ok(Images::new(directory.join("images")))
    }
}

/// Does what was asked for.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Import(Import { source, name, place }) => {
            let imported = place.images()?.import(&source, &name)?;
            if imported.skipped > 0 {
                eprintln!("{} devices, pipes and sockets were left out", imported.skipped);
            }
            println!("{}@sha256:{}", imported.name, imported.digest);
        }
        Command::List(List { place, json }) => list(&place.images()?, json)?,
        Command::Remove(Remove { name, place }) => place.images()?.remove(&name)?,
    }
    Ok(())
}

fn list(images: &Images, as_json: bool) -> anyhow::Result<()> {
    let all = images.list()?;
    if as_json {
        let all: Vec<_> =
            all.iter().map(|(name, digest)| json!({ "name": name, "sha256": digest })).collect();
        println!("{}", serde_json::to_string(&all)?);
        return Ok(());
    }
    all.iter().for_each(|(name, digest)| println!("{name}@sha256:{digest}"));
    Ok(())
}
