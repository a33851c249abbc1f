//! Commits under crashes and races, damage found by name, checkpoints and deletion, on the store in memory.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::*;

const AT: Location<'static> = Location {
    namespace: "ns",
    kind: "Dataset",
    name: "docs",
};

fn layout() -> Layout {
    Layout::new("bessemer", "p")
}

fn draft() -> Draft {
    Draft {
        kind: "Dataset".into(),
        inputs: vec![],
        parameters: json!({"a": 1}),
        seed: 1,
        code: Code::default(),
        statistics: Value::Null,
    }
}

fn source() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("shards")).unwrap();
    std::fs::write(directory.path().join("shards/0.bin"), b"0123456789").unwrap();
    std::fs::write(directory.path().join("tokenizer.json"), b"{}").unwrap();
    directory
}

/// Fails every write after the first `left`, before or after it took effect.
struct Crashing<'a> {
    inner: &'a MemoryStore,
    left: AtomicUsize,
    after: bool,
}

impl Crashing<'_> {
    async fn write<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        key: &str,
        write: F,
    ) -> Result<T, StoreError> {
        let crash = || StoreError::Unavailable {
            key: key.into(),
            reason: "crash".into(),
        };
        if self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_err()
        {
            if self.after {
                write.await?;
            }
            return Err(crash());
        }
        write.await
    }
}

#[async_trait]
impl ObjectStore for Crashing<'_> {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.inner.get(key).await
    }
    async fn download(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        self.inner.download(key, path).await
    }
    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.write(key, self.inner.put(key, body)).await
    }
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<PutOutcome, StoreError> {
        self.write(key, self.inner.put_if_absent(key, body)).await
    }
    async fn upload(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        self.write(key, self.inner.upload(key, path)).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.write(key, self.inner.delete(key)).await
    }
}

async fn publish_to(store: &dyn ObjectStore, directory: &Path) -> Result<Published, StoreError> {
    publish(store, &layout(), AT, Some("run"), directory, draft()).await
}

#[tokio::test]
async fn what_was_published_is_fetched_again_byte_for_byte() {
    let (store, from, cache) = (MemoryStore::new(), source(), tempfile::tempdir().unwrap());
    let published = publish_to(&store, from.path()).await.unwrap();
    let pointer = read_run(&store, &layout(), AT, "run")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (pointer.digest.as_str(), pointer.uri.as_str()),
        (published.digest.as_str(), published.uri.as_str())
    );
    assert_eq!(
        read_run(&store, &layout(), AT, "other").await.unwrap(),
        None
    );
    let (directory, manifest) = fetch(
        &store,
        &layout(),
        &pointer.uri,
        &pointer.digest,
        cache.path(),
    )
    .await
    .unwrap();
    assert_eq!(describe_directory(&directory).unwrap(), manifest.files);
    assert_eq!(manifest, published.manifest);
}

#[tokio::test]
async fn a_crash_before_or_after_any_write_ends_in_the_same_state() {
    let from = source();
    let undisturbed = MemoryStore::new();
    publish_to(&undisturbed, from.path()).await.unwrap();
    let writes = undisturbed.keys().len();
    assert_eq!(writes, 4);
    for after in [false, true] {
        for crash_at in 0..writes {
            let store = MemoryStore::new();
            let crashing = Crashing {
                inner: &store,
                left: AtomicUsize::new(crash_at),
                after,
            };
            publish_to(&crashing, from.path()).await.unwrap_err();
            let pointed = read_run(&store, &layout(), AT, "run")
                .await
                .unwrap()
                .is_some();
            assert_eq!(
                pointed,
                after && crash_at == writes - 1,
                "the pointer is the last write"
            );
            publish_to(&store, from.path()).await.unwrap();
            assert_eq!(store.keys(), undisturbed.keys());
        }
    }
}

