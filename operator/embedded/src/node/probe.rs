//! Probes: owns when a container counts as started, ready and alive.
//! It must not restart anything; it tells the pod's task.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{sleep, timeout};

/// What a probe found out, once its thresholds are passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The startup probe succeeded.
    Started,
    /// The readiness probe changed its mind.
    Ready(bool),
    /// A probe failed once: worth an event.
    Unhealthy(String),
    /// The container must be killed.
    Dead(String),
}

/// Runs a container's probes until the receiver is gone or the task is aborted.
pub async fn run(container: Container, ip: Ipv4Addr, findings: UnboundedSender<Finding>) {
    if let Some(probe) = &container.startup_probe
        && !startup(probe, &container, ip, &findings).await
    {
        return;
    }
    if findings.send(Finding::Started).is_err() {
        return;
    }
    tokio::join!(
        readiness(&container, ip, &findings),
        liveness(&container, ip, &findings)
    );
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        value
            .and_then(|v| u64::try_from(v).ok())
            .filter(|v| *v > 0)
            .unwrap_or(default),
    )
}

async fn startup(
    probe: &Probe,
    container: &Container,
    ip: Ipv4Addr,
    findings: &UnboundedSender<Finding>,
) -> bool {
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut failures = 0;
    // A program that is up in a tenth of a second should not look unready for a whole period.
    let mut pause = Duration::from_millis(50);
    loop {
        let Err(why) = check(probe, container, ip).await else {
            return true;
        };
        if pause >= seconds(probe.period_seconds, 10) {
            failures += 1;
        }
        if failures >= probe.failure_threshold.unwrap_or(3) {
            let _ = findings.send(Finding::Dead(format!("Startup probe failed: {why}")));
            return false;
        }
        if findings.is_closed() {
            return false;
        }
        sleep(pause).await;
        pause = (pause * 2).min(seconds(probe.period_seconds, 10));
    }
}

async fn readiness(container: &Container, ip: Ipv4Addr, findings: &UnboundedSender<Finding>) {
    let Some(probe) = &container.readiness_probe else {
        let _ = findings.send(Finding::Ready(true));
        return;
    };
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let (mut ready, mut run) = (false, 0);
    loop {
        let result = check(probe, container, ip).await;
        run = if result.is_ok() == ready { 0 } else { run + 1 };
        let needed = if ready {
            probe.failure_threshold.unwrap_or(3)
        } else {
            probe.success_threshold.unwrap_or(1)
        };
        if let Err(why) = &result
            && findings
                .send(Finding::Unhealthy(format!("Readiness probe failed: {why}")))
                .is_err()
        {
            return;
        }
        if run >= needed {
            ready = !ready;
            run = 0;
            if findings.send(Finding::Ready(ready)).is_err() {
                return;
            }
        }
        // Unready containers are asked more often: traffic waits for them.
        let period = seconds(probe.period_seconds, 10);
        sleep(if ready {
            period
        } else {
            period.min(Duration::from_millis(250))
        })
        .await;
    }
}

async fn liveness(container: &Container, ip: Ipv4Addr, findings: &UnboundedSender<Finding>) {
    let Some(probe) = &container.liveness_probe else {
        return;
    };
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut failures = 0;
    loop {
        match check(probe, container, ip).await {
            Ok(()) => failures = 0,
            Err(why) => {
                failures += 1;
                let message = format!("Liveness probe failed: {why}");
                let dead = failures >= probe.failure_threshold.unwrap_or(3);
                let finding = if dead {
                    Finding::Dead(message)
                } else {
                    Finding::Unhealthy(message)
                };
                if findings.send(finding).is_err() || dead {
                    return;
                }
            }
        }
        sleep(seconds(probe.period_seconds, 10)).await;
    }
}

async fn check(probe: &Probe, container: &Container, ip: Ipv4Addr) -> Result<(), String> {
    let limit = seconds(probe.timeout_seconds, 1);
    let attempt = async {
        if let Some(http) = &probe.http_get {
            let port = number(&http.port, container)?;
            let path = http.path.as_deref().unwrap_or("/");
            return get(ip, port, path, http.host.as_deref()).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            let port = number(&tcp.port, container)?;
            let connected = TcpStream::connect((ip, port)).await;
            return connected
                .map(drop)
                .map_err(|e| format!("dial tcp {ip}:{port}: {e}"));
        }
        Err("the local node has httpGet and tcpSocket probes".to_owned())
    };
    timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
}

fn number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports
                .find(|p| p.name.as_ref() == Some(name))
                .map(|p| p.container_port)
        }
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .ok_or_else(|| "the probe's port is not one of the container's".to_owned())
}

async fn get(ip: Ipv4Addr, port: u16, path: &str, host: Option<&str>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("Get \"http://{ip}:{port}{path}\": {e}");
    let mut stream = TcpStream::connect((ip, port)).await.map_err(failed)?;
    let own = ip.to_string();
    let host = host.unwrap_or(&own);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/1.33\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::new();
    while !head.contains(&b'\n') && head.len() < 4096 {
        if stream.read_buf(&mut head).await.map_err(failed)? == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&head);
    match text
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse::<u16>().ok())
    {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err(format!("Get \"http://{ip}:{port}{path}\": no HTTP answer")),
    }
}
