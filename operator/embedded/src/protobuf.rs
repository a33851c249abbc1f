//! Owns the reading of protobuf bodies, as JSON, of what `kubectl create` makes: newer clients write built-in kinds in no
//! other form. It must refuse what it does not know, and must not look at requests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// What a field holds.
#[derive(Clone, Copy)]
enum Form {
    /// Text; an empty one is absent.
    Text,
    /// A number, of which 0 is one.
    Number,
    /// A number, of which 0 is absent.
    Count,
    /// A truth value, of which false is one.
    Choice,
    /// A truth value, of which false is absent.
    Flag,
    /// Bytes, Base64 in JSON.
    Bytes,
    /// A map from text to text or bytes.
    Map(&'static Form),
    /// A list.
    List(&'static Form),
    /// A message.
    Part(&'static [Field]),
    /// What the server sets itself.
    Skip,
}
use Form::{Bytes, Choice, Count, Flag, List, Number, Part, Skip, Text};

/// Number, name and form of a field.
type Field = (u64, &'static str, Form);

const TEXTS: Form = Form::Map(&Text);
const BLOBS: Form = Form::Map(&Bytes);

const METADATA: &[Field] = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (4, "selfLink", Skip),
    (5, "uid", Skip),
    (6, "resourceVersion", Text),
    (7, "generation", Skip),
    (8, "creationTimestamp", Skip),
    (11, "labels", TEXTS),
    (12, "annotations", TEXTS),
    (14, "finalizers", List(&Text)),
];
const REFERENCE: &[Field] = &[(1, "name", Text)];
const SELECTOR: &[Field] = &[(1, "matchLabels", TEXTS)];
const PORT: &[Field] = &[
    (1, "name", Text),
    (2, "hostPort", Count),
    (3, "containerPort", Count),
    (4, "protocol", Text),
    (5, "hostIP", Text),
];
const VARIABLE: &[Field] = &[(1, "name", Text), (2, "value", Text)];
const CONTAINER: &[Field] = &[
    (1, "name", Text),
    (2, "image", Text),
    (3, "command", List(&Text)),
    (4, "args", List(&Text)),
    (5, "workingDir", Text),
    (6, "ports", List(&Part(PORT))),
    (7, "env", List(&Part(VARIABLE))),
    (8, "resources", Part(&[])),
    (13, "terminationMessagePath", Text),
    (14, "imagePullPolicy", Text),
    (16, "stdin", Flag),
    (17, "stdinOnce", Flag),
    (18, "tty", Flag),
    (20, "terminationMessagePolicy", Text),
];
const POD: &[Field] = &[
    (2, "containers", List(&Part(CONTAINER))),
    (3, "restartPolicy", Text),
    (4, "terminationGracePeriodSeconds", Number),
    (6, "dnsPolicy", Text),
    (7, "nodeSelector", TEXTS),
    (8, "serviceAccountName", Text),
    (9, "serviceAccount", Text),
    (10, "nodeName", Text),
    (11, "hostNetwork", Flag),
    (12, "hostPID", Flag),
    (13, "hostIPC", Flag),
    (14, "securityContext", Part(&[])),
    (15, "imagePullSecrets", List(&Part(REFERENCE))),
    (16, "hostname", Text),
    (17, "subdomain", Text),
    (19, "schedulerName", Text),
    (24, "priorityClassName", Text),
];
const TEMPLATE: &[Field] = &[(1, "metadata", Part(METADATA)), (2, "spec", Part(POD))];
const JOB: &[Field] = &[
    (1, "parallelism", Number),
    (2, "completions", Number),
    (3, "activeDeadlineSeconds", Number),
    (6, "template", Part(TEMPLATE)),
    (7, "backoffLimit", Number),
    (8, "ttlSecondsAfterFinished", Number),
    (9, "completionMode", Text),
    (10, "suspend", Choice),
];
const STRATEGY: &[Field] = &[(1, "type", Text)];
const DEPLOYMENT: &[Field] = &[
    (1, "replicas", Number),
    (2, "selector", Part(SELECTOR)),
    (3, "template", Part(TEMPLATE)),
    (4, "strategy", Part(STRATEGY)),
    (5, "minReadySeconds", Count),
    (6, "revisionHistoryLimit", Number),
    (7, "paused", Flag),
    (9, "progressDeadlineSeconds", Number),
];

/// The fields of a kind, for those that are known.
fn fields(version: &str, kind: &str) -> Option<&'static [Field]> {
    Some(match (version, kind) {
        ("v1", "Namespace") => &[
            (1, "metadata", Part(METADATA)),
            (2, "spec", Part(&[(1, "finalizers", List(&Text))])),
            (3, "status", Skip),
        ],
        ("v1", "ConfigMap") => &[
            (1, "metadata", Part(METADATA)),
            (2, "data", TEXTS),
            (3, "binaryData", BLOBS),
            (4, "immutable", Choice),
        ],
        ("v1", "Secret") => &[
            (1, "metadata", Part(METADATA)),
            (2, "data", BLOBS),
            (3, "type", Text),
            (4, "stringData", TEXTS),
            (5, "immutable", Choice),
        ],
        ("v1", "ServiceAccount") => &[
            (1, "metadata", Part(METADATA)),
            (3, "imagePullSecrets", List(&Part(REFERENCE))),
            (4, "automountServiceAccountToken", Choice),
        ],
        ("batch/v1", "Job") => &[
            (1, "metadata", Part(METADATA)),
            (2, "spec", Part(JOB)),
            (3, "status", Skip),
        ],
        ("apps/v1", "Deployment") => &[
            (1, "metadata", Part(METADATA)),
            (2, "spec", Part(DEPLOYMENT)),
            (3, "status", Skip),
        ],
        _ => return None,
    })
}

/// The object in a body, or why it cannot be read.
pub fn read(body: &[u8]) -> Result<Value, String> {
    let envelope = body
        .strip_prefix(b"k8s\0")
        .ok_or("it does not begin as Kubernetes' protobuf does")?;
    const TYPE: &[Field] = &[(1, "apiVersion", Text), (2, "kind", Text)];
    let unknown: &[Field] = &[
        (1, "typeMeta", Part(TYPE)),
        (2, "raw", Bytes),
        (3, "contentEncoding", Text),
        (4, "contentType", Text),
    ];
    let unknown = message(envelope, unknown, "")?;
    let text = |pointer: &str| {
        let found = unknown.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let (version, kind) = (text("/typeMeta/apiVersion"), text("/typeMeta/kind"));
    let known = fields(&version, &kind)
        .ok_or_else(|| format!("{version} {kind} is read as JSON or YAML only"))?;
    let raw = STANDARD
        .decode(text("/raw"))
        .map_err(|error| error.to_string())?;
    let mut object = message(&raw, known, &kind)?;
    if let Some(object) = object.as_object_mut() {
        object.insert("apiVersion".into(), version.into());
        object.insert("kind".into(), kind.into());
    }
    Ok(object)
}

/// One message; `path` names it where it cannot be read.
fn message(mut rest: &[u8], fields: &[Field], path: &str) -> Result<Value, String> {
    let mut made = Map::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let wire = match key & 7 {
            0 => Wire::Number(varint(&mut rest)?),
            2 => {
                let length = varint(&mut rest)?;
                Wire::Bytes(take(&mut rest, length)?)
            }
            other => return Err(format!("{path} holds the wire type {other}")),
        };
        let number = key >> 3;
        let known = fields.iter().find(|(known, ..)| *known == number);
        let (_, name, form) = known
            .ok_or_else(|| format!("field {number} of {path} is read as JSON or YAML only"))?;
        let below = format!("{path}.{name}");
        match form {
            List(form) => {
                let item = value(&wire, form, &below)?.unwrap_or_else(|| json!(""));
                let list = made.entry(*name).or_insert_with(|| json!([]));
                list.as_array_mut()
                    .into_iter()
                    .for_each(|list| list.push(item.clone()));
            }
            Form::Map(form) => {
                let (key, item) = entry(&wire, form, &below)?;
                let map = made.entry(*name).or_insert_with(|| json!({}));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, item);
                }
            }
            form => {
                if let Some(value) = value(&wire, form, &below)? {
                    made.insert((*name).to_owned(), value);
                }
            }
        }
    }
    Ok(Value::Object(made))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A single value; none where JSON leaves it out.
fn value(wire: &Wire<'_>, form: &Form, path: &str) -> Result<Option<Value>, String> {
    Ok(match (form, wire) {
        (Skip, _) => None,
        // Signed numbers are written as 64 bits in two's complement.
        (Number, Wire::Number(number)) => Some(number.cast_signed().into()),
        (Count, Wire::Number(number)) => Some(number.cast_signed().into()).filter(|_| *number != 0),
        (Choice, Wire::Number(number)) => Some((*number != 0).into()),
        (Flag, Wire::Number(number)) => Some(true.into()).filter(|_| *number != 0),
        (Text, Wire::Bytes(bytes)) => {
            let text = std::str::from_utf8(bytes).map_err(|error| format!("{path}: {error}"))?;
            Some(text.into()).filter(|_| !text.is_empty())
        }
        (Bytes, Wire::Bytes(bytes)) => Some(STANDARD.encode(bytes).into()),
        (Part(fields), Wire::Bytes(bytes)) => Some(message(bytes, fields, path)?),
        _ => return Err(format!("{path} has another form than expected")),
    })
}

/// Key and value of an entry of a map.
fn entry(wire: &Wire<'_>, form: &Form, path: &str) -> Result<(String, Value), String> {
    let Wire::Bytes(bytes) = wire else {
        return Err(format!("{path} is no map"));
    };
    let pair = message(bytes, &[(1, "key", Text), (2, "value", *form)], path)?;
    let key = pair.get("key").and_then(Value::as_str).unwrap_or_default();
    let value = pair.get("value").cloned().unwrap_or_else(|| json!(""));
    Ok((key.to_owned(), value))
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or("it ends in the middle")?;
        *rest = after;
        value |= u64::from(byte & 127) << shift;
        if *byte < 128 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], String> {
    let split = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length));
    let (taken, after) = split.ok_or("it ends in the middle")?;
    *rest = after;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut made = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        made.extend(bytes);
        made
    }

    fn body(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        let rest = [field(3, b""), field(4, b"")].concat();
        [b"k8s\0".to_vec(), field(1, &types), field(2, raw), rest].concat()
    }

    #[test]
    fn a_secret_is_read_and_what_is_not_known_is_named() {
        let metadata = [
            field(1, b"keys"),
            field(2, b""),
            vec![7 << 3, 0],
            field(8, b""),
        ]
        .concat();
        let data = [field(1, b"a"), field(2, b"\xff\x00")].concat();
        let empty = [field(1, b"b"), field(2, b"")].concat();
        let raw = [
            field(1, &metadata),
            field(2, &data),
            field(2, &empty),
            field(3, b"Opaque"),
            vec![5 << 3, 0],
        ]
        .concat();
        let whole = body("v1", "Secret", &raw);
        let expected = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
            "data": {"a": "/wA=", "b": ""}, "type": "Opaque", "immutable": false});
        assert_eq!(read(&whole), Ok(expected));
        for length in [0, 3, 5, whole.len() - 5] {
            let cut = read(&whole[..length]);
            assert!(cut.is_err(), "{length}: {cut:?}");
        }
        let refused = |body: &[u8]| read(body).unwrap_err();
        assert!(refused(&body("v1", "Pod", b"")).contains("v1 Pod"));
        let more = refused(&body("v1", "Secret", &field(9, b"x")));
        assert!(more.contains("field 9 of Secret"), "{more}");
    }
}
