//! Owns service-account tokens: signing, the published keys and verification. Must not decide what a user may do.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::clock::stamp;
use crate::handler::{Call, Core};
use crate::object;
use crate::request::User;
use crate::status::{Cause, Failure};
use crate::storage::Key;

/// Why there is no key or a token does not hold.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The key file cannot be used.
    #[error("signing key {path}: {message}: remove the file to make a new key")]
    Key {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A token is not accepted.
    #[error("the token is not valid: {0}")]
    Invalid(&'static str),
}

impl TokenError {
    /// Stable word for logs and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Key { .. } => "SigningKey",
            Self::Invalid(_) => "InvalidToken",
        }
    }
}

/// Signs service-account tokens with ES256.
pub struct Issuer {
    url: String,
    key: EcdsaKeyPair,
    id: String,
    random: SystemRandom,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("url", &self.url)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// Reads the key at `path`, or makes it (mode 0600). `url` becomes the `iss` claim.
    ///
    /// # Errors
    /// When the file cannot be read, made or understood.
    pub fn open(path: &Path, url: &str) -> Result<Self, TokenError> {
        let broken = |message: String| TokenError::Key {
            path: path.display().to_string(),
            message,
        };
        let random = SystemRandom::new();
        let document = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .map_err(|_| broken("no randomness".to_owned()))?;
                crate::server::private::write(path, made.as_ref())
                    .map_err(|e| broken(e.to_string()))?;
                made.as_ref().to_vec()
            }
            Err(error) => return Err(broken(error.to_string())),
        };
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document, &random)
            .map_err(|e| broken(e.to_string()))?;
        let id = BASE64.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Self {
            url: url.to_owned(),
            key,
            id,
            random,
        })
    }

    /// `/openid/v1/jwks`.
    #[must_use]
    pub fn keys(&self) -> Value {
        // Uncompressed point: 0x04, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        let part = |from: usize| BASE64.encode(point.get(from..from + 32).unwrap_or_default());
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": part(1), "y": part(33),
        }]})
    }

    /// `/.well-known/openid-configuration`.
    #[must_use]
    pub fn configuration(&self) -> Value {
        json!({
            "issuer": self.url,
            "jwks_uri": format!("{}/openid/v1/jwks", self.url),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// Answers a TokenRequest for `account`.
    pub(crate) fn request(
        &self,
        account: &Value,
        request: &Value,
        call: &Call,
        core: &Core,
    ) -> Result<Arc<Value>, Failure> {
        let seconds = object::at(request, &["spec", "expirationSeconds"])
            .and_then(Value::as_i64)
            .unwrap_or(3_600);
        if seconds < 600 {
            let cause = Cause::invalid(
                "spec.expirationSeconds",
                &seconds.into(),
                "may not specify a duration less than 10 minutes",
            );
            return Err(Failure::invalid(
                &call.target.resource,
                object::name(account),
                &[cause],
            ));
        }
        let mut audiences: Vec<&str> = object::strings(request, &["spec", "audiences"]);
        if audiences.is_empty() {
            audiences.push(&self.url);
        }
        let namespace = object::namespace(account);
        let name = object::name(account);
        let mut bound = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": object::text(account, &["metadata", "uid"])},
        });
        let reference = object::at(request, &["spec", "boundObjectRef"])
            .cloned()
            .unwrap_or_default();
        if object::text(&reference, &["kind"]) == "Pod" {
            let pod_name = object::text(&reference, &["name"]);
            let key = Key {
                table: "pods".into(),
                namespace: namespace.to_owned(),
                name: pod_name.to_owned(),
            };
            let pods = core
                .registry
                .find("", "v1", "pods")
                .ok_or_else(Failure::no_such_path)?;
            let pod = core
                .state
                .get(&key)
                .ok_or_else(|| Failure::not_found(&pods, pod_name))?;
            let uid = object::text(&pod, &["metadata", "uid"]);
            let asked = object::text(&reference, &["uid"]);
            if !asked.is_empty() && asked != uid {
                let why = format!(
                    "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
                );
                return Err(Failure::conflict(&pods, pod_name, &why));
            }
            object::set(&mut bound, &["pod"], json!({"name": pod_name, "uid": uid}));
        }
        let expires = call
            .now
            .saturating_add(SignedDuration::from_secs(seconds))
            .unwrap_or(call.now);
        let claims = json!({
            "iss": self.url, "sub": format!("system:serviceaccount:{namespace}:{name}"), "aud": audiences,
            "iat": call.now.as_second(), "nbf": call.now.as_second(), "exp": expires.as_second(),
            "jti": format!("{}-{}", self.id.get(..8).unwrap_or_default(), call.now.as_nanosecond()),
            "kubernetes.io": bound,
        });
        let token = self
            .sign(&claims)
            .map_err(|e| Failure::internal(e.to_string()))?;
        let mut answer = request.clone();
        object::set(&mut answer, &["kind"], "TokenRequest".into());
        object::set(
            &mut answer,
            &["apiVersion"],
            "authentication.k8s.io/v1".into(),
        );
        object::set(
            &mut answer,
            &["metadata"],
            json!({"name": name, "namespace": namespace, "creationTimestamp": stamp(call.now)}),
        );
        object::set(&mut answer, &["spec", "audiences"], json!(audiences));
        object::set(&mut answer, &["spec", "expirationSeconds"], seconds.into());
        object::set(
            &mut answer,
            &["status"],
            json!({"token": token, "expirationTimestamp": stamp(expires)}),
        );
        Ok(Arc::new(answer))
    }

    fn sign(&self, claims: &Value) -> Result<String, TokenError> {
        let head = json!({"alg": "ES256", "kid": self.id});
        let text = format!(
            "{}.{}",
            BASE64.encode(head.to_string()),
            BASE64.encode(claims.to_string())
        );
        let signature = self
            .key
            .sign(&self.random, text.as_bytes())
            .map_err(|_| TokenError::Invalid("signing failed"))?;
        Ok(format!("{text}.{}", BASE64.encode(signature.as_ref())))
    }

    /// The claims of a token of this issuer that is valid at `now`.
    ///
    /// # Errors
    /// When signature, issuer or time do not fit.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Value, TokenError> {
        let (text, signature) = token
            .rsplit_once('.')
            .ok_or(TokenError::Invalid("not a JWT"))?;
        let signature = BASE64
            .decode(signature)
            .map_err(|_| TokenError::Invalid("not a JWT"))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(text.as_bytes(), &signature)
            .map_err(|_| TokenError::Invalid("signature"))?;
        let claims = text
            .split_once('.')
            .and_then(|(_, c)| BASE64.decode(c).ok());
        let claims: Value = claims
            .and_then(|c| serde_json::from_slice(&c).ok())
            .ok_or(TokenError::Invalid("not a JWT"))?;
        let second = |key: &str| claims.get(key).and_then(Value::as_i64).unwrap_or_default();
        if object::text(&claims, &["iss"]) != self.url {
            return Err(TokenError::Invalid("issuer"));
        }
        if now.as_second() >= second("exp") || now.as_second() < second("nbf") {
            return Err(TokenError::Invalid("expired"));
        }
        Ok(claims)
    }

    /// The user that a token for this API server stands for.
    ///
    /// # Errors
    /// As `verify`, or when the token is meant for others.
    pub fn user(&self, token: &str, now: Timestamp) -> Result<User, TokenError> {
        let claims = self.verify(token, now)?;
        if !object::strings(&claims, &["aud"]).contains(&self.url.as_str()) {
            return Err(TokenError::Invalid("audience"));
        }
        let namespace = object::text(&claims, &["kubernetes.io", "namespace"]);
        let mut extra = Vec::new();
        for (key, field) in [
            ("authentication.kubernetes.io/pod-name", "name"),
            ("authentication.kubernetes.io/pod-uid", "uid"),
        ] {
            let value = object::text(&claims, &["kubernetes.io", "pod", field]);
            if !value.is_empty() {
                extra.push((key.to_owned(), vec![value.to_owned()]));
            }
        }
        Ok(User {
            name: object::text(&claims, &["sub"]).to_owned(),
            uid: object::text(&claims, &["kubernetes.io", "serviceaccount", "uid"]).to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
            extra,
        })
    }
}
