//! Metrics as Prometheus reads them: of the operator, of a worker while it trains, of server and router.

use std::process::Stdio;
use std::time::Duration;

use crate::client;
use crate::plane::Plane;
use crate::process::until;
use crate::source::Source;

/// The sum of a metric's samples whose line holds `part`; `None` when there is none.
fn value(text: &str, name: &str, part: &str) -> Option<f64> {
    let samples = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(part)
    });
    let values: Vec<f64> = samples
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn scrape(url: &str) -> Option<String> {
    let answer = client::get(url, "/metrics").ok()?;
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    Some(answer.body)
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn operator_workers_server_and_router_tell_their_numbers() {
    let source = Source::new();
    let plane = Plane::new(&source);
    let said = plane.ok(&["up"]);
    let operator = said
        .lines()
        .find_map(|line| line.strip_prefix("Metrics of the operator: "))
        .and_then(|url| url.strip_suffix("/metrics"))
        .unwrap_or_else(|| panic!("{said}"))
        .to_owned();
    let mut follower = plane
        .command(&["apply", "-f", &plane.manifests()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let training = until(Duration::from_secs(120), || {
        let pods = plane.json(&["get", "pods", "-l", "bessemer.dev/kind=PretrainJob"]);
        let address = pods["items"][0]["status"]["podIP"].as_str()?.to_owned();
        let text = scrape(&format!("http://{address}:8081"))?;
        let steps = value(&text, "bessemer_worker_steps", "")?;
        (steps > 0.0 && value(&text, "bessemer_worker_loss", "")? > 0.0).then_some(text)
    });
    let training = training.expect("no worker told its steps and its loss");
    assert!(value(&training, "bessemer_worker_tokens_total", "") > Some(0.0));
    assert!(follower.wait().unwrap().success());

    let text = scrape(&operator).unwrap();
    for kind in [
        "dataset",
        "pretrainjob",
        "finetune",
        "evaluation",
        "deployment",
    ] {
        let part = format!("controller=\"{kind}\"");
        let done = value(&text, "controller_runtime_reconcile_total", &part);
        assert!(done > Some(0.0), "{kind}: {done:?}\n{text}");
    }
    assert_eq!(value(&text, "leader_election_master_status", ""), Some(1.0));
    assert!(value(&text, "bessemer_status_writes_total", "") > Some(6.0));
    assert!(value(&text, "bessemer_progress_reports_total", "") > Some(0.0));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(client::get(&operator, path).unwrap().status, 200, "{path}");
    }

    let url = plane.url("chat");
    let body = client::chat("chat", "Say number 7", 4, false);
    assert_eq!(
        client::post(&url, "/v1/chat/completions", &body)
            .unwrap()
            .status,
        200
    );
    let router = scrape(&url).unwrap();
    assert_eq!(
        value(&router, "bessemer_route_requests_total", ""),
        Some(1.0),
        "{router}"
    );
    let pods = plane.json(&["get", "pods", "-l", "bessemer.dev/kind=Deployment"]);
    let told: Vec<f64> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|pod| {
            let address = pod["status"]["podIP"].as_str().unwrap();
            let text = scrape(&format!("http://{address}:8080"))?;
            value(&text, "vllm:generation_tokens_total", "")
        })
        .collect();
    // One server, which gave the operator's probe an answer too.
    assert!(told.len() == 1 && told[0] >= 4.0, "{told:?}");
}
