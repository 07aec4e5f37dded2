//! Commands of developers and CI: `cargo xtask NAME`.

mod badnet;
mod codegen;
mod conformance;
mod demo;
mod fuzz;
mod loadbench;
mod netbench;
mod release;
mod setup;
mod test;

use clap::Parser;

/// Developer and CI commands of Mortar.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Command {
    /// Put a bad network between a client and a server: latency, a rate, loss, resets, black holes, flaps.
    Badnet(badnet::Arguments),
    /// Generate the Rust types of the protocols from the `.proto` files of `wire`.
    Codegen {
        /// Write nothing; fail if the checked-in code differs from what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Put a live server, of whatever make, to the conformance suite.
    Conformance(conformance::Arguments),
    /// Feed parsers mutated input: zstd frames, seek tables, resource names.
    Fuzz(fuzz::Arguments),
    /// Measure what a companion adds to calls, its start, its large reads, and the memory of streams that wait, as tables.
    Loadbench(loadbench::Arguments),
    /// Measure a real Bazel over slow networks, alone and with the companion, as tables.
    Netbench(netbench::Arguments),
    /// Install what the tests need: Debian packages, Bazel 2.1.0, BuildStream, Debian sources.
    Setup,
    /// Build a sample with a real Bazel on a Mortar of its own, twice, and tell what ran where.
    Demo,
    /// Everything that CI checks: formatting, generated code, lints, then all tests, having installed what they need.
    Test,
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Badnet(arguments) => badnet::run(&arguments),
        Command::Codegen { check } => codegen::run(check),
        Command::Conformance(arguments) => conformance::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Loadbench(arguments) => loadbench::run(&arguments),
        Command::Netbench(arguments) => netbench::run(&arguments),
        Command::Setup => setup::run(),
        Command::Demo => demo::run(),
        Command::Test => test::run(),
    }
}

/// The root of the checkout.
fn root() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/xtask lies two levels below the root").to_path_buf()
}
