//! Owns the verification of projected service-account tokens against the cluster's published keys.
//! It must not know what a caller wants, only who it is. No TokenReview: that would be a cluster-wide right.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::signature;
use serde::Deserialize;

/// The keys the API server publishes at `/openid/v1/jwks`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug, Clone, Deserialize)]
struct Key {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not three base64url parts of JSON.
    #[error("not a JSON web token: {0}")]
    Malformed(&'static str),
    /// Another algorithm than ES256 or RS256.
    #[error("algorithm {0} is not accepted (ES256 and RS256 are)")]
    Algorithm(String),
    /// No published key fits; the keys may have been rotated.
    #[error("no published key fits the token")]
    UnknownKey,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
    /// Issued for someone else.
    #[error("the token is not for audience {0}")]
    Audience(String),
    /// Issued by someone else.
    #[error("the token was issued by {0}")]
    Issuer(String),
    /// Outside its time.
    #[error("the token is expired or not valid yet")]
    Time,
    /// Not bound to a pod.
    #[error("the token is not bound to a pod")]
    NotBound,
}

impl Error {
    /// Stable word for metrics and logs.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "TokenMalformed",
            Self::Algorithm(_) => "TokenAlgorithm",
            Self::UnknownKey => "TokenKeyUnknown",
            Self::Signature => "TokenSignature",
            Self::Audience(_) => "TokenAudience",
            Self::Issuer(_) => "TokenIssuer",
            Self::Time => "TokenExpired",
            Self::NotBound => "TokenNotBound",
        }
    }
}

/// The pod a verified token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    aud: Audience,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Bound>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    pod: Option<BoundPod>,
}

#[derive(Deserialize)]
struct BoundPod {
    name: String,
    uid: String,
}

/// What a token must satisfy beside its signature.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// Audience it must be issued for.
    pub audience: &'a str,
    /// Issuer it must come from; `None` accepts whoever owns the published keys.
    pub issuer: Option<&'a str>,
    /// The present moment.
    pub now: Timestamp,
}

/// Verifies `token` and says which pod it belongs to.
///
/// # Errors
/// The first rule that the token breaks.
pub fn verify(token: &str, keys: &KeySet, expected: &Expected<'_>) -> Result<Identity, Error> {
    let (signed, signature) = token
        .rsplit_once('.')
        .ok_or(Error::Malformed("no signature"))?;
    let (header, claims) = signed
        .split_once('.')
        .ok_or(Error::Malformed("no claims"))?;
    let signature = decode(signature)?;
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|_| Error::Malformed("header"))?;
    if header.alg != "ES256" && header.alg != "RS256" {
        return Err(Error::Algorithm(header.alg));
    }
    let mut fitting = keys.keys.iter().filter(|key| key.fits(&header)).peekable();
    if fitting.peek().is_none() {
        return Err(Error::UnknownKey);
    }
    if !fitting.any(|key| key.verifies(&header.alg, signed.as_bytes(), &signature)) {
        return Err(Error::Signature);
    }
    let claims: Claims =
        serde_json::from_slice(&decode(claims)?).map_err(|_| Error::Malformed("claims"))?;
    if !claims.aud.contains(expected.audience) {
        return Err(Error::Audience(expected.audience.to_owned()));
    }
    if expected.issuer.is_some_and(|issuer| issuer != claims.iss) {
        return Err(Error::Issuer(claims.iss));
    }
    let now = expected.now.as_second();
    if claims.exp <= now || claims.nbf.is_some_and(|nbf| nbf > now.saturating_add(60)) {
        return Err(Error::Time);
    }
    let bound = claims.kubernetes.ok_or(Error::NotBound)?;
    let pod = bound.pod.ok_or(Error::NotBound)?;
    Ok(Identity {
        namespace: bound.namespace,
        pod: pod.name,
        uid: pod.uid,
    })
}

impl Key {
    fn fits(&self, header: &Header) -> bool {
        let kind = match header.alg.as_str() {
            "ES256" => self.kty == "EC" && self.crv.as_deref() == Some("P-256"),
            _ => self.kty == "RSA",
        };
        kind && (header.kid.is_none() || self.kid == header.kid)
    }

    fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let part = |part: &Option<String>| part.as_deref().and_then(|p| decode(p).ok());
        if algorithm == "ES256" {
            let (Some(x), Some(y)) = (part(&self.x), part(&self.y)) else {
                return false;
            };
            let point: Vec<u8> = [&[4_u8][..], &x, &y].concat();
            let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
            return key.verify(message, signature).is_ok();
        }
        let (Some(n), Some(e)) = (part(&self.n), part(&self.e)) else {
            return false;
        };
        let key = signature::RsaPublicKeyComponents { n, e };
        key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
            .is_ok()
    }
}

