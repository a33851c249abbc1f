//! The store as an S3 client sees it: aws-sdk-s3 over a socket.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials as AwsCredentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::*;

struct Server {
    client: Client,
    endpoint: String,
    root: tempfile::TempDir,
    stop: CancellationToken,
}

fn credentials() -> Credentials {
    Credentials { access_key: "test".into(), secret_key: "secret".into() }
}

fn client(endpoint: &str, secret: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("local"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .credentials_provider(AwsCredentials::new("test", secret, None, None, "test"))
        .http_client(http)
        .build();
    Client::from_conf(config)
}

async fn start() -> Server {
    let root = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let (path, token) = (root.path().to_path_buf(), stop.clone());
    tokio::spawn(async move { serve(listener, &path, &credentials(), token).await });
    let client = client(&endpoint, "secret");
    client.create_bucket().bucket("bessemer").send().await.unwrap();
    Server { client, endpoint, root, stop }
}

impl Server {
    async fn put(&self, key: &str, body: &[u8]) {
        let body = ByteStream::from(body.to_vec());
        self.client.put_object().bucket("bessemer").key(key).body(body).send().await.unwrap();
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let got = self.client.get_object().bucket("bessemer").key(key).send().await.unwrap();
        got.body.collect().await.unwrap().to_vec()
    }
}

#[tokio::test]
async fn conditional_puts_have_one_winner() {
    let server = start().await;
    let mut tries = Vec::new();
    for n in 0..16_u8 {
        let put = server.client.put_object().bucket("bessemer").key("a/run.json").if_none_match("*");
        tries.push(tokio::spawn(put.body(ByteStream::from(vec![n; 1000])).send()));
    }
    let mut winners = Vec::new();
    for (n, done) in tries.into_iter().enumerate() {
        match done.await.unwrap() {
            Ok(_) => winners.push(n),
            Err(error) => assert_eq!(error.raw_response().unwrap().status().as_u16(), 412),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(server.get("a/run.json").await, vec![winners[0] as u8; 1000]);
    server.stop.cancel();
}

#[tokio::test]
async fn if_match_refuses_a_replaced_object() {
    let server = start().await;
    server.put("k", b"one").await;
    let head = server.client.head_object().bucket("bessemer").key("k").send().await.unwrap();
    let old = head.e_tag().unwrap().to_owned();
    server.put("k", b"two").await;
    let put = server.client.put_object().bucket("bessemer").key("k").if_match(old);
    let refused = put.body(ByteStream::from_static(b"three")).send().await.unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 412);
    assert_eq!(server.get("k").await, b"two");
}

#[tokio::test]
async fn ranges_are_cut_exactly() {
    let server = start().await;
    server.put("r", b"0123456789").await;
    for (range, expected) in [("bytes=2-4", "234"), ("bytes=7-", "789"), ("bytes=-2", "89"), ("bytes=0-99", "0123456789")] {
        let got = server.client.get_object().bucket("bessemer").key("r").range(range).send().await.unwrap();
        assert_eq!(got.body.collect().await.unwrap().to_vec(), expected.as_bytes(), "{range}");
    }
    let beyond = server.client.get_object().bucket("bessemer").key("r").range("bytes=10-").send().await.unwrap_err();
    assert_eq!(beyond.raw_response().unwrap().status().as_u16(), 416);
}

#[tokio::test]
async fn listing_is_ordered_paged_and_grouped() {
    let server = start().await;
    let keys = ["a/b/2", "a/b/1", "a-b", "a/c", "b", "a.txt", "a/b.txt"];
    for key in keys {
        server.put(key, b"x").await;
    }
    let mut expected: Vec<_> = keys.iter().map(|k| (*k).to_owned()).collect();
    expected.sort();
    let mut found = Vec::new();
    let mut pages = server.client.list_objects_v2().bucket("bessemer").into_paginator().page_size(2).send();
    while let Some(page) = pages.next().await {
        found.extend(page.unwrap().contents().iter().map(|o| o.key().unwrap().to_owned()));
    }
    assert_eq!(found, expected);
    let grouped = server.client.list_objects_v2().bucket("bessemer").prefix("a/").delimiter("/").send().await.unwrap();
    let prefixes: Vec<_> = grouped.common_prefixes().iter().filter_map(|p| p.prefix()).collect();
    let contents: Vec<_> = grouped.contents().iter().filter_map(|o| o.key()).collect();
    assert_eq!((prefixes, contents), (vec!["a/b/"], vec!["a/b.txt", "a/c"]));
}

#[tokio::test]
async fn multipart_joins_parts_and_a_missing_part_is_refused() {
    let server = start().await;
    let create = server.client.create_multipart_upload().bucket("bessemer").key("big").send().await.unwrap();
    let id = create.upload_id().unwrap();
    let mut parts = Vec::new();
    for (number, byte) in [(1, b'a'), (2, b'b')] {
        let upload = server.client.upload_part().bucket("bessemer").key("big").upload_id(id).part_number(number);
        let done = upload.body(ByteStream::from(vec![byte; 6 << 20])).send().await.unwrap();
        parts.push(CompletedPart::builder().part_number(number).e_tag(done.e_tag().unwrap()).build());
    }
    let complete = |parts: Vec<CompletedPart>| {
        let named = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        server.client.complete_multipart_upload().bucket("bessemer").key("big").upload_id(id).multipart_upload(named).send()
    };
    let mut wrong = parts.clone();
    wrong.push(CompletedPart::builder().part_number(3).e_tag("none").build());
    assert!(complete(wrong).await.is_err());
    assert!(server.client.head_object().bucket("bessemer").key("big").send().await.is_err());
    complete(parts).await.unwrap();
    let whole = server.get("big").await;
    assert_eq!(whole.len(), 12 << 20);
    assert!(whole[..6 << 20].iter().all(|b| *b == b'a') && whole[6 << 20..].iter().all(|b| *b == b'b'));
}

#[tokio::test]
async fn deletion_removes_empty_folders_and_bad_keys_are_refused() {
    let server = start().await;
    server.put("x/y/z", b"1").await;
    server.client.delete_object().bucket("bessemer").key("x/y/z").send().await.unwrap();
    assert!(!server.root.path().join("bessemer/x").exists());
    server.put("f", b"1").await;
    for key in ["f/below", "a/../../escape", "a//b"] {
        let put = server.client.put_object().bucket("bessemer").key(key).body(ByteStream::from_static(b"1"));
        let status = put.send().await.unwrap_err().raw_response().map(|r| r.status().as_u16());
        assert!(matches!(status, Some(400..=499)), "{key}: {status:?}");
    }
    assert!(!server.root.path().parent().unwrap().join("escape").exists());
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let server = start().await;
    server.put("k", b"1").await;
    let other = client(&server.endpoint, "guess");
    let refused = other.get_object().bucket("bessemer").key("k").send().await.unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 403);
}

#[test]
fn reopening_removes_unfinished_writes_and_keeps_keys() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    directory.create_bucket("bessemer").unwrap();
    let whole = directory.temporary();
    std::fs::write(&whole, b"whole").unwrap();
    directory.commit(&whole, "bessemer", "k", &directory::Condition::Absent).unwrap();
    let torn = directory.temporary();
    std::fs::write(&torn, b"to").unwrap();
    drop(directory);
    let directory = Directory::open(root.path()).unwrap();
    assert!(!torn.exists());
    let listing = directory.list("bessemer", "", None, None, 10).unwrap();
    assert_eq!(listing.entries.len(), 1);
}
