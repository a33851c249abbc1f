//! Owns what each process of a cluster and its API server spent on something. It must not know what that was.

use std::collections::BTreeMap;

use http::Request;
use kube::Client;

use super::{Operator, cpu};
use crate::cluster::Cluster;

/// What everybody who has part in it has used so far.
pub struct Spent {
    /// Requests that the API server has answered, but watches, by verb and resource.
    requests: BTreeMap<String, f64>,
    /// Milliseconds of CPU by program.
    cpu: BTreeMap<String, f64>,
}

impl Spent {
    /// What was used until now.
    ///
    /// # Errors
    /// A process is gone, or the API server does not say what it has answered.
    pub async fn now(cluster: &Cluster, operator: Option<&Operator>) -> Result<Self, String> {
        let mut spent = BTreeMap::new();
        for (program, process) in cluster.processes() {
            spent.insert(program.to_owned(), 1000.0 * cpu(process)?);
        }
        spent.insert("this client".to_owned(), 1000.0 * cpu(std::process::id())?);
        if let Some(operator) = operator {
            spent.insert("the operator".to_owned(), 1000.0 * operator.used()?.cpu);
        }
        Ok(Self {
            requests: served(cluster.client()).await?,
            cpu: spent,
        })
    }

    /// Prints what was used since then for each of `count` objects.
    ///
    /// # Errors
    /// As [`Spent::now`].
    pub async fn print(
        &self,
        cluster: &Cluster,
        operator: Option<&Operator>,
        count: f64,
    ) -> Result<(), String> {
        let now = Self::now(cluster, operator).await?;
        let (all, each) = grown(&self.requests, &now.requests, count);
        println!("  answered by the API server for each: {all:.1}, of them {each}");
        let (all, each) = grown(&self.cpu, &now.cpu, count);
        println!("  ms of CPU for each: {all:.1}, of them {each}");
        Ok(())
    }
}

/// By how much all of it grew for each of `count`, and what grew most.
pub fn grown(
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
    count: f64,
) -> (f64, String) {
    let since = after.iter().map(|(name, total)| {
        let grown = (total - before.get(name).unwrap_or(&0.0)) / count;
        (grown, name)
    });
    let mut since: Vec<_> = since.filter(|(grown, _)| *grown > 0.0).collect();
    since.sort_by(|a, b| b.0.total_cmp(&a.0));
    let most = since.iter().take(16);
    let most: Vec<String> = most
        .map(|(grown, name)| format!("{name} {grown:.2}"))
        .collect();
    let all = since.iter().map(|(grown, _)| grown).sum();
    (all, most.join(", "))
}

/// The series of an exposition of Prometheus and their values.
pub fn counters(text: &str) -> impl Iterator<Item = (&str, f64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        Some((series, value.parse().ok()?))
    })
}

/// Requests that the API server has answered so far, but watches, by verb and resource.
async fn served(client: &Client) -> Result<BTreeMap<String, f64>, String> {
    let request = Request::builder().uri("/metrics").body(Vec::new());
    let text = client
        .request_text(request.map_err(|e| e.to_string())?)
        .await;
    let text = text.map_err(|e| format!("GET /metrics: {e}"))?;
    let mut served = BTreeMap::new();
    for (series, count) in counters(&text) {
        let Some(labels) = series.strip_prefix("apiserver_request_total{") else {
            continue;
        };
        let label = |name: &str| {
            let at = labels.find(&format!("{name}=\""))? + name.len() + 2;
            labels.get(at..)?.split('"').next()
        };
        let part = |name: &str| label(name).unwrap_or_default();
        let request = format!(
            "{} {} {}",
            part("verb"),
            part("resource"),
            part("subresource")
        );
        if part("verb") != "WATCH" {
            *served.entry(request.trim_end().to_owned()).or_default() += count;
        }
    }
    Ok(served)
}
