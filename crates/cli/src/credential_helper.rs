//! `mortar credential-helper`: our sources of credentials as a helper that Bazel itself calls, and logging in to them.

use anyhow::{Context, bail};
use http::{Method, Uri};
use mortar_remote::credentials::{Config, Invitation, Prompt, Question, answer};
use std::{
    ffi::OsString,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The name under which the binary is this command, for Bazel, which calls a helper with `get` alone.
const NAME: &str = "mortar-credential-helper";
/// More than any question has.
const LONGEST_QUESTION: u64 = 64 << 10;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Answer Bazel: reads {"uri": ...} from stdin and prints the headers for it.
    ///
    /// Bazel calls a helper with `get` alone, so give it a link named `mortar-credential-helper` that leads to `mortar`:
    /// --credential_helper=*.example.com=/path/to/mortar-credential-helper
    Get(Source),
    /// Fetch credentials for an address and tell whether that works; with the device flow, log in.
    Login {
        /// The address, such as https://cache.example.com.
        uri: String,
        #[command(flatten)]
        source: Source,
    },
}

/// Flags of both.
#[derive(clap::Args)]
pub struct Source {
    /// The sources of credentials [default: ~/.config/mortar/credentials.toml].
    #[arg(long, value_name = "FILE", env = "MORTAR_CREDENTIALS")]
    config: Option<PathBuf>,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let prompt: Prompt = Arc::new(|Invitation { page, code }| {
        eprintln!("To let Mortar in, open {page} and enter the code {code}");
    });
    match command {
        Command::Get(source) => {
            let question = question()?;
            let wallet = source.read()?.wallet(Some(&prompt))?;
            let (headers, expires) = wallet.headers(&Method::GET, &address(&question.uri)?).await?;
            println!("{}", answer(&headers, expires)?.expose());
        }
        Command::Login { uri, source } => {
            let wallet = source.read()?.wallet(Some(&prompt))?;
            let (headers, _) = wallet.headers(&Method::GET, &address(&uri)?).await?;
            if headers.is_empty() {
                bail!("no source of credentials is for `{uri}`");
            }
            let names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
            eprintln!("There are credentials for {uri}: {}", names.join(", "));
        }
    }
    Ok(())
}

impl Source {
    fn read(&self) -> anyhow::Result<Config> {
        match &self.config {
            Some(path) => read(path),
            None => read(&usual_place().context("there is no home directory; name the file with --config")?),
        }
    }
}

/// The sources of credentials that are used where none are named, if there are any.
pub fn usual() -> anyhow::Result<Option<Config>> {
    usual_place().filter(|path| path.exists()).map(|path| read(&path)).transpose()
}

/// The sources of credentials in this file.
pub fn read(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the sources of credentials `{}`", path.display()))?;
    parse(&text, path)
}

/// What is wrong is told without the line that it stands in, which may hold a secret.
fn parse(text: &str, path: &Path) -> anyhow::Result<Config> {
    toml::from_str(text).map_err(|error| {
        let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
        let line = before.lines().count().max(1);
        anyhow::anyhow!("`{}`, near line {line}: {}", path.display(), error.message())
    })
}

fn usual_place() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let configuration = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    configuration.map(|directory| directory.join("mortar/credentials.toml"))
}

fn question() -> anyhow::Result<Question> {
    let mut text = String::new();
    std::io::stdin().take(LONGEST_QUESTION).read_to_string(&mut text).context("reading the question")?;
    serde_json::from_str(&text).context("the question on stdin is not {\"uri\": \"...\"}")
}

fn address(uri: &str) -> anyhow::Result<Uri> {
    let parsed = uri.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
    parsed.with_context(|| format!("`{uri}` is no address with a host"))
}

/// The arguments of this process. Called by the helper's name, it is the helper.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<OsString> = given.into_iter().collect();
    if given.first().is_some_and(|name| Path::new(name).file_name().is_some_and(|name| name == NAME)) {
        given.insert(1, "credential-helper".into());
    }
    given
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_name_makes_the_helper() {
        let of = |given: &[&str]| arguments(given.iter().map(OsString::from));
        assert_eq!(of(&["/bin/mortar-credential-helper", "get"])[1..], ["credential-helper", "get"]);
        assert_eq!(of(&["/bin/mortar", "get"])[1..], ["get"]);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn files() {
        let path = Path::new("/c.toml");
        let text = "[[credentials]]\nhosts = [\"*.example.com\"]\nkind = \"token-file\"\nfile = \"/t\"\n";
        assert_eq!(parse(text, path).unwrap().credentials.len(), 1);
        let wrong =
            "[[credentials]]\nhosts = [\"a\"]\nkind = \"headers\"\nheaders = { a = \"hush\" }\nextra = 1\n";
        let error = parse(wrong, path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`/c.toml`") && error.contains("extra") && !error.contains("hush"), "{error}");
    }
}