fn decode(part: &str) -> Result<Vec<u8>, Error> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Error::Malformed("base64"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    /// A signer as the API server has one.
    pub(crate) struct Signer(EcdsaKeyPair);

    impl Signer {
        pub(crate) fn new() -> Self {
            let random = SystemRandom::new();
            let pkcs8 =
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self(
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
                    .unwrap(),
            )
        }

        pub(crate) fn keys(&self) -> serde_json::Value {
            let point = self.0.public_key().as_ref();
            let (x, y) = (
                URL_SAFE_NO_PAD.encode(&point[1..33]),
                URL_SAFE_NO_PAD.encode(&point[33..]),
            );
            json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256", "x": x, "y": y}]})
        }

        pub(crate) fn sign(
            &self,
            header: &serde_json::Value,
            claims: &serde_json::Value,
        ) -> String {
            let part = |v: &serde_json::Value| URL_SAFE_NO_PAD.encode(v.to_string());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = self
                .0
                .sign(&SystemRandom::new(), signed.as_bytes())
                .unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        }
    }

    pub(crate) fn claims(pod: &str, uid: &str) -> serde_json::Value {
        json!({"iss": "https://kubernetes.default.svc", "aud": ["bessemer-operator"], "exp": 2000, "nbf": 900,
            "kubernetes.io": {"namespace": "ns", "pod": {"name": pod, "uid": uid}, "serviceaccount": {"name": "default", "uid": "s"}}})
    }

    fn check(
        change: impl FnOnce(&mut serde_json::Value, &mut serde_json::Value),
    ) -> Result<Identity, Error> {
        let signer = Signer::new();
        let (mut header, mut claims) = (
            json!({"alg": "ES256", "kid": "k1"}),
            claims("worker-0", "u1"),
        );
        change(&mut header, &mut claims);
        let keys = serde_json::from_value(signer.keys()).unwrap();
        let now = Timestamp::from_second(1000).unwrap();
        let expected = Expected {
            audience: "bessemer-operator",
            issuer: Some("https://kubernetes.default.svc"),
            now,
        };
        verify(&signer.sign(&header, &claims), &keys, &expected)
    }

    #[test]
    fn accepts_a_bound_token_and_names_its_pod() {
        let identity = check(|_, _| {}).unwrap();
        assert_eq!(
            identity,
            Identity {
                namespace: "ns".into(),
                pod: "worker-0".into(),
                uid: "u1".into()
            }
        );
    }

    #[test]
    fn refuses_each_broken_rule() {
        assert_eq!(
            check(|_, c| c["aud"] = json!("other")),
            Err(Error::Audience("bessemer-operator".into()))
        );
        assert_eq!(check(|_, c| c["exp"] = json!(1000)), Err(Error::Time));
        assert_eq!(check(|_, c| c["nbf"] = json!(1061)), Err(Error::Time));
        assert_eq!(
            check(|_, c| c["iss"] = json!("https://evil")),
            Err(Error::Issuer("https://evil".into()))
        );
        assert_eq!(
            check(|_, c| c["kubernetes.io"]["pod"] = json!(null)),
            Err(Error::NotBound)
        );
        assert_eq!(
            check(|h, _| h["alg"] = json!("none")),
            Err(Error::Algorithm("none".into()))
        );
        assert_eq!(
            check(|h, _| h["alg"] = json!("RS256")),
            Err(Error::UnknownKey),
            "an EC key is no RSA key"
        );
        assert_eq!(check(|h, _| h["kid"] = json!("k2")), Err(Error::UnknownKey));
    }

    #[test]
    fn refuses_a_changed_token_and_foreign_keys() {
        let (signer, other) = (Signer::new(), Signer::new());
        let token = signer.sign(&json!({"alg": "ES256"}), &claims("p", "u"));
        let now = Timestamp::from_second(1000).unwrap();
        let expected = Expected {
            audience: "bessemer-operator",
            issuer: None,
            now,
        };
        let (own, foreign): (KeySet, KeySet) = (
            serde_json::from_value(signer.keys()).unwrap(),
            serde_json::from_value(other.keys()).unwrap(),
        );
        assert!(verify(&token, &own, &expected).is_ok());
        assert_eq!(verify(&token, &foreign, &expected), Err(Error::Signature));
        let forged = signer.sign(&json!({"alg": "ES256"}), &claims("q", "u"));
        let mixed = format!(
            "{}.{}",
            forged.rsplit_once('.').unwrap().0,
            token.rsplit_once('.').unwrap().1
        );
        assert_eq!(verify(&mixed, &own, &expected), Err(Error::Signature));
        assert!(matches!(
            verify("a.b", &own, &expected),
            Err(Error::Malformed(_))
        ));
    }
}
