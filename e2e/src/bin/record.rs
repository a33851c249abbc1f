//! Records the transcripts of all scenarios (or of those named) from a real kube-apiserver.
//!
//! usage: record [SCENARIO...]    builds kube-apiserver, etcd and kube-controller-manager first (cluster/build.sh)

use bessemer_e2e::cluster::Cluster;
use bessemer_e2e::conformance::{self, transcript_path};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let cluster = Cluster::start().await?;
    for scenario in conformance::scenarios()? {
        if !wanted.is_empty() && !wanted.contains(&scenario.name) {
            continue;
        }
        let namespace = format!("conformance-{}", scenario.name);
        cluster.namespace(&namespace).await?;
        let answers = conformance::run(cluster.client(), &scenario, &namespace).await?;
        let path = transcript_path(&scenario.name);
        std::fs::write(&path, serde_json::to_string_pretty(&answers)? + "\n")?;
        println!("{}: {} answers", path.display(), answers.len());
    }
    Ok(())
}