#[tokio::test]
async fn of_two_writers_the_first_wins_and_a_different_result_is_an_error() {
    let (store, from) = (MemoryStore::new(), source());
    let first = publish_to(&store, from.path()).await.unwrap();
    let mut later = draft();
    later.statistics = json!({"seconds": 9});
    let second = publish(&store, &layout(), AT, Some("run"), from.path(), later)
        .await
        .unwrap();
    assert_eq!(
        first, second,
        "the manifest that is in the store is returned"
    );
    std::fs::write(from.path().join("tokenizer.json"), b"[]").unwrap();
    let error = publish_to(&store, from.path()).await.unwrap_err();
    assert_eq!(error.category(), "RunConflict");
}

#[tokio::test]
async fn damage_is_named_and_refused() {
    let (store, from) = (MemoryStore::new(), source());
    let published = publish_to(&store, from.path()).await.unwrap();
    let key = layout().key_of(&published.uri).unwrap();
    let fetch_again = async || {
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(
            &store,
            &layout(),
            &published.uri,
            &published.digest,
            cache.path(),
        )
        .await
        .unwrap_err();
        let leftovers = describe_directory(cache.path()).unwrap();
        assert!(
            leftovers
                .iter()
                .all(|file| !file.path.contains("partial") && !file.path.ends_with("0.bin"))
        );
        error.to_string()
    };
    store
        .put(
            &format!("{key}/shards/0.bin"),
            Bytes::from_static(b"0123456780"),
        )
        .await
        .unwrap();
    assert!(fetch_again().await.contains("shards/0.bin is damaged"));
    store
        .put(
            &format!("{key}/shards/0.bin"),
            Bytes::from_static(b"012345678"),
        )
        .await
        .unwrap();
    assert!(
        fetch_again()
            .await
            .contains("it has 9 bytes, the manifest says 10")
    );
    store.delete(&format!("{key}/shards/0.bin")).await.unwrap();
    assert!(fetch_again().await.contains("missing in the store"));
    let manifest = store.get(&format!("{key}/manifest.json")).await.unwrap();
    let flipped = String::from_utf8(manifest.to_vec())
        .unwrap()
        .replace("\"seed\": 1", "\"seed\": 2");
    store
        .put(&format!("{key}/manifest.json"), flipped.into())
        .await
        .unwrap();
    assert!(fetch_again().await.contains("manifest.json is damaged"));
}

#[tokio::test]
async fn a_damaged_cache_is_repaired() {
    let (store, from, cache) = (MemoryStore::new(), source(), tempfile::tempdir().unwrap());
    let published = publish_to(&store, from.path()).await.unwrap();
    let (directory, manifest) = fetch(
        &store,
        &layout(),
        &published.uri,
        &published.digest,
        cache.path(),
    )
    .await
    .unwrap();
    std::fs::write(directory.join("tokenizer.json"), b"xx").unwrap();
    fetch(
        &store,
        &layout(),
        &published.uri,
        &published.digest,
        cache.path(),
    )
    .await
    .unwrap();
    assert_eq!(describe_directory(&directory).unwrap(), manifest.files);
}

#[tokio::test]
async fn the_newest_good_checkpoint_is_used_and_pruning_keeps_it() {
    let (store, from, cache) = (MemoryStore::new(), source(), tempfile::tempdir().unwrap());
    let mut published = Vec::new();
    for step in [10, 20, 30] {
        std::fs::write(from.path().join("step"), step.to_string()).unwrap();
        published.push(
            publish_checkpoint(&store, &layout(), AT, "run", step, from.path(), draft())
                .await
                .unwrap(),
        );
    }
    // An interrupted upload of step 40 and a flipped byte in step 30.
    store
        .put(
            &format!("{}/step", layout().checkpoint(AT, "run", 40)),
            Bytes::from_static(b"40"),
        )
        .await
        .unwrap();
    store
        .put(
            &format!("{}/step", layout().checkpoint(AT, "run", 30)),
            Bytes::from_static(b"31"),
        )
        .await
        .unwrap();
    let (latest, damaged) = latest_checkpoint(&store, &layout(), AT, "run", cache.path())
        .await
        .unwrap();
    let (checkpoint, directory) = latest.unwrap();
    assert_eq!(
        (checkpoint.step, checkpoint.digest.as_str()),
        (20, published[1].digest.as_str())
    );
    assert_eq!(std::fs::read(directory.join("step")).unwrap(), b"20");
    assert!(damaged.len() == 1 && damaged[0].to_string().starts_with("step is damaged"));
    // The same step taken again after the damage replaces it.
    std::fs::write(from.path().join("step"), "30").unwrap();
    publish_checkpoint(&store, &layout(), AT, "run", 30, from.path(), draft())
        .await
        .unwrap();
    let (latest, damaged) = latest_checkpoint(&store, &layout(), AT, "run", cache.path())
        .await
        .unwrap();
    let (checkpoint, directory) = latest.unwrap();
    assert_eq!((checkpoint.step, damaged.len()), (30, 0));
    assert_eq!(std::fs::read(directory.join("step")).unwrap(), b"30");
    prune_checkpoints(&store, &layout(), AT, "run", 2)
        .await
        .unwrap();
    let steps: Vec<u64> = list_checkpoints(&store, &layout(), AT, "run")
        .await
        .unwrap()
        .iter()
        .map(|c| c.step)
        .collect();
    assert_eq!(steps, [30, 20]);
    assert!(!store.keys().iter().any(|key| key.contains("/0000000010/")));
}

