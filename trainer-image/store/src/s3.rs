//! Owns the S3 client: any S3-compatible store, path style, bounded retries and deadlines.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, StalledStreamProtectionConfig};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use crate::error::StoreError;
use crate::object::{ObjectMeta, ObjectStore, PutOutcome};

/// Files above this size go up in parts of this size. 10,000 parts of 64 MiB make 640 GB.
const PART_BYTES: u64 = 64 << 20;

/// Keys of a store.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Keys {
    /// AWS_ACCESS_KEY_ID.
    pub access_key_id: String,
    /// AWS_SECRET_ACCESS_KEY.
    pub secret_access_key: String,
    /// AWS_SESSION_TOKEN.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("S3Keys(..)")
    }
}

/// Where the bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// URL of an S3-compatible store; `None` means AWS.
    pub endpoint: Option<String>,
    /// Region.
    pub region: String,
    /// Bucket.
    pub bucket: String,
    /// Keys; `None` means AWS's default chain (environment, web identity, instance).
    pub keys: Option<S3Keys>,
    /// Deadline of one call over all its retries, parts of large files counted singly.
    pub deadline: Duration,
}

/// An object store that speaks S3.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
}

impl S3Store {
    /// Connects lazily; nothing is asked of the store yet.
    pub async fn new(settings: &S3Settings) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .operation_timeout(settings.deadline)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(settings.region.clone()))
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(6));
        if let Some(endpoint) = &settings.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(keys) = &settings.keys {
            loader = loader.credentials_provider(Credentials::new(
                &keys.access_key_id,
                &keys.secret_access_key,
                keys.session_token.clone(),
                None,
                "bessemer",
            ));
        }
        let shared = loader.load().await;
        let config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(settings.endpoint.is_some())
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled()
                    .grace_period(settings.deadline)
                    .build(),
            )
            .build();
        Self {
            client: Client::from_conf(config),
            bucket: settings.bucket.clone(),
        }
    }

    fn error<E, R>(&self, key: &str, error: SdkError<E, R>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        let code = error
            .as_service_error()
            .and_then(ProvideErrorMetadata::code)
            .unwrap_or_default()
            .to_string();
        let reason = error
            .as_service_error()
            .and_then(|service| service.message().or(service.code()).map(str::to_string))
            .unwrap_or_else(|| DisplayErrorContext(&error).to_string());
        match code.as_str() {
            "NoSuchKey" | "NotFound" => StoreError::NotFound { key: key.into() },
            "NoSuchBucket" => StoreError::NoBucket {
                bucket: self.bucket.clone(),
            },
            "AccessDenied"
            | "InvalidAccessKeyId"
            // versitygw's word for it, with status 404.
            | "XAdminUserNotFound"
            | "SignatureDoesNotMatch"
            | "Forbidden"
            | "ExpiredToken"
            | "InvalidToken" => StoreError::Denied {
                key: key.into(),
                reason: format!("{code}: {reason}"),
            },
            _ if reason.contains("CredentialsNotLoaded")
                || reason.contains("no providers in chain") =>
            {
                StoreError::Denied {
                    key: key.into(),
                    reason: "no credentials were found".into(),
                }
            }
            _ => StoreError::Unavailable {
                key: key.into(),
                reason,
            },
        }
    }

    async fn upload_parts(&self, key: &str, path: &Path, size: u64) -> Result<(), StoreError> {
        let created = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await
            .map_err(|error| self.error(key, error))?;
        let id = created.upload_id().unwrap_or_default().to_string();
        match self.send_parts(key, path, size, &id).await {
            Ok(parts) => self
                .client
                .complete_multipart_upload()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(&id)
                .multipart_upload(
                    CompletedMultipartUpload::builder()
                        .set_parts(Some(parts))
                        .build(),
                )
                .send()
                .await
                .map(drop)
                .map_err(|error| self.error(key, error)),
            Err(error) => {
                // Parts that stay cost money; that the abort fails too changes nothing about the error.
                let abort = self
                    .client
                    .abort_multipart_upload()
                    .bucket(&self.bucket)
                    .key(key)
                    .upload_id(&id);
                let _ = abort.send().await;
                Err(error)
            }
        }
    }

    async fn send_parts(
        &self,
        key: &str,
        path: &Path,
        size: u64,
        id: &str,
    ) -> Result<Vec<CompletedPart>, StoreError> {
        let mut parts = Vec::new();
        let mut offset = 0;
        let mut number = 1;
        while offset < size {
            let length = PART_BYTES.min(size - offset);
            let body = ByteStream::read_from()
                .path(path)
                .offset(offset)
                .length(aws_sdk_s3::primitives::Length::Exact(length))
                .build()
                .await
                .map_err(|error| StoreError::io(path, std::io::Error::other(error)))?;
            let sent = self
                .client
                .upload_part()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(id)
                .part_number(number)
                .body(body)
                .send()
                .await
                .map_err(|error| self.error(key, error))?;
            parts.push(
                CompletedPart::builder()
                    .set_e_tag(sent.e_tag)
                    .part_number(number)
                    .build(),
            );
            offset += length;
            number += 1;
        }
        Ok(parts)
    }
}

