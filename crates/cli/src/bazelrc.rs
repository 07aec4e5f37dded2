//! `mortar bazelrc`: the lines that point a Bazel at a server.

use crate::settings::DEFAULT_ADDRESS;

/// Flags of `mortar bazelrc`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The server: grpc://HOST:PORT or unix:PATH.
    #[arg(default_value_t = format!("grpc://{DEFAULT_ADDRESS}"))]
    url: String,
}

/// Prints the lines.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    mortar_server::bazelrc::check_url(&arguments.url)?;
    print!("{}", mortar_server::bazelrc::lines(&arguments.url));
    Ok(())
}
