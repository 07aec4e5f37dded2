//! What an action requires, read from its messages in the CAS, and whether its inputs are there: what is missing is told
//! before the action is queued.

use crate::inputs::{Complete, Walk};
use async_trait::async_trait;
use mortar_model::{
    BlobStore, BlobStoreExt, Context, Digest, Error, Kind, Platform, Property, Result,
    action::{PERSISTENT_WORKER_KEY, PERSISTENT_WORKER_PROTOCOL},
};
use mortar_scheduler::{ActionRequirements, ActionSource, Need};
use mortar_services::limits::MAX_PROTO_BLOB;
use std::sync::Arc;

/// Reads Action and Command, and looks for the inputs.
pub(crate) struct StoredActions {
    blobs: Arc<dyn BlobStore>,
    complete: Arc<Complete>,
}

impl StoredActions {
    /// In a store; `complete` remembers what need not be looked for again.
    pub(crate) fn new(blobs: Arc<dyn BlobStore>, complete: Arc<Complete>) -> Self {
        Self { blobs, complete }
    }

    /// A message of the action; none if it is not there.
    async fn read(&self, context: &Context, digest: Digest) -> Result<Option<bytes::Bytes>> {
        match self.blobs.read_all(context, digest, MAX_PROTO_BLOB).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The property that names how many processors an action keeps busy, such as `4` or `0.5`.
const CPU_COUNT: &str = "cpu_count";
/// The property that names how much memory it needs, such as `512MiB`.
const MEMORY: &str = "memory";
/// The units of memory. One letter is binary, as containers and virtual machines have it.
const UNITS: [(&str, u64); 13] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
    ("B", 1),
];

/// Parts what is to be matched from what is to be reserved.
fn need_of(platform: Platform) -> Result<(Platform, Need)> {
    let mut need = Need::default();
    let mut rest = Vec::with_capacity(platform.properties.len());
    for property in platform.properties {
        let Property { name, value } = &property;
        match name.as_str() {
            CPU_COUNT => {
                let millis = amount(value).map(|count| (count * 1000.0).ceil());
                let refuse = || refuse(name, value, "a number of processors such as `4` or `0.5`");
                need.cpu_millis = need.cpu_millis.max(millis.and_then(whole).ok_or_else(refuse)?);
            }
            MEMORY => {
                let (number, unit) = match UNITS.iter().find(|(unit, _)| value.ends_with(unit)) {
                    Some((unit, factor)) => (value.trim_end_matches(unit), *factor),
                    None => (value.as_str(), 1),
                };
                let bytes = amount(number.trim_end()).map(|count| (count * unit as f64).ceil());
                let refuse =
                    || refuse(name, value, "a size such as `512MiB`, `4GiB` or `1.5G`, or a number of bytes");
                need.memory = need.memory.max(bytes.and_then(whole).ok_or_else(refuse)?);
            }
            // A matter of how, and different for every tool: no worker could announce it.
            PERSISTENT_WORKER_KEY | PERSISTENT_WORKER_PROTOCOL => {}
            _ => rest.push(property),
        }
    }
    Ok((Platform { properties: rest }, need))
}

/// A decimal number.
fn amount(text: &str) -> Option<f64> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|_| plain && !text.is_empty())
}

/// More than nothing, and not more than any machine will have.
fn whole(amount: f64) -> Option<u64> {
    (amount >= 1.0 && amount < (1_u64 << 60) as f64).then_some(amount as u64)
}

fn refuse(name: &str, value: &str, expected: &str) -> Error {
    let message = format!("the exec property `{name}` is `{value}`; expected {expected}");
    Error::invalid(format!("platform.{name}"), message)
}

#[async_trait]
impl ActionSource for StoredActions {
    async fn action(&self, context: &Context, action_digest: Digest) -> Result<ActionRequirements> {
        let Some(bytes) = self.read(context, action_digest).await? else {
            return Err(Error::new(Kind::MissingBlobs { missing: vec![action_digest] }));
        };
        let action = mortar_wire::decode_action(action_digest.function(), bytes)?;
        let command = self.read(context, action.command_digest).await?;
        let walk = Walk::new(&*self.blobs, context, &self.complete);
        let mut walk = match &command {
            None => walk.without(action.command_digest),
            Some(_) => walk,
        }
        .with_directory(action.input_root_digest);
        walk.go_on().await?;
        let (Some(command), None) = (command, walk.error()) else {
            return Err(walk.error().expect("something is missing"));
        };
        let command = mortar_wire::decode_command(command)?;
        // Since 2.2 the action's platform counts; older clients have it in the command alone.
        let (platform, need) = need_of(action.platform.or(command.platform).unwrap_or_default())?;
        Ok(ActionRequirements { platform, need, do_not_cache: action.do_not_cache, timeout: action.timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = [(&'static str, &'static str)];

    fn of(pairs: &Pairs) -> Result<(Platform, Need)> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        need_of(Platform::new(pairs))
    }

    #[test]
    fn needs_are_read_and_not_matched() {
        let cases: [(&Pairs, u64, u64); 9] = [
            (&[("persistentWorkerKey", "k"), ("persistentWorkerProtocol", "json")], 0, 0),
            (&[("OSFamily", "Linux")], 0, 0),
            (&[("cpu_count", "4")], 4_000, 0),
            (&[("cpu_count", "0.5"), ("memory", "1024")], 500, 1_024),
            (&[("memory", "512MiB")], 0, 512 << 20),
            (&[("memory", "1.5G")], 0, 3 << 29),
            (&[("memory", "2 GB")], 0, 2_000_000_000),
            (&[("memory", "7KB"), ("memory", "7KiB")], 0, 7_168),
            (&[("memory", "3B")], 0, 3),
        ];
        for (pairs, cpu_millis, memory) in cases {
            let (platform, need) = of(pairs).unwrap();
            assert_eq!(need, Need { cpu_millis, memory }, "{pairs:?}");
            assert!(platform.properties.iter().all(|property| property.name == "OSFamily"));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_could_be() {
        for (name, value) in [
            ("cpu_count", ""),
            ("cpu_count", "0"),
            ("cpu_count", "four"),
            ("cpu_count", "-1"),
            ("cpu_count", "inf"),
            ("cpu_count", "1e30"),
            ("memory", ""),
            ("memory", "0GiB"),
            ("memory", "GiB"),
            ("memory", "4 gigabytes"),
            ("memory", "99999999TiB"),
        ] {
            let error = of(&[(name, value)]).unwrap_err().to_string();
            let begins = format!("the exec property `{name}` is `{value}`; expected a ");
            assert!(error.starts_with(&begins), "{error}");
        }
    }
}
