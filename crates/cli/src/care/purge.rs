//! `mortar purge`: removes what must not be served any more.

use super::{counted, failed, owner};
use crate::{settings::StoreFlags, units::Span};
use anyhow::Context;
use mortar_model::{ActionKey, Digest, DigestFunction, InstanceName};
use mortar_wire::{
    admin::{Action, Blob, PurgeRequest, PurgeResponse, purge_request::Selection},
    digest_to_wire, function_to_wire, timestamp_to_wire,
};
use std::time::SystemTime;

/// Flags of `mortar purge`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    selected: Selected,
    /// The function of `--digest` and `--action`: sha256 or blake3.
    #[arg(long, value_name = "FUNCTION", default_value = "sha256", value_parser = function)]
    digest_function: DigestFunction,
    /// Remove nothing; only tell what would go.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Selected {
    /// A blob, and every action result that cannot be used without it.
    #[arg(long, value_name = "HASH/SIZE", value_parser = hash_and_size)]
    digest: Option<Digest>,
    /// What is known of one action, in all instances.
    #[arg(long, value_name = "HASH", value_parser = hash)]
    action: Option<ActionKey>,
    /// All results and values of an instance; `""` is the one without a name.
    #[arg(long, value_name = "NAME", value_parser = instance)]
    instance: Option<String>,
    /// Results and values that were put longer ago than this, such as 7d.
    #[arg(long, value_name = "DURATION")]
    older_than: Option<Span>,
    /// Results that a worker made, by its name.
    #[arg(long, value_name = "NAME", value_parser = name)]
    worker: Option<String>,
    /// Results and values that an invocation put, by its id.
    #[arg(long, value_name = "ID", value_parser = name)]
    invocation: Option<String>,
}

fn function(text: &str) -> Result<DigestFunction, String> {
    text.parse().map_err(|_| format!("`{text}` is no digest function; expected sha256 or blake3"))
}

fn hash(text: &str) -> Result<ActionKey, String> {
    // The spelling is the same for all functions.
    ActionKey::parse(DigestFunction::Sha256, text).map_err(|error| error.to_string())
}

fn hash_and_size(text: &str) -> Result<Digest, String> {
    let parts = text.split_once('/').and_then(|(hash, size)| Some((hash, size.parse().ok()?)));
    let (hash, size) = parts.ok_or_else(|| format!("`{text}` is no digest; expected HASH/SIZE"))?;
    Digest::parse(DigestFunction::Sha256, hash, size).map_err(|error| error.to_string())
}

fn instance(text: &str) -> Result<String, String> {
    InstanceName::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// An empty one would select all whose maker is not known.
fn name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected a name".into()) } else { Ok(text.to_owned()) }
}

impl Selected {
    fn to_wire(&self, function: DigestFunction) -> Option<Selection> {
        let digest_function = function_to_wire(function).into();
        let blob = self
            .digest
            .map(|digest| Selection::Blob(Blob { digest_function, digest: Some(digest_to_wire(digest)) }));
        let action =
            self.action.map(|action| Selection::Action(Action { digest_function, hash: action.hex() }));
        let age = self.older_than.map(|age| {
            let before = SystemTime::now().checked_sub(age.0).unwrap_or(SystemTime::UNIX_EPOCH);
            Selection::PutBefore(timestamp_to_wire(before))
        });
        blob.or(action)
            .or(age)
            .or_else(|| self.instance.clone().map(Selection::Instance))
            .or_else(|| self.worker.clone().map(Selection::Worker))
            .or_else(|| self.invocation.clone().map(Selection::Invocation))
    }
}

/// Purges, and tells how much went.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let selection = arguments.selected.to_wire(arguments.digest_function);
    let dry_run = arguments.dry_run;
    let selection = Some(selection.context("nothing is selected")?);
    let mut owner = owner(arguments.store, None).await?;
    let purged = owner.purge(PurgeRequest { selection, dry_run }).await.map_err(failed)?.into_inner();
    let PurgeResponse { blobs, action_results, values } = purged;
    if arguments.json {
        let told = serde_json::json!({
            "dry_run": dry_run, "blobs": blobs, "action_results": action_results, "values": values,
        });
        println!("{told}");
        return Ok(());
    }
    println!(
        "{} {}, {}, {}",
        if dry_run { "would purge" } else { "purged" },
        counted(blobs, "blob"),
        counted(action_results, "action result"),
        counted(values, "value")
    );
    Ok(())
}
