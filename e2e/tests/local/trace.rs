//! One trace per run: operator and worker speak of a run under the id in its status, linked to the runs it was made from.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::client;
use crate::plane::Plane;
use crate::source::Source;

/// What a collector keeps of a span.
#[derive(Clone, Debug, Default)]
struct Span {
    service: String,
    name: String,
    trace: String,
    links: Vec<String>,
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn a_run_is_one_trace_linked_to_those_of_its_inputs() {
    let (endpoint, spans) = collect();
    let source = Source::new();
    let plane = Plane::new(&source);
    plane.ok(&["up", "--otlp-endpoint", &endpoint]);
    plane.apply();
    let trace = |object: &str| {
        let object = plane.json(&["get", object]);
        object["status"]["traceId"].as_str().unwrap().to_owned()
    };
    let objects = [
        "dset/docs",
        "dset/pairs",
        "pj/base",
        "ft/tuned",
        "eval/scores",
        "mdeploy/chat",
    ];
    let traces: BTreeMap<&str, String> = objects.map(|name| (name, trace(name))).into();
    let distinct: BTreeSet<&String> = traces.values().collect();
    assert_eq!(distinct.len(), objects.len(), "{traces:?}");
    let body = client::chat("chat", "Say number 7", 4, false);
    let answer = client::post(&plane.url("chat"), "/v1/chat/completions", &body).unwrap();
    assert_eq!(answer.status, 200);
    // What is left is sent at the end of each process.
    plane.ok(&["down"]);

    let spans = spans.lock().unwrap().clone();
    for (object, trace) in &traces {
        let own: Vec<&Span> = spans.iter().filter(|span| span.trace == *trace).collect();
        for (service, name) in [("bessemer-local", "reconcile"), ("bessemer-worker", "run")] {
            let found = own
                .iter()
                .any(|span| span.service == service && span.name == name);
            assert!(
                found,
                "{object}: no {name} of {service} in trace {trace}: {own:?}"
            );
        }
    }
    let served = spans
        .iter()
        .any(|span| span.name == "completion" && span.trace == traces["mdeploy/chat"]);
    assert!(served, "no completion in the trace of its Deployment");
    for (object, inputs) in [
        ("dset/pairs", vec!["dset/docs"]),
        ("pj/base", vec!["dset/docs"]),
        ("ft/tuned", vec!["pj/base", "dset/pairs"]),
        ("eval/scores", vec!["ft/tuned", "pj/base", "dset/pairs"]),
        ("mdeploy/chat", vec!["ft/tuned"]),
    ] {
        let own = spans.iter().filter(|span| span.trace == traces[object]);
        let links: BTreeSet<&String> = own.flat_map(|span| &span.links).collect();
        for input in inputs {
            assert!(
                links.contains(&traces[input]),
                "{object} is not linked to {input}"
            );
        }
    }
}

/// A collector of OTLP over HTTP; ends with the test's process.
fn collect() -> (String, Arc<Mutex<Vec<Span>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
    let kept = spans.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kept = kept.clone();
            std::thread::spawn(move || while receive(&stream, &kept).is_some() {});
        }
    });
    (endpoint, spans)
}

/// One request; `None` at the end of the connection.
fn receive(mut stream: &TcpStream, kept: &Mutex<Vec<Span>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    kept.lock().unwrap().extend(spans(&body));
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
        )
        .ok()
}

/// The spans of an ExportTraceServiceRequest (opentelemetry/proto/trace/v1/trace.proto; the numbers are its fields).
fn spans(request: &[u8]) -> Vec<Span> {
    let mut all = Vec::new();
    for resource_spans in field(request, 1) {
        let attributes = field(resource_spans, 1)
            .into_iter()
            .flat_map(|r| field(r, 1));
        let service = attributes
            .filter(|attribute| text(attribute, 1) == "service.name")
            .flat_map(|attribute| field(attribute, 2))
            .map(|value| text(value, 1))
            .next()
            .unwrap_or_default();
        let scopes = field(resource_spans, 2);
        for span in scopes.into_iter().flat_map(|scope| field(scope, 2)) {
            all.push(Span {
                service: service.clone(),
                name: text(span, 5),
                trace: hexadecimal(span),
                links: field(span, 13).into_iter().map(hexadecimal).collect(),
            });
        }
    }
    all
}

fn text(message: &[u8], number: u64) -> String {
    let found = field(message, number).into_iter().next();
    String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
}

/// Field 1 of a span or a link: its trace.
fn hexadecimal(message: &[u8]) -> String {
    let found = field(message, 1).into_iter().next().unwrap_or_default();
    found.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All values of a length-delimited field of a protobuf message.
fn field(message: &[u8], number: u64) -> Vec<&[u8]> {
    let (mut rest, mut found) = (message, Vec::new());
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let value = match key & 7 {
            0 => {
                varint(&mut rest);
                &[]
            }
            1 => take(&mut rest, 8),
            5 => take(&mut rest, 4),
            2 => {
                let length = varint(&mut rest);
                take(&mut rest, usize::try_from(length).unwrap())
            }
            other => panic!("wire type {other}"),
        };
        if key >> 3 == number {
            found.push(value);
        }
    }
    found
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (value, after) = rest.split_at(count);
    *rest = after;
    value
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)[0];
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            break;
        }
    }
    value
}
