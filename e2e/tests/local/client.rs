//! A client of the OpenAI API over plain sockets: owns reading an answer to its very end. It must not judge it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// The last chunk arrived, so nothing was cut.
    pub whole: bool,
}

impl Answer {
    pub fn digest(&self) -> &str {
        self.headers
            .get("x-bessemer-digest")
            .map_or("", String::as_str)
    }
}

pub fn chat(model: &str, prompt: &str, tokens: u32, stream: bool) -> Value {
    json!({
        "model": model, "stream": stream, "max_tokens": tokens,
        "messages": [{"role": "user", "content": prompt}]
    })
}

/// Sends `body` to `url` and reads until the server closes.
pub fn post(url: &str, path: &str, body: &Value) -> std::io::Result<Answer> {
    ask(url, &format!("POST {path}"), &body.to_string())
}

/// Reads what is at `url`.
pub fn get(url: &str, path: &str) -> std::io::Result<Answer> {
    ask(url, &format!("GET {path}"), "")
}

fn ask(url: &str, what: &str, body: &str) -> std::io::Result<Answer> {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "{what} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    let seen = String::from_utf8_lossy(&bytes).into_owned();
    ended.map_err(|error| std::io::Error::other(format!("{error} after {seen:?}")))?;
    parse(&bytes).ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {seen:?}")))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let (head, rest) = split(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers
        .get("transfer-encoding")
        .is_some_and(|h| h == "chunked");
    let (body, whole) = if chunked {
        dechunk(rest)
    } else {
        let length: Option<usize> = headers.get("content-length").and_then(|l| l.parse().ok());
        (rest.to_owned(), length == Some(rest.len()))
    };
    Some(Answer {
        status,
        headers,
        // Bytes that are no text count as a cut: JSON has none.
        whole: whole && std::str::from_utf8(&body).is_ok(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let found = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..found], &bytes[found + at.len()..]))
}

/// The body of a chunked answer, and whether its end was seen.
fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some((size, after)) = split(rest, b"\r\n") {
        let size = std::str::from_utf8(size).ok();
        let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
            break;
        };
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = after.get(..size) else {
            break;
        };
        body.extend_from_slice(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    (body, false)
}

#[test]
fn a_cut_answer_is_seen() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = parse(format!("{head}3\r\nabc\r\n0\r\n\r\n").as_bytes()).unwrap();
    assert_eq!((whole.body.as_str(), whole.whole), ("abc", true));
    for cut in ["3\r\nabc\r\n", "3\r\nab"] {
        assert!(!parse(format!("{head}{cut}").as_bytes()).unwrap().whole);
    }
}
