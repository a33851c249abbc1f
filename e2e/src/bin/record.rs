//! Records the transcripts of all scenarios (or of those named) from a real kube-apiserver, or compares with them.
//!
//! Without `--here` it builds kube-apiserver, etcd and kube-controller-manager first (cluster/build.sh) and runs its own.

use std::process::ExitCode;

use bessemer_e2e::cluster::Cluster;
use bessemer_e2e::conformance::{self, transcript, transcript_path};
use clap::Parser;

/// Records what kube-apiserver answers, or checks that it still answers so.
#[derive(Debug, Parser)]
struct Arguments {
    /// Compare with the transcripts and write nothing.
    #[arg(long)]
    check: bool,
    /// Ask the API server that KUBECONFIG names, which must hold nothing of an earlier run.
    #[arg(long)]
    here: bool,
    /// Names of scenarios; all without.
    scenarios: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let cluster = if arguments.here {
        Cluster::here().await?
    } else {
        // History ends soon enough to be met: scenarios/expiry.yaml.
        Cluster::start(&[], "2s").await?
    };
    let (mut passed, mut failed) = (0, 0);
    for mut scenario in conformance::scenarios()? {
        if !arguments.scenarios.is_empty() && !arguments.scenarios.contains(&scenario.name) {
            continue;
        }
        let namespace = format!("conformance-{}", scenario.name);
        cluster.namespace(&namespace).await?;
        let answers = conformance::run(cluster.client(), &scenario, &namespace).await?;
        if arguments.check {
            // Exceptions are the embedded API's: a real server has none.
            scenario.exceptions.clear();
            let lines = conformance::differences(&scenario, &transcript(&scenario.name)?, &answers);
            let word = if lines.is_empty() { "ok" } else { "FAILED" };
            println!("test {} ... {word}", scenario.name);
            lines.iter().for_each(|line| println!("{line}"));
            *(if lines.is_empty() {
                &mut passed
            } else {
                &mut failed
            }) += 1;
        } else {
            let path = transcript_path(&scenario.name);
            std::fs::write(&path, serde_json::to_string_pretty(&answers)? + "\n")?;
            println!("{}: {} answers", path.display(), answers.len());
        }
    }
    if arguments.check {
        let word = if failed == 0 { "ok" } else { "FAILED" };
        println!("test result: {word}. {passed} passed; {failed} failed;");
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
