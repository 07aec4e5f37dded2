//! `cargo xtask netbench`: what the companion is good for, measured with a real Bazel 4.2.3 over slow networks.
//!
//! Each measured build is a clean one (`bazel clean` before it) by a Bazel server that is warm. [`site`] is what stands
//! between Bazel and the other end: a `mortar up`, the slow network of `testkit` before it, and maybe a companion on this
//! side of it. [`workload`] is what is built, [`scenarios`] in which order and over which networks, [`report`] what is
//! printed. A build that does not do what its row says (a hit that is none, say) ends the whole with an error.

mod lost;
mod report;
mod scenarios;
mod site;
mod workload;

use anyhow::Result;
use clap::ValueEnum;
use report::Report;
use std::path::PathBuf;

/// Flags of `cargo xtask netbench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The `mortar` to measure [default: a release build of this checkout].
    #[arg(long, value_name = "PATH")]
    mortar: Option<PathBuf>,
    /// Measure only this; may be given more than once.
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Scenario>,
    /// Fewer networks and smaller workspaces, to see that it works.
    #[arg(long)]
    quick: bool,
    /// Print JSON in place of tables.
    #[arg(long)]
    json: bool,
    /// The genrules of `actions` [default: 200].
    #[arg(long, value_name = "N")]
    actions: Option<u32>,
    /// The files of `outputs` [default: 11000].
    #[arg(long, value_name = "N")]
    outputs: Option<u32>,
    /// The genrules of `lookups` [default: 2000].
    #[arg(long, value_name = "N")]
    lookups: Option<u32>,
    /// The genrules of `lost` [default: 100].
    #[arg(long, value_name = "N")]
    lost: Option<u32>,
    /// How often each build of `mixed` and `actions` is measured; what is told is the median.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Bazel's --jobs, but in `lost`.
    #[arg(long, value_name = "N", default_value_t = 8)]
    jobs: u32,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// The mixed workspace of the tests over each network, built in each way.
    Mixed,
    /// Independent small genrules over each network, built in each way.
    Actions,
    /// A chain of 10 genrules at 100 ms.
    Chain,
    /// One action with very many outputs of 2 KiB at 50 ms.
    Outputs,
    /// Very many cached actions at 0 and at 100 ms.
    Lookups,
    /// Actions whose server is lost in the midst, against a build without one.
    Lost,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    quick: bool,
    actions: u32,
    outputs: u32,
    lookups: u32,
    lost: u32,
    jobs: u32,
    rounds: u32,
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    crate::setup::bazel()?;
    let program = match &arguments.mortar {
        // Processes are started in directories of their own.
        Some(path) => path.canonicalize()?,
        None => {
            say("building mortar (release)");
            crate::release::binary()?
        }
    };
    let size =
        |given: Option<u32>, usual, quick| given.unwrap_or(if arguments.quick { quick } else { usual });
    let sizes = Sizes {
        quick: arguments.quick,
        actions: size(arguments.actions, 200, 20),
        outputs: size(arguments.outputs, scenarios::OUTPUTS, 500),
        lookups: size(arguments.lookups, scenarios::LOOKUPS, 100),
        lost: size(arguments.lost, lost::LOST, 20),
        jobs: arguments.jobs,
        rounds: arguments.rounds,
    };
    let asked = match arguments.only.as_slice() {
        [] => Scenario::value_variants(),
        only => only,
    };
    let mut report = Report::begin(&program)?;
    for scenario in asked {
        report.add(scenarios::measure(*scenario, &program, sizes)?);
    }
    report.end();
    match arguments.json {
        true => println!("{:#}", report.json()),
        false => print!("{}", report.markdown()),
    }
    Ok(())
}

fn say(line: &str) {
    eprintln!("netbench: {line}");
}