/// Whatever of a committed artefact was damaged, committing the same content again makes it whole, and writes nothing
/// else.
#[tokio::test]
async fn committing_again_repairs_what_was_damaged() {
    let (store, from) = (MemoryStore::new(), source());
    let published = publish_to(&store, from.path()).await.unwrap();
    let keys = store.keys();
    let mut whole = Vec::new();
    for key in &keys {
        whole.push(store.get(key).await.unwrap());
    }
    for (key, good) in keys
        .iter()
        .zip(&whole)
        .filter(|(key, _)| !key.contains("/runs/"))
    {
        let mut flipped = good.to_vec();
        flipped[0] ^= 1;
        for damage in [flipped, good[..good.len() - 1].to_vec(), b"{}".to_vec()] {
            store.put(key, damage.into()).await.unwrap();
            // One write is enough: the second would crash.
            let once = Crashing {
                inner: &store,
                left: AtomicUsize::new(2),
                after: false,
            };
            let again = publish_to(&once, from.path()).await.unwrap();
            assert_eq!(again.digest, published.digest);
            assert_eq!(store.get(key).await.unwrap(), good, "{key}");
        }
    }
    assert_eq!(store.keys(), keys);
}

#[test]
fn every_way_of_a_disk_to_be_full_is_said_as_one() {
    // ENOSPC, EDQUOT, EFBIG.
    for code in [28, 122, 27] {
        let error = StoreError::io("/x", std::io::Error::from_raw_os_error(code));
        assert_eq!(error.category(), "DiskFull", "{error}");
    }
    let other = StoreError::io("/x", std::io::Error::from_raw_os_error(5));
    assert_eq!(other.category(), "LocalIo");
}

#[tokio::test]
async fn an_artefact_goes_with_its_pointers_and_checkpoints_and_nothing_else() {
    let (store, from) = (MemoryStore::new(), source());
    let one = publish_to(&store, from.path()).await.unwrap();
    publish_checkpoint(&store, &layout(), AT, "run", 5, from.path(), draft())
        .await
        .unwrap();
    std::fs::write(from.path().join("tokenizer.json"), b"[]").unwrap();
    let two = publish(&store, &layout(), AT, Some("run2"), from.path(), draft())
        .await
        .unwrap();
    delete_artefact(&store, &layout(), AT, &one.digest)
        .await
        .unwrap();
    let rest = store.keys();
    assert!(
        rest.iter()
            .all(|key| key.contains(&two.digest) || key.ends_with("run2.json")),
        "{rest:?}"
    );
    delete_artefact(&store, &layout(), AT, &two.digest)
        .await
        .unwrap();
    assert_eq!(store.keys(), Vec::<String>::new());
}

#[test]
fn links_are_refused() {
    let from = source();
    std::os::unix::fs::symlink("/etc/passwd", from.path().join("link")).unwrap();
    assert!(
        describe_directory(from.path())
            .unwrap_err()
            .to_string()
            .contains("neither a file nor a directory")
    );
}
