//! Owns the carrying out of one request against the committed state; must not wait, read clocks or draw ambient randomness.

mod delete;
mod patch;
mod read;
mod review;
mod subresource;
mod watch;
mod write;

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use serde_json::Value;

use crate::custom;
use crate::registry::{Registry, Resource};
use crate::request::{Query, Target, User, Verb};
use crate::state::State;
use crate::status::Failure;
use crate::storage::Key;

pub use watch::{Cursor, Step, WatchEvent};
pub(crate) use write::Part;

/// A request to a resource, read and ready to be carried out.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it does.
    pub verb: Verb,
    /// To what.
    pub target: Target,
    /// Query parameters.
    pub query: Query,
    /// Who asks.
    pub user: User,
    /// `Content-Type` without parameters.
    pub content_type: String,
    /// `User-Agent`; names the field manager when the query does not.
    pub user_agent: String,
    /// Body.
    pub body: Bytes,
    /// When it arrived.
    pub now: Timestamp,
}

impl Call {
    /// The key of the addressed object.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key_of(&self.target.name)
    }

    fn key_of(&self, name: &str) -> Key {
        Key {
            table: self.target.resource.table.clone(),
            namespace: self.target.namespace.clone(),
            name: name.to_owned(),
        }
    }

    /// Whether nothing may be kept.
    #[must_use]
    pub fn dry_run(&self) -> bool {
        self.query.get("dryRun").is_some()
    }

    /// The name under which changed fields are recorded.
    #[must_use]
    pub fn field_manager(&self) -> String {
        match self.query.get("fieldManager") {
            Some(manager) => manager.to_owned(),
            None => {
                let agent = self.user_agent.split('/').next().unwrap_or_default();
                if agent.is_empty() {
                    "unknown".to_owned()
                } else {
                    agent.to_owned()
                }
            }
        }
    }
}

/// What a request ends in.
#[derive(Debug)]
pub enum Reply {
    /// One object (or Status) in the version asked for.
    Object {
        /// HTTP status.
        code: u16,
        /// The object.
        object: Arc<Value>,
    },
    /// A list.
    List(List),
    /// A stream of changes.
    Watch(Cursor),
    /// Log of a pod: namespace, pod.
    Log {
        /// Namespace.
        namespace: String,
        /// Pod name.
        pod: String,
    },
    /// A token is to be signed for this service account.
    Token {
        /// The service account.
        account: Arc<Value>,
        /// The TokenRequest.
        request: Value,
    },
}

/// A list answer.
#[derive(Debug)]
pub struct List {
    /// Items in the version asked for.
    pub items: Vec<Arc<Value>>,
    /// resourceVersion of the list.
    pub revision: u64,
    /// Token of the next page, "" at the end.
    pub next: String,
    /// How many items remain, where known.
    pub remaining: Option<usize>,
}

/// The state with all that is needed to change it.
pub struct Core {
    /// Objects.
    pub state: State,
    /// Resources.
    pub registry: Registry,
    /// Source of uids and name suffixes.
    pub entropy: ChaCha8Rng,
    /// First address of the /16 from which Services get their clusterIP.
    pub service_network: Ipv4Addr,
    /// Warnings for the running request.
    pub warnings: Vec<String>,
}

impl Core {
    /// Carries out a request.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn handle(&mut self, call: &Call) -> Result<Reply, Failure> {
        self.warnings.clear();
        if let Some(warning) = &call.target.resource.warning {
            self.warnings.push(warning.clone());
        }
        if call.target.resource.review {
            return review::handle(self, call);
        }
        if !call.target.subresource.is_empty() {
            return subresource::handle(self, call);
        }
        match call.verb {
            Verb::Get => read::get(self, call),
            Verb::List => read::list(self, call),
            Verb::Watch => watch::open(self, call),
            Verb::Create => write::create(self, call),
            Verb::Update => write::update(self, call, write::Part::Main),
            Verb::Patch => patch::patch(self, call, write::Part::Main),
            Verb::Delete => delete::delete(self, call),
            Verb::DeleteCollection => delete::delete_collection(self, call),
        }
    }

    /// A fresh uid.
    pub fn uid(&mut self) -> String {
        let mut bytes = [0_u8; 16];
        self.entropy.fill_bytes(&mut bytes);
        let value =
            (u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{value:032x}");
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
        [
            part(0, 8),
            part(8, 12),
            part(12, 16),
            part(16, 20),
            part(20, 32),
        ]
        .join("-")
    }

    /// The suffix of a generated name: five of Kubernetes' 27 safe characters.
    pub fn suffix(&mut self) -> String {
        const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..5)
            .map(|_| {
                let index =
                    usize::try_from(self.entropy.next_u32()).unwrap_or_default() % SAFE.len();
                SAFE.get(index).copied().unwrap_or(b'b') as char
            })
            .collect()
    }

    /// Reads the addressed object.
    ///
    /// # Errors
    /// 404 when it is absent.
    pub fn stored(&self, call: &Call) -> Result<Arc<Value>, Failure> {
        self.state
            .get(&call.key())
            .ok_or_else(|| Failure::not_found(&call.target.resource, &call.target.name))
    }

    /// Writes (or removes) an object and lets the registry follow CustomResourceDefinitions.
    ///
    /// # Errors
    /// 500 when the store refused.
    pub fn commit(&mut self, key: &Key, value: Option<Value>) -> Result<Arc<Value>, Failure> {
        let committed = self
            .state
            .commit(key, value)
            .map_err(|error| Failure::internal(error.to_string()))?;
        if key.table == custom::TABLE {
            custom::follow(self, &key.name);
        }
        Ok(committed)
    }
}

/// An object in the version of `resource`.
#[must_use]
pub fn present(resource: &Resource, stored: &Arc<Value>) -> Arc<Value> {
    if stored.get("apiVersion").and_then(Value::as_str) == Some(resource.api_version().as_str()) {
        stored.clone()
    } else {
        Arc::new(crate::convert::convert((**stored).clone(), resource))
    }
}
