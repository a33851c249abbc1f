//! The S3 operations: owns the translation between requests and the directory.
//! It must not touch files except through `Directory` and `Uploads` and their temporary paths.

use std::io::{self, Seek};
use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::directory::{Condition, Directory, Entry, StoreError};
use super::upload::Uploads;

/// Answers S3 requests from one directory.
pub struct Service {
    directory: Arc<Directory>,
    uploads: Arc<Uploads>,
}

impl Service {
    pub fn new(directory: Arc<Directory>) -> Self {
        let uploads = Arc::new(Uploads::new(directory.clone()));
        Self { directory, uploads }
    }

    /// Runs a blocking file operation beside the request tasks.
    async fn files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, StoreError> + Send + 'static,
    ) -> S3Result<T> {
        let directory = self.directory.clone();
        blocking(move || work(&directory)).await
    }

    async fn upload<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Uploads) -> Result<T, StoreError> + Send + 'static,
    ) -> S3Result<T> {
        let uploads = self.uploads.clone();
        blocking(move || work(&uploads)).await
    }

    /// Writes a body to a synced temporary file and checks the digests that came with it.
    async fn receive(&self, mut body: Received) -> S3Result<(PathBuf, String)> {
        let path = self.directory.temporary();
        let written = write_body(&path, &mut body).await;
        match written {
            Ok(digest) => Ok((path, digest)),
            Err(error) => {
                let _ = tokio::fs::remove_file(&path).await;
                Err(error)
            }
        }
    }

    async fn page(
        &self,
        bucket: String,
        prefix: Option<String>,
        delimiter: Option<String>,
        after: Option<String>,
        limit: Option<i32>,
    ) -> S3Result<super::Listing> {
        let limit = usize::try_from(limit.unwrap_or(1000))
            .unwrap_or(0)
            .min(1000);
        self.files(move |d| {
            d.list(
                &bucket,
                prefix.as_deref().unwrap_or(""),
                delimiter.as_deref(),
                after.as_deref(),
                limit,
            )
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> S3Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(refuse),
        Err(error) => Err(S3Error::internal_error(error)),
    }
}

/// A body with the digests its sender promised.
struct Received {
    body: Option<StreamingBlob>,
    length: Option<i64>,
    md5: Option<String>,
    algorithm: Option<ChecksumAlgorithm>,
    promised: Checksum,
    trailers: Option<TrailingHeaders>,
}

async fn write_body(path: &std::path::Path, received: &mut Received) -> S3Result<String> {
    let failed = |e: io::Error| refuse(StoreError::file("write", path, e));
    let mut body = received
        .body
        .take()
        .ok_or_else(|| s3_error!(IncompleteBody))?;
    let promised = &mut received.promised;
    let named = received.algorithm.as_ref().map(ChecksumAlgorithm::as_str);
    let wanted = |given: &Option<String>, name| given.is_some() || named == Some(name);
    let mut hasher = ChecksumHasher {
        crc32: wanted(&promised.checksum_crc32, ChecksumAlgorithm::CRC32).then(Crc32::default),
        crc32c: wanted(&promised.checksum_crc32c, ChecksumAlgorithm::CRC32C).then(Crc32c::default),
        sha1: wanted(&promised.checksum_sha1, ChecksumAlgorithm::SHA1).then(Sha1::default),
        sha256: wanted(&promised.checksum_sha256, ChecksumAlgorithm::SHA256).then(Sha256::default),
        crc64nvme: wanted(&promised.checksum_crc64nvme, ChecksumAlgorithm::CRC64NVME)
            .then(Crc64Nvme::default),
    };
    let mut md5 = Md5::new();
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    let mut length = 0_i64;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| S3Error::with_source(S3ErrorCode::IncompleteBody, e))?;
        length += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
        md5.update(&chunk);
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(failed)?;
    }
    if received.length.is_some_and(|expected| expected != length) {
        return Err(s3_error!(IncompleteBody));
    }
    file.sync_all().await.map_err(failed)?;
    let digest = md5.finalize();
    if let Some(expected) = &received.md5 {
        let given = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, digest);
        if given != *expected {
            return Err(s3_error!(BadDigest, "Content-MD5 does not match the body"));
        }
    }
    if let Some(trailers) = received.trailers.take().and_then(|t| t.take()) {
        let trailer = |name: &str| {
            trailers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        };
        promised.checksum_crc32 =
            trailer("x-amz-checksum-crc32").or(promised.checksum_crc32.take());
        promised.checksum_crc32c =
            trailer("x-amz-checksum-crc32c").or(promised.checksum_crc32c.take());
        promised.checksum_sha1 = trailer("x-amz-checksum-sha1").or(promised.checksum_sha1.take());
        promised.checksum_sha256 =
            trailer("x-amz-checksum-sha256").or(promised.checksum_sha256.take());
        promised.checksum_crc64nvme =
            trailer("x-amz-checksum-crc64nvme").or(promised.checksum_crc64nvme.take());
    }
    let computed = hasher.finalize();
    let differs =
        |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
    if differs(&computed.checksum_crc32, &promised.checksum_crc32)
        || differs(&computed.checksum_crc32c, &promised.checksum_crc32c)
        || differs(&computed.checksum_sha1, &promised.checksum_sha1)
        || differs(&computed.checksum_sha256, &promised.checksum_sha256)
        || differs(&computed.checksum_crc64nvme, &promised.checksum_crc64nvme)
    {
        return Err(s3_error!(
            BadDigest,
            "x-amz-checksum does not match the body"
        ));
    }
    Ok(hex::encode(digest))
}

