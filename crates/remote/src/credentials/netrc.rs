//! `.netrc`: names and passwords by host.

use super::{Credentials, Grant, LOOK_AGAIN, Secret, bearer::authorization, files};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use mortar_model::{Error, Result};
use std::path::PathBuf;

/// `Authorization: Basic` for the hosts that the file names. A file that is not there names none.
#[derive(Debug)]
pub struct Netrc {
    path: PathBuf,
}

impl Netrc {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file that `NETRC` names, else `.netrc` in the user's home.
    pub fn of_user() -> Result<Self> {
        let named = std::env::var_os("NETRC").filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = named.or_else(|| files::home().map(|home| home.join(".netrc")));
        path.map(Self::new).ok_or_else(|| {
            Error::invalid("netrc", "neither `NETRC` nor `HOME` is set, so there is no `.netrc` to be found")
        })
    }
}

#[async_trait]
impl Credentials for Netrc {
    fn name(&self) -> String {
        format!("the netrc file `{}`", self.path.display())
    }

    async fn grant(&self, uri: &Uri) -> Result<Grant> {
        let text = match files::read("the netrc file", &self.path).await {
            Ok(text) => text,
            Err(error) if files::is_absent(&error) => return Ok(Grant::nothing()),
            Err(error) => return Err(error),
        };
        let Some(entry) = entry(&text, uri.host().unwrap_or_default()) else { return Ok(Grant::nothing()) };
        let pair = format!("{}:{}", entry.login, entry.password);
        let proof = authorization("Basic", &Secret::new(STANDARD.encode(pair)), "the password")?;
        Ok(Grant { proof, expires: None, look_again: Some(LOOK_AGAIN) })
    }
}

struct Entry {
    login: String,
    password: String,
}

/// The first entry for `host`, or the default one.
fn entry(text: &str, host: &str) -> Option<Entry> {
    let mut words = words(text).into_iter().peekable();
    while let Some(word) = words.next() {
        let is_meant = match word.as_str() {
            "machine" => words.next()?.eq_ignore_ascii_case(host),
            "default" => true,
            _ => continue,
        };
        let mut entry = Entry { login: String::new(), password: String::new() };
        while let Some(key) = words.next_if(|word| word != "machine" && word != "default") {
            match key.as_str() {
                "login" => entry.login = words.next()?,
                "password" => entry.password = words.next()?,
                "account" => drop(words.next()?),
                _ => {}
            }
        }
        if is_meant {
            return Some(entry);
        }
    }
    None
}

/// The words of the file: quoted ones may hold spaces; comments and macros are left out.
fn words(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (word, after) = word(rest);
            if word == "macdef" {
                // A macro ends with an empty line.
                lines.find(|line| line.trim().is_empty());
                break;
            }
            all.push(word);
            rest = after.trim_start();
        }
    }
    all
}

fn word(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut word = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (word, &quoted[at + 1..]),
            '\\' => word.extend(chars.next().map(|(_, c)| c)),
            c => word.push(c),
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let text = "# mine\nmachine a.example login anna password one # work\n\
            machine b.example\n  login \"b ob\"\n  account x\n  password \"q\\\"uo te\"\n\
            macdef init\n  machine c.example login never password never\n\n\
            machine token.example password only\n\
            default login guest password guest";
        let found = |host| entry(text, host).map(|entry| (entry.login, entry.password));
        for (host, login, password) in [
            ("a.example", "anna", "one"),
            ("A.Example", "anna", "one"),
            ("b.example", "b ob", "q\"uo te"),
            ("c.example", "guest", "guest"),
            ("token.example", "", "only"),
        ] {
            assert_eq!(found(host), Some((login.into(), password.into())), "{host}");
        }
        assert!(entry("machine a login", "a").is_none());
        assert!(entry("machine a login x password y", "b").is_none());
        assert!(entry("", "a").is_none());
    }
}
