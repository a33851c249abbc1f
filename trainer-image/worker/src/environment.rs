//! Owns what reaches the worker through environment variables; it must not read files.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use bessemer_protocol::{ExitCode, env as name};
use bessemer_store::S3Keys;

use crate::failure::Failure;

/// Port of servers and routers.
pub const SERVING_PORT: u16 = 8080;
/// Port of the metrics of tasks that end.
pub const METRICS_PORT: u16 = 8081;

const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Paths and addresses of this pod.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Scratch directory.
    pub work: PathBuf,
    /// Where the termination message goes.
    pub termination_log: PathBuf,
    /// Base URL of the operator's intake.
    pub progress_url: Option<String>,
    /// File with the token for it.
    pub token_file: Option<PathBuf>,
    /// Directory with API keys.
    pub keys: Option<PathBuf>,
    /// Address to listen on.
    pub pod_ip: Option<IpAddr>,
    /// Number of this rank, as it was given.
    pub rank: Option<String>,
    /// Host and port of rank 0.
    pub rendezvous: Option<String>,
    /// Base URL of the OTLP collector.
    pub otlp_endpoint: Option<String>,
    /// Trace that this run belongs to.
    pub traceparent: Option<String>,
    /// Digest of the image, when the pod knows it.
    pub image: Option<String>,
}

/// Where a process stands among the ranks of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Host and port of rank 0; empty when there are no others.
    pub rendezvous: String,
    /// Address at which the others reach this one.
    pub own: IpAddr,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            rank: 0,
            size: 1,
            rendezvous: String::new(),
            own: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }
}

/// What the Secret of a single source holds.
#[derive(Clone, Debug)]
pub struct SourceKeys {
    /// Keys.
    pub keys: S3Keys,
    /// Region, if it names one.
    pub region: Option<String>,
    /// Endpoint, if it names one.
    pub endpoint: Option<String>,
}

impl SourceKeys {
    /// Reads the variables of the source named `source`.
    ///
    /// # Errors
    /// The key that is missing.
    pub fn read(source: &str) -> Result<Self, &'static str> {
        Self::of(|key| variable(&name::source_key(source, key)))
    }

    fn of(get: impl Fn(&str) -> Option<String>) -> Result<Self, &'static str> {
        let [id, secret] = name::STORE_KEYS.map(|key| get(key).ok_or(key));
        let [token, region, endpoint] = name::OPTIONAL_STORE_KEYS.map(&get);
        let keys = S3Keys {
            access_key_id: id?,
            secret_access_key: secret?,
            session_token: token,
        };
        Ok(Self {
            keys,
            region,
            endpoint,
        })
    }
}

/// A variable of this process; an empty one counts as absent.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Environment {
    /// Reads this process's variables.
    pub fn read() -> Self {
        let get = variable;
        let path = |name: &str| get(name).map(PathBuf::from);
        Self {
            work: path(name::WORK_DIR).unwrap_or_else(|| std::env::temp_dir().join("bessemer")),
            termination_log: path(name::TERMINATION_LOG)
                .unwrap_or_else(|| "/dev/termination-log".into()),
            progress_url: get(name::PROGRESS_URL),
            token_file: path(name::TOKEN_FILE),
            keys: path(name::API_KEYS_DIR),
            pod_ip: get(name::POD_IP).and_then(|ip| ip.parse().ok()),
            rank: get(name::RANK),
            rendezvous: get(name::RENDEZVOUS),
            otlp_endpoint: get(OTLP_ENDPOINT),
            traceparent: get("TRACEPARENT"),
            image: get("BESSEMER_IMAGE_DIGEST"),
        }
    }

    /// Refuses what this worker cannot speak.
    ///
    /// # Errors
    /// Names the variable and what to give instead.
    pub fn check(&self) -> Result<(), Failure> {
        for (name, url) in [
            (name::PROGRESS_URL, &self.progress_url),
            (OTLP_ENDPOINT, &self.otlp_endpoint),
        ] {
            if let Some(url) = url.as_ref().filter(|url| !url.starts_with("http://")) {
                return Err(Failure::new(
                    ExitCode::Environment,
                    "TlsNotSupported",
                    format!("{name} is {url}; a worker speaks plain http only"),
                    "Name an http:// address within the cluster, for traces that of a collector which forwards them over TLS.",
                ));
            }
        }
        Ok(())
    }

    /// The place of this process among `ranks` of them.
    ///
    /// # Errors
    /// Names the variable that is missing or no number of a rank.
    pub fn place(&self, ranks: u32) -> Result<Place, Failure> {
        if ranks <= 1 {
            return Ok(Place::default());
        }
        let told = |variable: &str, value: &Option<String>, what: &str| {
            value.clone().ok_or_else(|| {
                Failure::config(format!(
                    "{variable} is not set; each of the task's {ranks} ranks needs {what}"
                ))
            })
        };
        let rank = told(name::RANK, &self.rank, "its number")?;
        let rendezvous = told(name::RENDEZVOUS, &self.rendezvous, "the address of rank 0")?;
        let number = rank.parse().ok().filter(|rank| *rank < ranks as usize);
        let number = number.ok_or_else(|| {
            Failure::config(format!(
                "{} is {rank}; the task has ranks 0 to {}",
                name::RANK,
                ranks - 1
            ))
        })?;
        Ok(Place {
            rank: number,
            size: ranks as usize,
            rendezvous,
            own: self.pod_ip.unwrap_or(Place::default().own),
        })
    }

    /// Address to listen on; all of them where the pod does not know its own.
    pub fn listen(&self) -> IpAddr {
        self.pod_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_among_ranks_is_whole_or_the_variable_is_named() {
        let environment = |rank: Option<&str>, rendezvous: Option<&str>| Environment {
            rank: rank.map(str::to_owned),
            rendezvous: rendezvous.map(str::to_owned),
            ..Environment::read()
        };
        let place = environment(Some("1"), Some("first:29500"))
            .place(2)
            .unwrap();
        assert_eq!((place.rank, place.size), (1, 2));
        assert_eq!(place.rendezvous, "first:29500");
        assert_eq!(environment(None, None).place(1).unwrap(), Place::default());
        for (rank, rendezvous, named) in [
            (None, Some("first:29500"), name::RANK),
            (Some("2"), Some("first:29500"), "ranks 0 to 1"),
            (Some("-1"), Some("first:29500"), name::RANK),
            (Some("0"), None, name::RENDEZVOUS),
        ] {
            let failure = environment(rank, rendezvous).place(2).unwrap_err();
            assert_eq!(failure.exit, ExitCode::BadConfig);
            assert!(failure.termination.message.contains(named), "{failure:?}");
        }
    }

    #[test]
    fn keys_of_a_source_are_whole_or_the_missing_one_is_named_and_never_shown() {
        let all = |without: &'static str| {
            SourceKeys::of(move |key| (key != without).then(|| format!("value of {key}")))
        };
        let whole = all("").unwrap();
        assert_eq!(whole.keys.access_key_id, "value of AWS_ACCESS_KEY_ID");
        assert_eq!(whole.endpoint.as_deref(), Some("value of AWS_ENDPOINT_URL"));
        assert!(!format!("{whole:?}").contains("SECRET"), "{whole:?}");
        for key in name::STORE_KEYS {
            assert_eq!(all(key).unwrap_err(), key);
        }
        for key in name::OPTIONAL_STORE_KEYS {
            assert!(all(key).is_ok());
        }
        let variable = name::source_key("my-docs", "AWS_REGION");
        assert_eq!(variable, "BESSEMER_SOURCE_MY_DOCS_AWS_REGION");
    }
}
