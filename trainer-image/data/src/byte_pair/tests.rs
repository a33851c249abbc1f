//! Equality with the `tokenizers` crate: splits, trained merges, ids.

use proptest::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, TokenizerBuilder,
};

use super::*;
use crate::tokenizer::SPECIAL_TOKENS;

/// What the reference trains on the same texts.
fn reference(texts: &[String], size: usize) -> Tokenizer {
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(size)
        .min_frequency(2)
        .special_tokens(
            SPECIAL_TOKENS
                .map(|token| AddedToken::from(token, true))
                .to_vec(),
        )
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(Some(ByteLevel::new(false, false, true)))
        .with_decoder(Some(ByteLevel::new(false, true, true)))
        .build()
        .unwrap();
    tokenizer
        .train(&mut trainer, texts.iter().map(String::as_str))
        .unwrap();
    let mut tokenizer: Tokenizer = tokenizer.into();
    tokenizer.set_encode_special_tokens(true);
    tokenizer
}

fn own(texts: &[String], size: usize) -> Tokenizer {
    let mut counts = WordCounts::default();
    texts.iter().for_each(|text| counts.add(text));
    let special: Vec<String> = SPECIAL_TOKENS.map(str::to_owned).to_vec();
    crate::tokenizer::assemble(train(&counts, size, &special, 2), &special).unwrap()
}

fn model(tokenizer: &Tokenizer) -> Value {
    serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap()
}

/// Prose and code of this crate, in documents of 20 lines.
fn texts() -> Vec<String> {
    let mut all = String::new();
    for entry in
        walkdir::WalkDir::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).sort_by_file_name()
    {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            all.push_str(&std::fs::read_to_string(entry.path()).unwrap());
        }
    }
    let lines: Vec<&str> = all.lines().collect();
    lines.chunks(20).map(|chunk| chunk.join("\n")).collect()
}

/// One to `most` of the choices.
fn of(choices: impl Iterator<Item = String>, most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(choices.collect::<Vec<_>>()), 1..=most)
        .prop_map(|parts| parts.concat())
}

/// Text that stresses the splitting rule: all classes, scripts, contractions, white space, special tokens.
fn odd() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ -~]{0,12}",
        prop::collection::vec(any::<char>(), 0..8).prop_map(String::from_iter),
        of(
            " \t\n\r\u{a0}\u{2003}\u{3000}\u{85}"
                .chars()
                .map(String::from),
            5
        ),
        of(
            "'s 't 're 've 'm 'll 'd 'S 'l ' ’s"
                .split(' ')
                .map(str::to_owned),
            3
        ),
        of("azAZßÿΑω中丐กฮ٠٩Ⅷ½²".chars().map(String::from), 20),
        Just("<|endoftext|>".to_owned()),
        Just("ᾳ\u{0345}ः\u{0301}🏳️‍🌈".to_owned()),
        (0u8..128, 1usize..200)
            .prop_map(|(byte, count)| char::from(byte).to_string().repeat(count)),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

#[test]
fn bytes_are_written_as_gpt2_does() {
    let alphabet = ByteLevel::alphabet();
    assert!((0..=255).all(|byte| alphabet.contains(&visible(byte))));
    assert_eq!(
        [visible(b'A'), visible(b' '), visible(b'\n'), visible(0xAD)],
        ['A', 'Ġ', 'Ċ', 'Ń']
    );
}

#[test]
fn training_gives_the_merges_of_the_reference() {
    let texts = texts();
    for size in [300, 1_000, 4_000] {
        assert_eq!(
            model(&own(&texts, size)),
            model(&reference(&texts, size)),
            "{size} tokens"
        );
    }
    // Runs of one character, where pairs overlap.
    let runs: Vec<String> = (1..60)
        .map(|n| "a".repeat(n) + &"ab".repeat(n % 7) + &"=".repeat(n * 3))
        .collect();
    assert_eq!(model(&own(&runs, 320)), model(&reference(&runs, 320)));
}

#[test]
fn ids_of_all_text_at_hand_equal_the_reference() {
    let texts = texts();
    let tokenizer = reference(&texts, 3_000);
    let (fast, mut cache) = (BytePair::of(&tokenizer).unwrap(), Cache::default());
    for text in &texts {
        let mut ids = Vec::new();
        fast.encode(text, &mut cache, &mut ids);
        assert_eq!(
            ids,
            tokenizer
                .encode_fast(text.as_str(), false)
                .unwrap()
                .get_ids()
        );
    }
    for long in [
        "a".repeat(20_000),
        "=- ".repeat(5_000),
        "中文".repeat(3_000),
        " \n".repeat(4_000),
    ] {
        let mut ids = Vec::new();
        fast.encode(&long, &mut cache, &mut ids);
        assert_eq!(
            ids,
            tokenizer
                .encode_fast(long.as_str(), false)
                .unwrap()
                .get_ids()
        );
    }
}

#[test]
fn other_tokenizers_are_not_taken_over() {
    let mut tokenizer = reference(&texts(), 400);
    assert!(BytePair::of(&tokenizer).is_some());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(true, true, true)));
    assert!(BytePair::of(&tokenizer).is_none());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer
        .add_tokens([AddedToken::from("plain", false)])
        .unwrap();
    assert!(BytePair::of(&tokenizer).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn splits_equal_the_reference(text in odd()) {
        let mut pieces = Vec::new();
        split(&text, |piece| pieces.push(piece));
        let mut expected = PreTokenizedString::from(text.as_str());
        ByteLevel::new(false, true, true).pre_tokenize(&mut expected).unwrap();
        let expected: Vec<&str> = expected
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), _)| &text[start..end])
            .collect();
        prop_assert_eq!(pieces, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn ids_of_odd_text_equal_the_reference(parts in prop::collection::vec(odd(), 1..6)) {
        static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
        let tokenizer = TOKENIZER.get_or_init(|| reference(&texts(), 1_500));
        let (fast, mut cache) = (BytePair::of(tokenizer).unwrap(), Cache::default());
        for text in parts {
            let mut ids = Vec::new();
            fast.encode(&text, &mut cache, &mut ids);
            let expected = tokenizer.encode_fast(text.as_str(), false).unwrap();
            prop_assert_eq!(ids, expected.get_ids());
        }
    }
}
