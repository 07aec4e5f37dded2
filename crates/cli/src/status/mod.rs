//! `mortar status`: what a server is doing, once or again each second. What is told is in `show`.

mod screen;
mod show;

use crate::{ask::Server, settings::DEFAULT_ADDRESS};
use mortar_wire::introspection::{GetStatusRequest, introspection_client::IntrospectionClient};
use std::{
    io::{IsTerminal, Write},
    time::Duration,
};
use tokio::{signal::ctrl_c, time};

/// How often a watched server is asked.
const AGAIN: Duration = Duration::from_secs(1);
/// The largest answer that is taken: thousands of running actions.
const MAX_ANSWER: usize = 64 << 20;

/// Flags of `mortar status`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The server: grpc://HOST:PORT or unix:PATH.
    #[arg(default_value_t = format!("grpc://{DEFAULT_ADDRESS}"))]
    url: String,
    /// Ask again each second, until Ctrl-C: in place on a terminal, one below the other elsewhere.
    #[arg(long)]
    watch: bool,
    /// Print JSON, one document a line.
    #[arg(long)]
    json: bool,
}

/// Tells what the server does.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let server = Server::at(&arguments.url)?;
    let first = ask(&server, &arguments).await?;
    if !arguments.watch {
        print!("{first}");
        return Ok(());
    }
    if std::io::stdout().is_terminal() && !arguments.json {
        return screen::watch(first, || ask(&server, &arguments)).await;
    }
    tokio::select! {
        watched = watch(&server, &arguments, first) => watched,
        interrupted = ctrl_c() => Ok(interrupted?),
    }
}

async fn ask(server: &Server, arguments: &Arguments) -> anyhow::Result<String> {
    let mut client = IntrospectionClient::new(server.channel()).max_decoding_message_size(MAX_ANSWER);
    let status = server.answer(client.get_status(GetStatusRequest {})).await?;
    Ok(if arguments.json {
        format!("{}\n", show::json(&status)?)
    } else {
        show::text(&arguments.url, &status)
    })
}

/// One below the other. A server that goes away meanwhile is asked again: it may be restarted.
async fn watch(server: &Server, arguments: &Arguments, first: String) -> anyhow::Result<()> {
    let mut block = first;
    let mut out = std::io::stdout();
    loop {
        out.write_all(block.as_bytes())?;
        out.flush()?;
        time::sleep(AGAIN).await;
        block = match ask(server, arguments).await {
            Ok(block) if arguments.json => block,
            Ok(block) => format!("\n{block}"),
            Err(error) => {
                eprintln!("{error:#}");
                String::new()
            }
        };
    }
}
