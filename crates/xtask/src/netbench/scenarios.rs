//! Which builds are measured, in which order and over which networks.

use super::{
    Scenario, Sizes, lost,
    report::{Between, Kind, Table},
    say,
    site::{Expected, Site, Way},
    workload,
};
use anyhow::Result;
use mortar_testkit::{bazel::Bazel, network::Link};
use std::{path::Path, time::Duration};

/// What a table says of a build without a server.
const NO_NETWORK: &str = "none";
/// The links of the chain.
const CHAIN: u32 = 10;
/// How many outputs and look-ups the figures are about.
pub(super) const OUTPUTS: u32 = 11_000;
pub(super) const LOOKUPS: u32 = 2_000;

/// Measures one scenario.
pub(super) fn measure(scenario: Scenario, program: &Path, sizes: Sizes) -> Result<Table> {
    let bench = |bazel, title: String, about| Bench {
        program,
        bazel,
        jobs: format!("--jobs={}", sizes.jobs),
        is_whole: match scenario {
            Scenario::Outputs => sizes.outputs >= OUTPUTS,
            Scenario::Lookups => sizes.lookups >= LOOKUPS,
            Scenario::Mixed | Scenario::Actions | Scenario::Chain | Scenario::Lost => true,
        },
        table: Table::new(title, about),
    };
    let networks = if sizes.quick { vec![trips(0), trips(50)] } else { all_networks() };
    match scenario {
        Scenario::Lost => lost::measure(program, sizes),
        Scenario::Mixed => {
            let about = "The mixed workspace of the tests: genrules, a chain of five, C++, shell, Python, rules with \
                         directories, one output of 5 MB of one letter, which compresses to next to nothing.";
            bench(workload::mixed()?, "mixed".to_owned(), about).matrix(&networks, sizes.rounds)
        }
        Scenario::Actions => {
            let title = format!("actions: {} genrules", sizes.actions);
            bench(workload::independent(sizes.actions)?, title, "Small and independent.")
                .matrix(&networks, sizes.rounds)
        }
        Scenario::Chain => {
            let title = format!("chain: {CHAIN} genrules");
            bench(workload::chain(CHAIN)?, title, "Each needs the one before.").chain()
        }
        Scenario::Outputs => {
            let about = "One action makes a directory of different files of 2 KiB, which compress well.";
            let title = format!("outputs: {} files", sizes.outputs);
            bench(workload::outputs(sizes.outputs)?, title, about).outputs()
        }
        Scenario::Lookups => {
            let title = format!("lookups: {} genrules", sizes.lookups);
            bench(workload::independent(sizes.lookups)?, title, "Small and independent, all cached.")
                .lookups()
        }
    }
}

/// A network and what it is called.
struct Network {
    name: String,
    link: Link,
}

/// One on which a call and its answer take so long.
fn trips(milliseconds: u64) -> Network {
    let latency = Duration::from_millis(milliseconds) / 2;
    Network { name: format!("{milliseconds} ms"), link: Link::with_latency(latency) }
}

fn all_networks() -> Vec<Network> {
    let slow = Link { rate: Some(10_000_000 / 8), ..Link::default() };
    let mut networks: Vec<_> = [0, 20, 50, 100].map(trips).into();
    networks.push(Network { name: "10 Mbit/s".to_owned(), link: slow });
    networks
}

/// A Bazel on what is built, and what was measured so far.
struct Bench<'a> {
    program: &'a Path,
    bazel: Bazel,
    jobs: String,
    /// Whether what is built is as large as the figures ask.
    is_whole: bool,
    table: Table,
}

