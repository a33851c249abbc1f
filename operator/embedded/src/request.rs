//! Owns the reading of a request's address: group, version, resource, name, subresource and query; must not look at objects.

use std::sync::Arc;

use http::Method;

use crate::registry::{Registry, Resource};
use crate::status::Failure;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// Unique id, "" when unknown.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Extra values, such as the pod a service-account token is bound to.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// The administrator: in-process clients and the kubeconfig's token.
    #[must_use]
    pub fn admin() -> Self {
        Self {
            name: "system:admin".to_owned(),
            uid: String::new(),
            groups: vec![
                "system:masters".to_owned(),
                "system:authenticated".to_owned(),
            ],
            extra: Vec::new(),
        }
    }
}

/// Query parameters in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=b&c=d`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(
            text.split('&')
                .filter(|p| !p.is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of `key`; empty values read as absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, v)| k == key && !v.is_empty())
            .map(|(_, v)| v.as_str())
    }

    /// Whether `key` is true (`true`, `1`).
    #[must_use]
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1" | "True"))
    }

    /// A number.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        self.get(key)
            .map(|text| {
                text.parse().map_err(|_| {
                    let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
                    if key == "resourceVersion" {
                        Failure::plain(format!("{key}: Invalid value: {text:?}: {why}"))
                    } else {
                        Failure::bad_request(why.replace("ParseUint", "ParseInt"))
                    }
                })
            })
            .transpose()
    }
}

/// Percent-decoding of a query or path part.
#[must_use]
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
                if let (Some(high), Some(low)) = (hex(rest.next()), hex(rest.next())) {
                    bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                }
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A request to a resource.
#[derive(Debug, Clone)]
pub struct Target {
    /// The resource.
    pub resource: Arc<Resource>,
    /// Namespace, "" for cluster scope or all namespaces.
    pub namespace: String,
    /// Name, "" for the collection.
    pub name: String,
    /// Subresource, "" for the object itself.
    pub subresource: String,
    /// Whether the path is of the old form `/api/v1/watch/...`.
    pub watch: bool,
}

/// What a path leads to.
#[derive(Debug, Clone)]
pub enum Address {
    /// A resource or an object.
    Resource(Target),
    /// Anything else: discovery, openapi, health.
    Other(Vec<String>),
}

/// Reads a path.
///
/// # Errors
/// 404 when the resource does not exist.
pub fn address(registry: &Registry, path: &str) -> Result<Address, Failure> {
    let parts: Vec<String> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(|p| decode(&p.replace('+', "%2B")))
        .collect();
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match words.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Ok(Address::Other(parts)),
    };
    let (watch, rest) = match rest {
        ["watch", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let find = |plural: &str| {
        registry
            .find(group, version, plural)
            .ok_or_else(Failure::no_such_path)
    };
    let target = |resource: Arc<Resource>, namespace: &str, name: &str, subresource: &str| {
        Ok(Address::Resource(Target {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            watch,
        }))
    };
    match rest {
        // `namespaces` itself is a resource: its objects and subresources come first.
        ["namespaces", name] if group.is_empty() => target(find("namespaces")?, "", name, ""),
        ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
            target(find("namespaces")?, "", name, sub)
        }
        ["namespaces", namespace, plural, rest @ ..] => {
            let resource = find(plural)?;
            if !resource.namespaced {
                return Err(Failure::no_such_path());
            }
            match rest {
                [] => target(resource, namespace, "", ""),
                [name] => target(resource, namespace, name, ""),
                [name, subresource @ ..] => {
                    target(resource, namespace, name, &subresource.join("/"))
                }
            }
        }
        [plural] => target(find(plural)?, "", "", ""),
        [plural, name, subresource @ ..] => {
            let resource = find(plural)?;
            if resource.namespaced {
                return Err(Failure::no_such_path());
            }
            target(resource, "", name, &subresource.join("/"))
        }
        [] => Err(Failure::no_such_path()),
    }
}

/// What a request does, in the words of authorization and of simulation faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Read one.
    Get,
    /// Read many.
    List,
    /// Follow changes.
    Watch,
    /// Make.
    Create,
    /// Replace.
    Update,
    /// Change by patch.
    Patch,
    /// Remove one.
    Delete,
    /// Remove many.
    DeleteCollection,
}

impl Verb {
    /// The verb of a method on a target.
    #[must_use]
    pub fn of(method: &Method, target: &Target, query: &Query) -> Option<Self> {
        let collection = target.name.is_empty();
        match *method {
            Method::GET | Method::HEAD
                if (target.watch || query.flag("watch")) && target.subresource.is_empty() =>
            {
                Some(Self::Watch)
            }
            Method::GET | Method::HEAD if collection => Some(Self::List),
            Method::GET | Method::HEAD => Some(Self::Get),
            Method::POST if collection || !target.subresource.is_empty() => Some(Self::Create),
            Method::PUT if !collection => Some(Self::Update),
            Method::PATCH if !collection => Some(Self::Patch),
            Method::DELETE if collection => Some(Self::DeleteCollection),
            Method::DELETE => Some(Self::Delete),
            _ => None,
        }
    }

    /// Whether the request may change something.
    #[must_use]
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}
