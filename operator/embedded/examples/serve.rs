//! Serves the embedded API alone, for kubectl and for benchmarks that want it in a process of its own.
//!
//! usage: serve DIRECTORY [ADDRESS]    (default 127.0.0.1:0; prints the kubeconfig's path)

use std::path::PathBuf;
use std::sync::Arc;

use bessemer_embedded::clock::SystemClock;
use bessemer_embedded::server::{ISSUER, Server};
use bessemer_embedded::storage::Disk;
use bessemer_embedded::token::Issuer;
use bessemer_embedded::{Api, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: serve DIRECTORY [ADDRESS]")?);
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:0".to_owned())
        .parse()?;
    let mut options = Options::memory(Arc::new(SystemClock), u64::from(std::process::id()));
    options.storage = Box::new(Disk::open(&directory)?);
    options.issuer = Some(Arc::new(Issuer::open(
        &directory.join("issuer.p8"),
        ISSUER,
    )?));
    let server = Server::start(Api::open(options)?, &directory, address).await?;
    println!("{}", server.kubeconfig().display());
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