fn refuse(error: StoreError) -> S3Error {
    let code = match &error {
        StoreError::KeyInvalid(_) => S3ErrorCode::InvalidArgument,
        StoreError::KeyConflict(_) => S3ErrorCode::InvalidRequest,
        StoreError::NoSuchKey(_) => S3ErrorCode::NoSuchKey,
        StoreError::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
        StoreError::NoSuchUpload(_) => S3ErrorCode::NoSuchUpload,
        StoreError::InvalidPart(_) => S3ErrorCode::InvalidPart,
        StoreError::PreconditionFailed(_) => S3ErrorCode::PreconditionFailed,
        StoreError::NoSpace(_) | StoreError::File { .. } => S3ErrorCode::InternalError,
    };
    let full = matches!(error, StoreError::NoSpace(_));
    let mut out = S3Error::with_message(code, error.to_string());
    if full {
        out.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
    }
    out
}

fn condition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Condition::Present(None)),
        (Some(ETagCondition::ETag(tag)), None) => Ok(Condition::Present(Some(tag.into_value()))),
        _ => Err(s3_error!(
            NotImplemented,
            "a write takes If-Match, or If-None-Match: *, not both"
        )),
    }
}

fn tag(entry: &Entry) -> ETag {
    ETag::Strong(entry.tag.clone())
}

fn size(entry: &Entry) -> i64 {
    i64::try_from(entry.size).unwrap_or(i64::MAX)
}

