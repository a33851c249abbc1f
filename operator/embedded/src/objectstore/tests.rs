//! The promises of the directory: whole keys, one winner, ordered listings.

use super::directory::Condition;
use super::upload::Uploads;
use super::*;

struct Fixture {
    root: tempfile::TempDir,
    directory: Arc<Directory>,
}

fn store() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::open(root.path()).unwrap());
    directory.create_bucket("bessemer").unwrap();
    Fixture { root, directory }
}

impl Fixture {
    fn put(&self, key: &str, body: &[u8], condition: &Condition) -> Result<Entry, StoreError> {
        let from = self.directory.temporary();
        std::fs::write(&from, body).unwrap();
        let result = self.directory.commit(&from, "bessemer", key, condition);
        assert!(!from.exists(), "a temporary file stays");
        result
    }

    fn get(&self, key: &str) -> Vec<u8> {
        use std::io::Read;
        let mut body = Vec::new();
        let (mut file, _) = self.directory.open_key("bessemer", key).unwrap();
        file.read_to_end(&mut body).unwrap();
        body
    }

    fn keys(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        page: usize,
    ) -> (Vec<String>, Vec<String>) {
        let (mut keys, mut prefixes, mut after) = (Vec::new(), Vec::new(), None::<String>);
        loop {
            let listing = self
                .directory
                .list("bessemer", prefix, delimiter, after.as_deref(), page)
                .unwrap();
            assert!(listing.entries.len() + listing.prefixes.len() <= page);
            keys.extend(listing.entries.into_iter().map(|e| e.key));
            prefixes.extend(listing.prefixes);
            match listing.next {
                Some(next) => after = Some(next),
                None => return (keys, prefixes),
            }
        }
    }
}

#[test]
fn a_conditional_put_has_one_winner() {
    let store = store();
    let wins: Vec<bool> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..16_u8)
            .map(|n| {
                scope.spawn({
                    let store = &store;
                    move || {
                        store
                            .put("a/run.json", &[n; 1000], &Condition::Absent)
                            .is_ok()
                    }
                })
            })
            .collect();
        tries.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(wins.iter().filter(|w| **w).count(), 1);
    let winner = wins.iter().position(|w| *w).unwrap();
    assert_eq!(store.get("a/run.json"), vec![winner as u8; 1000]);
}

#[test]
fn a_tag_names_one_commit() {
    let store = store();
    let first = store.put("k", b"one", &Condition::None).unwrap().tag;
    store
        .put("k", b"two", &Condition::Present(Some(first.clone())))
        .unwrap();
    let refused = store
        .put("k", b"six", &Condition::Present(Some(first)))
        .unwrap_err();
    assert_eq!(refused.category(), "PreconditionFailed");
    assert_eq!(store.get("k"), b"two");
    assert_eq!(
        store
            .put("new", b"x", &Condition::Present(None))
            .unwrap_err()
            .category(),
        "PreconditionFailed"
    );
}

#[test]
fn an_open_key_keeps_its_bytes_when_it_is_replaced() {
    use std::io::Read;
    let store = store();
    store.put("k", b"old", &Condition::None).unwrap();
    let (mut file, _) = store.directory.open_key("bessemer", "k").unwrap();
    store.put("k", b"new", &Condition::None).unwrap();
    let mut body = String::new();
    file.read_to_string(&mut body).unwrap();
    assert_eq!(body, "old");
}

#[test]
fn listings_are_ordered_paged_and_grouped() {
    let store = store();
    let mut keys = [
        "a/b/2", "a/b/1", "a-b", "a/c", "b", "a.txt", "a/b.txt", "a/d/x/y",
    ]
    .map(str::to_owned);
    for key in &keys {
        store.put(key, b"x", &Condition::None).unwrap();
    }
    keys.sort();
    for page in 1..=9 {
        assert_eq!(store.keys("", None, page).0, keys, "pages of {page}");
        let (contents, prefixes) = store.keys("a/", Some("/"), page);
        assert_eq!(contents, ["a/b.txt", "a/c"], "pages of {page}");
        assert_eq!(prefixes, ["a/b/", "a/d/"], "pages of {page}");
    }
    assert_eq!(store.keys("a/b", None, 10).0, ["a/b.txt", "a/b/1", "a/b/2"]);
}

#[test]
fn deletion_removes_empty_folders_and_bad_keys_are_refused() {
    let store = store();
    store.put("x/y/z", b"1", &Condition::None).unwrap();
    store.directory.delete("bessemer", "x/y/z").unwrap();
    store.directory.delete("bessemer", "x/y/z").unwrap();
    assert!(!store.root.path().join("bessemer/x").exists());
    store.put("f", b"1", &Condition::None).unwrap();
    store.put("d/e", b"1", &Condition::None).unwrap();
    for (key, category) in [
        ("f/below", "KeyConflict"),
        ("d", "KeyConflict"),
        ("a/../../escape", "KeyInvalid"),
        ("a//b", "KeyInvalid"),
        ("", "KeyInvalid"),
    ] {
        assert_eq!(
            store
                .put(key, b"1", &Condition::None)
                .unwrap_err()
                .category(),
            category,
            "{key}"
        );
    }
    assert!(!store.root.path().parent().unwrap().join("escape").exists());
}

#[test]
fn parts_are_joined_in_order_and_nothing_shows_before() {
    let store = store();
    let uploads = Uploads::new(store.directory.clone());
    let id = uploads.create("bessemer", "big").unwrap();
    for (number, tag, body) in [(2, "t2", "world"), (1, "old", "gone "), (1, "t1", "hello ")] {
        let from = store.directory.temporary();
        std::fs::write(&from, body).unwrap();
        uploads
            .part("bessemer", "big", &id, number, from, tag)
            .unwrap();
    }
    let part = |number, tag: &str| (number, Some(tag.to_owned()));
    for wrong in [
        vec![part(1, "old"), part(2, "t2")],
        vec![part(2, "t2"), part(1, "t1")],
        vec![part(3, "t3")],
        vec![],
    ] {
        let refused = uploads
            .complete("bessemer", "big", &id, &wrong, &Condition::None)
            .unwrap_err();
        assert_eq!(refused.category(), "InvalidPart", "{wrong:?}");
    }
    assert_eq!(
        store
            .directory
            .entry("bessemer", "big")
            .unwrap_err()
            .category(),
        "NoSuchKey"
    );
    // The upload survives a restart.
    let uploads = Uploads::new(Arc::new(Directory::open(store.root.path()).unwrap()));
    uploads
        .complete(
            "bessemer",
            "big",
            &id,
            &[part(1, "t1"), part(2, "t2")],
            &Condition::Absent,
        )
        .unwrap();
    assert_eq!(store.get("big"), b"hello world");
    assert_eq!(
        uploads
            .abort("bessemer", "big", &id)
            .unwrap_err()
            .category(),
        "NoSuchUpload"
    );
}

#[test]
fn reopening_removes_unfinished_writes_and_keeps_keys() {
    let store = store();
    store.put("k", b"whole", &Condition::None).unwrap();
    let torn = store.directory.temporary();
    std::fs::write(&torn, b"to").unwrap();
    let again = Directory::open(store.root.path()).unwrap();
    assert!(!torn.exists());
    assert_eq!(
        again
            .list("bessemer", "", None, None, 10)
            .unwrap()
            .entries
            .len(),
        1
    );
}
