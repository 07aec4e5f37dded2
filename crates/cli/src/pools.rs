//! Settings of the queue: which pools are known, what is matched, how long is waited for whom.

use crate::{
    settings::File,
    units::{Size, Span},
};
use anyhow::{Context, bail};
use mortar_model::{Platform, session::Capacity};
use mortar_server::{Abandoned, KnownPool, SchedulerConfig};
use serde::Deserialize;
use std::time::Duration;

/// Flags of the queue.
#[derive(clap::Args, Debug, Default)]
pub struct PoolFlags {
    /// How long an action may wait while the pool that could run it has no worker that takes work [default: 10min].
    #[arg(long, env = "MORTAR_POOL_TIMEOUT", value_name = "DURATION")]
    pool_timeout: Option<Span>,
    /// How long after the start an action that no known pool can run waits for one; later it is refused at once
    /// [default: 30s].
    #[arg(long, env = "MORTAR_START_GRACE", value_name = "DURATION")]
    start_grace: Option<Span>,
    /// What becomes of a running action that nobody waits for any more [default: finish-when-idle].
    #[arg(long, env = "MORTAR_ABANDONED", value_enum)]
    abandoned: Option<AbandonedFlag>,
    /// A property that is not matched: any value will do. May be repeated.
    #[arg(long = "ignore-property", value_name = "NAME")]
    ignore_properties: Vec<String>,
    /// A pool that is known even while it has no workers, as NAME:PROPERTY=VALUE,…; a property may be named with several
    /// values, and the value * stands for any. May be repeated.
    #[arg(long = "pool", value_name = "POOL", value_parser = pool)]
    pools: Vec<Pool>,
}

/// What becomes of a running action that nobody waits for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AbandonedFlag {
    /// It is stopped.
    Cancel,
    /// It may finish, for the cache, while its build goes on and nothing waits for its room.
    FinishWhenIdle,
}

/// A pool as a file has it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pool {
    name: String,
    /// `NAME=VALUE` each.
    #[serde(default)]
    properties: Vec<String>,
    /// Of its largest worker.
    cpus: Option<f64>,
    memory: Option<Size>,
}

impl PoolFlags {
    /// Puts flags, file and defaults together, and checks them.
    pub(crate) fn settle(self, file: &mut File, given: SchedulerConfig) -> anyhow::Result<SchedulerConfig> {
        let pool_timeout = self.pool_timeout.or(file.pool_timeout);
        if let Some(span) = pool_timeout.filter(|span| span.0 < Duration::from_secs(1)) {
            bail!("--pool-timeout is {span}; at least 1s is needed");
        }
        let or_of_file = |flags: Vec<String>, file: Option<Vec<String>>| match flags.is_empty() {
            true => file.unwrap_or_default(),
            false => flags,
        };
        let pools = if self.pools.is_empty() { file.pool.take().unwrap_or_default() } else { self.pools };
        let ignored = or_of_file(self.ignore_properties, file.ignore_property.take());
        let abandoned = self.abandoned.or(file.abandoned).map(|abandoned| match abandoned {
            AbandonedFlag::Cancel => Abandoned::Cancel,
            AbandonedFlag::FinishWhenIdle => Abandoned::FinishWhenIdle,
        });
        Ok(SchedulerConfig {
            max_unserved_time: pool_timeout.map_or(given.max_unserved_time, |span| span.0),
            start_grace: self.start_grace.or(file.start_grace).map_or(given.start_grace, |span| span.0),
            abandoned: abandoned.unwrap_or(given.abandoned),
            ignored_properties: ignored.into_iter().collect(),
            pools: pools.into_iter().map(Pool::known).collect::<anyhow::Result<_>>()?,
            ..given
        })
    }
}

impl Pool {
    fn known(self) -> anyhow::Result<KnownPool> {
        let of = || format!("pool `{}`", self.name);
        let cpus = self.cpus.map(|cpus| processors("cpus", cpus)).transpose().with_context(of)?;
        let pairs = self.properties.iter().map(|property| match property.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => bail!("{}: the property is `{property}`; expected NAME=VALUE", of()),
        });
        let platform = Platform::new(pairs.collect::<anyhow::Result<Vec<_>>>()?);
        let capacity =
            Capacity { cpu_millis: cpus.unwrap_or_default(), memory: self.memory.map_or(0, |size| size.0) };
        Ok(KnownPool { name: self.name, platform, capacity })
    }
}

/// `NAME:PROPERTY=VALUE,…`
fn pool(text: &str) -> Result<Pool, String> {
    let refuse = || format!("`{text}` is no pool; expected NAME:PROPERTY=VALUE,…");
    let (name, properties) = text.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(refuse)?;
    let properties: Vec<_> =
        properties.split(',').filter(|property| !property.is_empty()).map(str::to_owned).collect();
    if properties.iter().any(|property| property.find('=').is_none_or(|at| at == 0)) {
        return Err(refuse());
    }
    Ok(Pool { name: name.to_owned(), properties, cpus: None, memory: None })
}

/// A number of processors, in thousandths.
pub(crate) fn processors(setting: &str, count: f64) -> anyhow::Result<u64> {
    if !(0.001..=1_000_000.0).contains(&count) {
        bail!("{setting} is {count}; expected a number of processors, such as 4 or 1.5");
    }
    Ok((count * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_as_flags() {
        let known = pool("arm:os=linux,os=bsd,image=*").unwrap().known().unwrap();
        let pairs: Vec<_> =
            known.platform.properties.iter().map(|one| format!("{}={}", one.name, one.value)).collect();
        assert_eq!(
            (known.name.as_str(), pairs),
            ("arm", ["image=*", "os=bsd", "os=linux"].map(String::from).to_vec())
        );
        assert!(pool("any:").unwrap().known().unwrap().platform.properties.is_empty());
        for bad in ["", "arm", ":os=linux", "arm:os", "arm:=x"] {
            assert!(pool(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pools_as_a_file_has_them() {
        let text = "[[pool]]\nname = \"big\"\nproperties = [\"os=linux\"]\ncpus = 1.5\nmemory = \"2GiB\"";
        let mut file: File = toml::from_str(text).unwrap();
        let config = PoolFlags::default().settle(&mut file, SchedulerConfig::default()).unwrap();
        let capacity = Capacity { cpu_millis: 1500, memory: 2 << 30 };
        assert_eq!((config.pools.len(), config.pools[0].capacity), (1, capacity));
        for (text, needle) in [
            (
                "[[pool]]\nname = \"a\"\nproperties = [\"os\"]",
                "pool `a`: the property is `os`; expected NAME=VALUE",
            ),
            ("[[pool]]\nname = \"a\"\ncpus = 0.0", "pool `a`: cpus is 0; expected a number"),
            ("pool-timeout = \"0s\"", "--pool-timeout is 0s; at least 1s"),
        ] {
            let mut file: File = toml::from_str(text).unwrap();
            let error = PoolFlags::default().settle(&mut file, SchedulerConfig::default()).unwrap_err();
            assert!(format!("{error:#}").contains(needle), "{error:#}");
        }
    }
}