/// A body that ended early, or whose bytes are not those that were put (the store's checksum tells).
fn interrupted(key: &str, error: &(dyn std::error::Error + 'static)) -> StoreError {
    let reason = DisplayErrorContext(error).to_string();
    if reason.contains("checksum mismatch") {
        let file = key.rsplit('/').next().unwrap_or(key);
        return StoreError::Corrupt {
            file: file.into(),
            reason: "its bytes do not match the checksum that the store keeps".into(),
        };
    }
    StoreError::Unavailable {
        key: key.into(),
        reason,
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let answer = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await
            .map_err(|error| self.error(key, error))?;
        let body = answer.body.collect().await;
        body.map(|body| body.into_bytes())
            .map_err(|error| interrupted(key, &error))
    }

    async fn download(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let answer = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await
            .map_err(|error| self.error(key, error))?;
        let mut body = answer.body;
        let mut file = tokio::fs::File::create(path)
            .await
            .map_err(|source| StoreError::io(path, source))?;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| interrupted(key, &error))?;
            file.write_all(&piece)
                .await
                .map_err(|source| StoreError::io(path, source))?;
        }
        file.flush()
            .await
            .map_err(|source| StoreError::io(path, source))
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .body(ByteStream::from(body));
        put.send()
            .await
            .map(drop)
            .map_err(|error| self.error(key, error))
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<PutOutcome, StoreError> {
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .if_none_match("*");
        match put.body(ByteStream::from(body)).send().await {
            Ok(_) => Ok(PutOutcome::Written),
            Err(error) if error.code() == Some("PreconditionFailed") => Ok(PutOutcome::Exists),
            Err(error)
                if error
                    .raw_response()
                    .is_some_and(|raw| raw.status().as_u16() == 412) =>
            {
                Ok(PutOutcome::Exists)
            }
            Err(error) => Err(self.error(key, error)),
        }
    }

    async fn upload(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let size = tokio::fs::metadata(path)
            .await
            .map_err(|source| StoreError::io(path, source))?
            .len();
        if size > PART_BYTES {
            return self.upload_parts(key, path, size).await;
        }
        let body = ByteStream::from_path(path)
            .await
            .map_err(|error| StoreError::io(path, std::io::Error::other(error)))?;
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .body(body);
        put.send()
            .await
            .map(drop)
            .map_err(|error| self.error(key, error))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.error(prefix, error))?;
            found.extend(page.contents().iter().map(|object| {
                ObjectMeta {
                    key: object.key().unwrap_or_default().into(),
                    size: object
                        .size()
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or_default(),
                }
            }));
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let delete = self.client.delete_object().bucket(&self.bucket).key(key);
        match delete.send().await.map_err(|error| self.error(key, error)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// A server that answers every request with one error.
    fn refusing(status: &'static str, code: &'static str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 8192]);
                let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        endpoint
    }

    async fn asked(endpoint: String, keys: Option<S3Keys>) -> &'static str {
        let settings = S3Settings {
            endpoint: Some(endpoint),
            region: "us-east-1".into(),
            bucket: "bucket".into(),
            keys,
            deadline: Duration::from_secs(20),
        };
        let store = S3Store::new(&settings).await;
        store.get("key").await.unwrap_err().category()
    }

    #[tokio::test]
    async fn a_key_that_nobody_has_is_refused_in_every_servers_words() {
        for (status, code) in [
            ("403 Forbidden", "InvalidAccessKeyId"),
            ("404 Not Found", "XAdminUserNotFound"),
        ] {
            let keys = S3Keys {
                access_key_id: "nobody".into(),
                secret_access_key: "x".into(),
                session_token: None,
            };
            let found = asked(refusing(status, code), Some(keys)).await;
            assert_eq!(found, "StorageDenied", "{code}");
        }
    }

    /// In a process of its own: whether there are keys depends on variables and on the home directory.
    #[test]
    fn no_keys_at_all_is_not_a_store_that_is_away() {
        const MARK: &str = "BESSEMER_TEST_WITHOUT_KEYS";
        if std::env::var_os(MARK).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let found = runtime.block_on(asked("http://127.0.0.1:1".into(), None));
            assert_eq!(found, "StorageDenied");
            return;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "s3::tests::no_keys_at_all_is_not_a_store_that_is_away",
            ])
            .env_clear()
            .env(MARK, "1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}