impl Bench<'_> {
    /// Every kind of build over every network, so many times, alone and with companions in turn.
    fn matrix(mut self, networks: &[Network], rounds: u32) -> Result<Table> {
        self.warm_up(&[Kind::Cold, Kind::Cached, Kind::CacheOnly])?;
        for _ in 0..rounds {
            self.local()?;
        }
        for network in networks {
            for _ in 0..rounds {
                self.alone(network)?;
                self.with_companions(network)?;
            }
        }
        Ok(self.table)
    }

    fn chain(self) -> Result<Table> {
        let network = trips(100);
        let name = network.name.clone();
        let mut table = self.matrix(&[network], 1)?;
        let seconds = |table: &Table, kind, between| table.seconds(&name, kind, between);
        let cold = seconds(&table, Kind::Cold, Between::New);
        table.figure("executed with a new companion, in seconds", 2.5, cold);
        let cached = seconds(&table, Kind::Cached, Between::New);
        let minimal = seconds(&table, Kind::Minimal, Between::Nothing);
        let what = "cached with a new companion, times what Bazel alone takes with minimal download";
        table.figure(what, 1.1, cached / minimal);
        Ok(table)
    }

    fn outputs(mut self) -> Result<Table> {
        self.warm_up(&[Kind::CacheOnly])?;
        self.local()?;
        let network = trips(50);
        // Over no network, it is what Bazel, the server and the disk take by themselves.
        for network in [&trips(0), &network] {
            let mut site = Site::start(self.program, &network.link)?;
            self.row(&mut site, network, Kind::CacheOnly, Between::Nothing)?;
            let mut site = Site::start(self.program, &network.link)?;
            site.new_companion()?;
            self.row(&mut site, network, Kind::CacheOnly, Between::New)?;
        }
        if !self.is_whole {
            return Ok(self.table);
        }
        let took = self.table.seconds(&network.name, Kind::CacheOnly, Between::New);
        let local = self.table.seconds(NO_NETWORK, Kind::Local, Between::Nothing);
        let what =
            "until Bazel is done, with a companion, in seconds beyond those of the build without a server";
        self.table.figure(what, 3.0, took - local);
        Ok(self.table)
    }

    fn lookups(mut self) -> Result<Table> {
        let (near, far) = (trips(0), trips(100));
        let mut site = Site::start(self.program, &near.link)?;
        say("filling the server");
        for kind in [Kind::CacheOnly, Kind::Cached] {
            site.fill(&self.bazel, &self.way(kind))?;
        }
        for network in [&near, &far] {
            site.no_companion();
            site.set_link(&network.link);
            self.row(&mut site, network, Kind::Cached, Between::Nothing)?;
            site.new_companion()?;
            self.row(&mut site, network, Kind::Cached, Between::New)?;
        }
        if !self.is_whole {
            return Ok(self.table);
        }
        let [over_none, far] =
            [&near, &far].map(|network| self.table.seconds(&network.name, Kind::Cached, Between::New));
        let what = "with a new companion at 100 ms, times what it takes at 0 ms";
        self.table.figure(what, 3.0, far / over_none);
        let what = "the same, where the server has seen the build before and tells what comes next, as here";
        self.table.figure(what, 1.3, far / over_none);
        Ok(self.table)
    }

    /// The first builds of a Bazel server are slow. They go to a server of their own.
    fn warm_up(&self, kinds: &[Kind]) -> Result<()> {
        say(&format!("{}: warming up", self.table.title()));
        for kind in kinds {
            let site = Site::start(self.program, &Link::default())?;
            if *kind == Kind::Cached {
                site.fill(&self.bazel, &self.way(Kind::Cold))?;
            }
            site.fill(&self.bazel, &self.way(*kind))?;
        }
        Ok(())
    }

    fn local(&mut self) -> Result<()> {
        let network = Network { name: NO_NETWORK.to_owned(), link: Link::default() };
        let mut site = Site::start(self.program, &network.link)?;
        self.row(&mut site, &network, Kind::Local, Between::Nothing)
    }

    fn alone(&mut self, network: &Network) -> Result<()> {
        let mut site = Site::start(self.program, &network.link)?;
        for kind in [Kind::Cold, Kind::Cached, Kind::Minimal] {
            self.row(&mut site, network, kind, Between::Nothing)?;
        }
        let mut site = Site::start(self.program, &network.link)?;
        self.row(&mut site, network, Kind::CacheOnly, Between::Nothing)
    }

    fn with_companions(&mut self, network: &Network) -> Result<()> {
        let mut site = Site::start(self.program, &network.link)?;
        for kind in [Kind::Cold, Kind::Cached, Kind::Minimal] {
            site.new_companion()?;
            self.row(&mut site, network, kind, Between::New)?;
            if kind == Kind::Cached {
                self.row(&mut site, network, kind, Between::Warm)?;
            }
        }
        let mut site = Site::start(self.program, &network.link)?;
        site.new_companion()?;
        self.row(&mut site, network, Kind::CacheOnly, Between::New)
    }

    fn row(&mut self, site: &mut Site, network: &Network, kind: Kind, between: Between) -> Result<()> {
        let sample = site.measure(&self.bazel, &self.way(kind))?;
        let title = self.table.title();
        say(&format!(
            "{title}, {}, {}, {}: {:.2} s",
            network.name,
            kind.name(),
            between.name(),
            sample.seconds()
        ));
        self.table.add(&network.name, kind, between, sample);
        Ok(())
    }

    /// Local actions run without a sandbox: what it takes to make one is not what is measured.
    fn way(&self, kind: Kind) -> Way {
        let (server_flag, flag, expected) = match kind {
            Kind::Local => (None, "--spawn_strategy=local", Expected::Local),
            Kind::Cold => (Some("--remote_executor"), "", Expected::Remote),
            Kind::Cached => (Some("--remote_executor"), "", Expected::Cached),
            Kind::Minimal => (Some("--remote_executor"), "--remote_download_minimal", Expected::Cached),
            Kind::CacheOnly => (Some("--remote_cache"), "--spawn_strategy=local", Expected::Local),
        };
        let flags = [self.jobs.as_str(), flag].into_iter().filter(|flag| !flag.is_empty());
        Way { server_flag, flags: flags.map(str::to_owned).collect(), expected }
    }
}
