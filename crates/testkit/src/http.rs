//! A bare HTTP/1.1 client, one request a connection: enough to speak Bazel's HTTP cache without any of our own code
//! at the other end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

const LIMIT: Duration = Duration::from_secs(30);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// `PUT path`. An error is a connection that broke before the whole answer.
pub fn put(address: &str, path: &str, body: &[u8]) -> Result<Answer> {
    request(address, "PUT", path, body)
}

/// `GET path`.
pub fn get(address: &str, path: &str) -> Result<Answer> {
    request(address, "GET", path, &[])
}

/// Any other method.
pub fn request(address: &str, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    send(address, method, path, "", body)
}

/// What Bazel sends: its cache takes the values of `/ac/` of nobody else for action results.
pub fn bazel(address: &str, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    send(address, method, path, "User-Agent: bazel/4.2.3\r\n", body)
}

/// `more` holds whole lines of the head.
fn send(address: &str, method: &str, path: &str, more: &str, body: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}Content-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).with_context(|| format!("{method} {path}: no whole HTTP answer in {} bytes", answer.len()))
}

/// `None` when head or body are not whole.
fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let body = &answer[end + 4..];
    let body = match header("transfer-encoding") {
        Some("chunked") => unchunk(body)?,
        _ => match header("content-length") {
            Some(length) => body.get(..length.parse().ok()?)?.to_vec(),
            None => body.to_vec(),
        },
    };
    Some(Answer { status, body })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + length)?);
        rest = rest.get(line + length + 4..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed_only_when_whole() {
        let table: &[(&str, Option<(u16, &str)>)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", Some((200, "ab"))),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Some((404, ""))),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
                Some((200, "abc")),
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", None),
            ("HTTP/1.1 200", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|(status, body)| Answer { status, body: body.into() });
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }
}