/// 412 or 304 where the reader's conditions do not hold.
fn readable(
    found: &Entry,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let matches = |c: &ETagCondition| c.as_etag().is_none_or(|t| t.value() == found.tag);
    if if_match.is_some_and(|c| !matches(c)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if if_none_match.is_some_and(matches) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.files(move |d| d.create_bucket(&req.input.bucket))
            .await?;
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files(move |d| d.bucket(&req.input.bucket)).await?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.files(move |d| d.bucket(&req.input.bucket)).await?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(
        &self,
        _: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let names = self.files(Directory::buckets).await?;
        let buckets = names.into_iter().map(|name| Bucket {
            name: Some(name),
            ..Default::default()
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            ..Default::default()
        }))
    }

    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let condition = condition(input.if_match, input.if_none_match)?;
        let (bucket, key) = (input.bucket, input.key);
        let (b, k, c) = (bucket.clone(), key.clone(), condition.clone());
        // Refuse early what the commit would refuse, before a large body is written.
        self.files(move |d| match (c, d.entry(&b, &k)) {
            (Condition::Absent, Ok(_)) => Err(StoreError::PreconditionFailed(k)),
            (_, Err(error)) if !matches!(error, StoreError::NoSuchKey(_)) => Err(error),
            _ => Ok(()),
        })
        .await?;
        let (from, _) = self
            .receive(Received {
                body: input.body,
                length: input.content_length,
                md5: input.content_md5,
                algorithm: input.checksum_algorithm,
                promised: Checksum {
                    checksum_crc32: input.checksum_crc32,
                    checksum_crc32c: input.checksum_crc32c,
                    checksum_sha1: input.checksum_sha1,
                    checksum_sha256: input.checksum_sha256,
                    checksum_crc64nvme: input.checksum_crc64nvme,
                    ..Default::default()
                },
                trailers: req.trailing_headers,
            })
            .await?;
        let entry = self
            .files(move |d| d.commit(&from, &bucket, &key, &condition))
            .await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(tag(&entry)),
            ..Default::default()
        }))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let (mut file, entry) = self
            .files(move |d| d.open_key(&input.bucket, &input.key))
            .await?;
        readable(
            &entry,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        let range = input
            .range
            .map(|range| range.check(entry.size))
            .transpose()?;
        let part = range.clone().unwrap_or(0..entry.size);
        if part.start > 0 {
            let from = io::SeekFrom::Start(part.start);
            file.seek(from).map_err(S3Error::internal_error)?;
        }
        let length = part.end - part.start;
        let reader =
            ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(length), 256 * 1024);
        let content_range = range.map(|_| {
            format!(
                "bytes {}-{}/{}",
                part.start,
                part.end.saturating_sub(1),
                entry.size
            )
        });
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(reader.map_err(io::Error::other))),
            content_length: i64::try_from(length).ok(),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            last_modified: Some(entry.modified.into()),
            e_tag: Some(tag(&entry)),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let entry = self
            .files(move |d| d.entry(&input.bucket, &input.key))
            .await?;
        readable(
            &entry,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(size(&entry)),
            accept_ranges: Some("bytes".to_owned()),
            last_modified: Some(entry.modified.into()),
            e_tag: Some(tag(&entry)),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files(move |d| d.delete(&req.input.bucket, &req.input.key))
            .await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        let quiet = input.delete.quiet.unwrap_or(false);
        let output = self
            .files(move |d| {
                d.bucket(&input.bucket)?;
                let mut output = DeleteObjectsOutput::default();
                for object in input.delete.objects {
                    match d.delete(&input.bucket, &object.key) {
                        Ok(()) if quiet => {}
                        Ok(()) => output.deleted.get_or_insert_default().push(DeletedObject {
                            key: Some(object.key),
                            ..Default::default()
                        }),
                        Err(error) => output.errors.get_or_insert_default().push(Error {
                            key: Some(object.key),
                            code: Some(error.category().to_owned()),
                            message: Some(error.to_string()),
                            ..Default::default()
                        }),
                    }
                }
                Ok(output)
            })
            .await?;
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let after = match &input.continuation_token {
            Some(token) => Some(
                hex::decode(token)
                    .ok()
                    .and_then(|raw| String::from_utf8(raw).ok())
                    .ok_or_else(|| {
                        s3_error!(InvalidArgument, "the continuation token is not one of ours")
                    })?,
            ),
            None => input.start_after.clone(),
        };
        let page = self
            .page(
                input.bucket.clone(),
                input.prefix.clone(),
                input.delimiter.clone(),
                after,
                input.max_keys,
            )
            .await?;
        let count = page.entries.len() + page.prefixes.len();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(input.prefix.unwrap_or_default()),
            delimiter: input.delimiter,
            start_after: input.start_after,
            continuation_token: input.continuation_token,
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            key_count: i32::try_from(count).ok(),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(hex::encode),
            contents: Some(page.entries.iter().map(listed).collect()),
            common_prefixes: Some(
                page.prefixes
                    .into_iter()
                    .map(|p| CommonPrefix { prefix: Some(p) })
                    .collect(),
            ),
            ..Default::default()
        }))
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = req.input;
        let page = self
            .page(
                input.bucket.clone(),
                input.prefix.clone(),
                input.delimiter.clone(),
                input.marker.clone(),
                input.max_keys,
            )
            .await?;
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(input.prefix.unwrap_or_default()),
            delimiter: input.delimiter,
            marker: input.marker,
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            is_truncated: Some(page.next.is_some()),
            next_marker: page.next,
            contents: Some(page.entries.iter().map(listed).collect()),
            common_prefixes: Some(
                page.prefixes
                    .into_iter()
                    .map(|p| CommonPrefix { prefix: Some(p) })
                    .collect(),
            ),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let (bucket, key) = (req.input.bucket, req.input.key);
        let (b, k) = (bucket.clone(), key.clone());
        let id = self.upload(move |u| u.create(&b, &k)).await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let (from, digest) = self
            .receive(Received {
                body: input.body,
                length: input.content_length,
                md5: input.content_md5,
                algorithm: input.checksum_algorithm,
                promised: Checksum {
                    checksum_crc32: input.checksum_crc32,
                    checksum_crc32c: input.checksum_crc32c,
                    checksum_sha1: input.checksum_sha1,
                    checksum_sha256: input.checksum_sha256,
                    checksum_crc64nvme: input.checksum_crc64nvme,
                    ..Default::default()
                },
                trailers: req.trailing_headers,
            })
            .await?;
        let part_tag = digest.clone();
        self.upload(move |u| {
            u.part(
                &input.bucket,
                &input.key,
                &input.upload_id,
                input.part_number,
                from,
                &digest,
            )
        })
        .await?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(part_tag)),
            ..Default::default()
        }))
    }

    async fn list_parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let (b, k, id) = (
            input.bucket.clone(),
            input.key.clone(),
            input.upload_id.clone(),
        );
        let parts = self.upload(move |u| u.parts(&b, &k, &id)).await?;
        let parts = parts.into_iter().map(|(number, tag, size)| Part {
            part_number: Some(number),
            e_tag: Some(ETag::Strong(tag)),
            size: i64::try_from(size).ok(),
            ..Default::default()
        });
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(false),
            parts: Some(parts.collect()),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let condition = condition(input.if_match, input.if_none_match)?;
        let named = input
            .multipart_upload
            .and_then(|u| u.parts)
            .unwrap_or_default();
        let named: Vec<_> = named
            .into_iter()
            .map(|p| {
                (
                    p.part_number.unwrap_or_default(),
                    p.e_tag.map(ETag::into_value),
                )
            })
            .collect();
        let (b, k) = (input.bucket.clone(), input.key.clone());
        let entry = self
            .upload(move |u| u.complete(&b, &k, &input.upload_id, &named, &condition))
            .await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(tag(&entry)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        self.upload(move |u| u.abort(&input.bucket, &input.key, &input.upload_id))
            .await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

fn listed(entry: &Entry) -> Object {
    Object {
        key: Some(entry.key.clone()),
        size: Some(size(entry)),
        e_tag: Some(tag(entry)),
        last_modified: Some(entry.modified.into()),
        ..Default::default()
    }
}
