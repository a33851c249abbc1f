//! What is scored of a conversation, and the order in which conversations come.

use std::io::Write;

use bessemer_model::CHAT_TEMPLATE;
use serde_json::json;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::*;

/// A byte-level tokenizer without merges: one token per byte, and the special tokens of the template.
fn tokenizer() -> Tokenizer {
    let special = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"];
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let words = special
        .iter()
        .map(|&token| token.to_owned())
        .chain(alphabet.into_iter().map(String::from));
    let vocabulary: serde_json::Map<_, _> = words
        .enumerate()
        .map(|(id, word)| (word, id.into()))
        .collect();
    let added: Vec<_> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({ "id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false })
        })
        .collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
    let root = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocabulary, "merges": [] },
    });
    root.to_string().parse().unwrap()
}

fn pair(prompt: &str, response: &str) -> Vec<Message> {
    vec![
        Message::new("user", prompt),
        Message::new("assistant", response),
    ]
}

fn conversations(all: &[Vec<Message>], length: usize) -> Result<Conversations, Error> {
    let template = ChatTemplate::new(CHAT_TEMPLATE, "", "").unwrap();
    Conversations::new(all, all, &tokenizer(), &template, length, 0, 2, 9)
}

#[test]
fn only_the_answer_and_its_end_are_scored() {
    let tokenizer = tokenizer();
    // A non-ASCII prompt: offsets are bytes.
    let mut batches = conversations(&[pair("é?", "ab"), pair("long question", "c")], 64).unwrap();
    let rows = batches.validation(0, 2).unwrap();
    assert_eq!((rows.count, rows.tokens.len()), (2, 2 * rows.length));
    let scored = |row: usize| -> Vec<u32> {
        let part = &rows.targets[row * rows.length..(row + 1) * rows.length];
        part.iter()
            .filter(|&&id| id != IGNORE)
            .map(|&id| id as u32)
            .collect()
    };
    assert_eq!(tokenizer.decode(&scored(0), false).unwrap(), "ab<|end|>");
    assert_eq!(tokenizer.decode(&scored(1), false).unwrap(), "c<|end|>");
    // The token before each target predicts it: the first is predicted from <|assistant|>.
    let first = rows.targets.iter().position(|&id| id != IGNORE).unwrap();
    assert_eq!(
        rows.tokens[first],
        i64::from(tokenizer.token_to_id("<|assistant|>").unwrap())
    );
    // The shorter row is padded, and the padding is not scored.
    assert_eq!(rows.tokens[rows.length - 1], 0);
    assert_eq!(rows.targets[rows.length - 1], IGNORE);
}

#[test]
fn long_conversations_are_cut_and_those_without_an_answer_left_are_dropped() {
    let all = [
        pair("q", "a long answer that is cut"),
        pair("a question that fills everything", "x"),
    ];
    let mut batches = conversations(&all, 12).unwrap();
    assert_eq!(batches.len(), 1);
    let rows = batches.training(0, 0, 1).unwrap();
    assert_eq!(rows.length, 11);
    let error = conversations(&all[1..], 12).unwrap_err();
    assert!(error.to_string().contains("sequenceLength"), "{error}");
}

#[test]
fn every_epoch_is_another_permutation_and_a_function_of_the_step() {
    let all: Vec<_> = (0..7).map(|i| pair("q", &"a".repeat(i + 1))).collect();
    let mut batches = conversations(&all, 64).unwrap();
    let mut order =
        |range: std::ops::Range<u64>| -> Vec<usize> { range.map(|p| batches.index(p)).collect() };
    let (first, second) = (order(0..7), order(7..14));
    for epoch in [&first, &second] {
        let mut sorted = epoch.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..7).collect::<Vec<_>>());
    }
    assert_ne!(first, second);
    assert_eq!(order(0..7), first);
    // Two sequences per step: step 3 holds positions 6 and 7, over the border of the epoch.
    let rows = batches.training(3, 0, 2).unwrap();
    assert_eq!(
        rows.name,
        format!("conversations {:?}", [first[6], second[0]])
    );
    assert_eq!(batches.training(3, 1, 1).unwrap().tokens, {
        let index = second[0];
        let whole = &batches.training[index].ids;
        whole[..whole.len() - 1].to_vec()
    });
}

#[test]
fn lines_that_are_no_conversation_are_refused_with_their_number() {
    for (line, word) in [
        ("{\"prompt\": \"a\"}", "no conversation"),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
            "nobody answers",
        ),
        ("not json", "expected"),
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(
            file,
            "{{\"prompt\": \"a\", \"response\": \"b\", \"license\": \"MIT\"}}\n{line}"
        )
        .unwrap();
        let error = read_conversations(file.path()).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains(word), "{error}");
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{{\"messages\": [{{\"role\": \"system\", \"content\": \"s\"}}, {{\"role\": \"assistant\", \"content\": \"b\"}}]}}").unwrap();
    assert_eq!(read_conversations(file.path()).unwrap()[0].len(), 2);
}
