//! Owns reviews: answers about the asking user that are computed and never stored. Must not consult storage.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Call, Core, Reply};
use crate::decode::parse;
use crate::object;
use crate::request::Verb;
use crate::status::Failure;

/// POST of a review.
pub(super) fn handle(_: &mut Core, call: &Call) -> Result<Reply, Failure> {
    if call.verb != Verb::Create {
        return Err(Failure::method_not_allowed());
    }
    // kubectl sends reviews as protobuf; what they ask is about the sender, who is known anyway.
    let opaque = call.body.is_empty() || call.content_type == "application/vnd.kubernetes.protobuf";
    let mut review = if opaque {
        json!({})
    } else {
        parse(&call.body)?
    };
    let resource = &call.target.resource;
    object::set(&mut review, &["apiVersion"], resource.api_version().into());
    object::set(&mut review, &["kind"], resource.kind.clone().into());
    let status = match resource.plural.as_str() {
        "selfsubjectreviews" => json!({"userInfo": user_info(call)}),
        // Whoever holds a token of this server may do everything: one machine, one user.
        "selfsubjectaccessreviews" | "subjectaccessreviews" => json!({"allowed": true}),
        "selfsubjectrulesreviews" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        _ => return Err(Failure::no_such_path()),
    };
    object::set(&mut review, &["status"], status);
    let metadata = object::metadata(&mut review);
    metadata.insert(
        "creationTimestamp".into(),
        crate::clock::stamp(call.now).into(),
    );
    Ok(Reply::Object {
        code: 201,
        object: Arc::new(review),
    })
}

fn user_info(call: &Call) -> Value {
    let mut info = json!({"username": call.user.name, "groups": call.user.groups});
    if !call.user.uid.is_empty() {
        object::set(&mut info, &["uid"], call.user.uid.clone().into());
    }
    if !call.user.extra.is_empty() {
        let extra: serde_json::Map<String, Value> = call
            .user
            .extra
            .iter()
            .map(|(key, values)| (key.clone(), json!(values)))
            .collect();
        object::set(&mut info, &["extra"], Value::Object(extra));
    }
    info
}
