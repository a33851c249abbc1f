//! Owns get and list with selectors and pages; must not change anything.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Call, Core, List, Reply, present};
use crate::object;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{Cause, Failure};

/// What a list or watch selects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    /// The name in the path of a watch on one object.
    pub(crate) name: String,
}

impl Selection {
    pub(crate) fn of(call: &Call) -> Result<Self, Failure> {
        let resource = &call.target.resource;
        Ok(Self {
            labels: LabelSelector::parse(call.query.get("labelSelector").unwrap_or_default())?,
            fields: FieldSelector::parse(
                call.query.get("fieldSelector").unwrap_or_default(),
                &|f| resource.selects(f),
            )?,
            name: call.target.name.clone(),
        })
    }

    fn everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        (self.name.is_empty() || self.name == object::name(object))
            && self.labels.matches(object)
            && self.fields.matches(object)
    }
}

/// GET of one object.
pub(super) fn get(core: &mut Core, call: &Call) -> Result<Reply, Failure> {
    let stored = core.stored(call)?;
    Ok(Reply::Object {
        code: 200,
        object: present(&call.target.resource, &stored),
    })
}

const STALE_PAGE: &str = "The provided continue parameter is too old to display a consistent list result. You can \
start a new list without the continue parameter, or use the continue token in this response to retrieve the \
remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// GET of a collection.
pub(super) fn list(core: &mut Core, call: &Call) -> Result<Reply, Failure> {
    let selection = Selection::of(call)?;
    let resource = call.target.resource.clone();
    let current = core.state.revision();
    let limit = call
        .query
        .number("limit")?
        .filter(|l| *l > 0)
        .and_then(|l| usize::try_from(l).ok());
    let page = call.query.get("continue").map(Page::decode).transpose()?;
    let asked = call.query.number("resourceVersion")?.unwrap_or(0);
    if page.is_none() && asked > current {
        return Err(Failure::too_large_resource_version(asked, current));
    }
    let exact = match call.query.get("resourceVersionMatch") {
        None | Some("NotOlderThan") => false,
        Some("Exact") if asked > 0 => true,
        Some("Exact") => {
            let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(Failure::options(
                "ListOptions",
                &Cause::forbidden("resourceVersionMatch", detail),
            ));
        }
        Some(other) => {
            let allowed = ["Exact".to_owned(), "NotOlderThan".to_owned(), String::new()];
            return Err(Failure::options(
                "ListOptions",
                &Cause::not_supported("resourceVersionMatch", &other.into(), &allowed),
            ));
        }
    };
    let revision = match &page {
        Some(page) if page.revision > 0 => page.revision,
        _ if exact => asked,
        _ => current,
    };
    let all: Vec<Arc<Value>> = if revision == current {
        core.state
            .list(&resource.table, &call.target.namespace)
            .cloned()
            .collect()
    } else {
        core.state
            .list_at(&resource.table, &call.target.namespace, revision)
            .map_err(|_| match &page {
                Some(page) => {
                    let mut failure = Failure::expired(STALE_PAGE);
                    // The answer carries a token that goes on with the present state.
                    failure.page = Some(
                        Page {
                            revision: 0,
                            after: page.after.clone(),
                        }
                        .encode(),
                    );
                    failure
                }
                None => Failure::expired("The resourceVersion for the provided list is too old."),
            })?
    };
    let mut rest = all
        .into_iter()
        .filter(|o| page.as_ref().is_none_or(|p| place(o) > p.after))
        .filter(|o| selection.matches(&present(&resource, o)));
    let mut items: Vec<Arc<Value>> = match limit {
        Some(limit) => rest.by_ref().take(limit).collect(),
        None => rest.by_ref().collect(),
    };
    let left = rest.count();
    let next = match items.last() {
        Some(last) if left > 0 => Page {
            revision,
            after: place(last),
        }
        .encode(),
        _ => String::new(),
    };
    for item in &mut items {
        *item = present(&resource, item);
    }
    Ok(Reply::List(List {
        items,
        revision,
        remaining: (left > 0 && selection.everything()).then_some(left),
        next,
    }))
}

fn place(object: &Value) -> (String, String) {
    (
        object::namespace(object).to_owned(),
        object::name(object).to_owned(),
    )
}

/// Where the next page begins: the revision of the list and the last object given.
struct Page {
    /// 0 means: go on with the present state.
    revision: u64,
    after: (String, String),
}

impl Page {
    fn encode(&self) -> String {
        let (namespace, name) = &self.after;
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": format!("{namespace}/{name}")}).to_string())
    }

    fn decode(token: &str) -> Result<Self, Failure> {
        let bad = || {
            Failure::bad_request(
                "invalid continue token: continue key is not valid: the token was not issued by this server",
            )
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|_| bad())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let revision = value.get("rv").and_then(Value::as_u64).ok_or_else(bad)?;
        let start = value.get("start").and_then(Value::as_str).ok_or_else(bad)?;
        let (namespace, name) = start.split_once('/').ok_or_else(bad)?;
        Ok(Self {
            revision,
            after: (namespace.to_owned(), name.to_owned()),
        })
    }
}
