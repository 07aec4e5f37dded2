//! The lines that point a Bazel at a server.

use mortar_model::{Error, Result};

/// The lines for a `.bazelrc`, for a server at `grpc://HOST:PORT` or `unix:PATH`.
pub fn lines(url: &str) -> String {
    format!(
        "# Bazel runs its actions on Mortar, and shares results through it:\n\
         build --remote_executor={url}\n\
         # Only share results; actions run here (instead of the line above):\n\
         # build --remote_cache={url}\n\
         # Worth having with either: actions that do not see this machine's PATH, and no needless downloads.\n\
         build --incompatible_strict_action_env\n\
         # build --remote_download_toplevel\n"
    )
}

/// Checks that Bazel will understand the address.
pub fn check_url(url: &str) -> Result<()> {
    let refuse = |why: &str, hint: &str| {
        let message = format!("`{url}` {why}; expected grpc://HOST:PORT or unix:PATH");
        let error = Error::invalid("url", message);
        Err(if hint.is_empty() { error } else { error.hint(hint.to_owned()) })
    };
    if let Some(path) = url.strip_prefix("unix:") {
        return if path.is_empty() { refuse("names no path", "") } else { Ok(()) };
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        let guess = format!("grpc://{url}");
        let hint = if check_url(&guess).is_ok() { format!("perhaps {guess}") } else { String::new() };
        return refuse("has no scheme", &hint);
    };
    match scheme {
        "grpc"
            if rest
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
        {
            Ok(())
        }
        "grpc" => refuse("has no host and port", ""),
        "grpcs" | "https" => refuse("asks for TLS, which this server does not speak", ""),
        "http" => refuse("is the HTTP cache, which does not execute", &format!("grpc://{rest}")),
        _ => refuse("has an unknown scheme", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for good in ["grpc://127.0.0.1:8980", "unix:/run/m.sock", "grpc://[::1]:80"] {
            check_url(good).unwrap();
        }
        for bad in
            ["127.0.0.1:8980", "grpc://", "grpc://host", "http://h:1", "grpcs://h:1", "unix:", "ftp://h:1"]
        {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
