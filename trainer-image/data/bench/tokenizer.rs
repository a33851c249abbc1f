//! How fast are training and encoding of byte-level BPE beside the `tokenizers` crate, on one thread?
//!
//! `cargo bench --release -p bessemer-data --bench tokenizer -- DIRECTORY MEGABYTES VOCABULARY [OUT]` reads Rust and
//! Markdown files below a directory; with OUT it leaves `tokenizer.json` and `text` there for `tokenizer.py`.

mod corpus;

use std::time::Instant;

use bessemer_data::{Encoder, SPECIAL_TOKENS, train_texts};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (arguments, directory) = corpus::arguments()?;
    let limit: usize = arguments
        .get(1)
        .map_or(Ok(10), |text| text.parse::<usize>())?
        * 1_000_000;
    let vocabulary: u32 = arguments
        .get(2)
        .map_or(Ok(8192), |text| text.parse::<u32>())?;
    let mut texts = Vec::new();
    let mut bytes = 0;
    for file in corpus::files(&directory, &["rs", "md"]) {
        if bytes >= limit {
            break;
        }
        let (_, text) = file?;
        bytes += text.len();
        texts.push(text);
    }
    let rate = |started: Instant| bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
    println!(
        "{} files, {:.1} MB, vocabulary {vocabulary}",
        texts.len(),
        bytes as f64 / 1e6
    );

    let started = Instant::now();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let ours = one.install(|| train_texts(texts.iter().cloned().map(Ok), vocabulary, &[]))?;
    let own = rate(started);
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocabulary as usize)
        .min_frequency(2)
        .special_tokens(
            SPECIAL_TOKENS
                .map(|token| AddedToken::from(token, true))
                .to_vec(),
        )
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut plain = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(Some(ByteLevel::new(false, false, true)))
        .with_decoder(Some(ByteLevel::new(false, true, true)))
        .build()
        .map_err(|error| error.to_string())?;
    tokenizers::utils::parallelism::set_parallelism(false);
    let started = Instant::now();
    plain
        .train(&mut trainer, texts.iter().map(String::as_str))
        .map_err(|error| error.to_string())?;
    let peer = rate(started);
    let plain: Tokenizer = plain.into();
    let same = ours.to_string(false).ok() == plain.to_string(false).ok();
    println!(
        "training: ours {own:.1} MB/s, tokenizers {peer:.1} MB/s, ratio {:.1}, same file {same}",
        own / peer
    );

    let mut encoder = Encoder::with_threads(&ours, 1);
    let started = Instant::now();
    let ids = encoder.encode(texts.clone())?;
    let own = rate(started);
    let mut plain = plain;
    plain.set_encode_special_tokens(true);
    let started = Instant::now();
    let expected = plain
        .encode_batch_fast(texts.clone(), false)
        .map_err(|error| error.to_string())?;
    let peer = rate(started);
    let same = ids
        .iter()
        .zip(&expected)
        .all(|(own, peer)| own.as_slice() == peer.get_ids());
    println!(
        "encoding: ours {own:.1} MB/s, tokenizers {peer:.1} MB/s, ratio {:.1}, same ids {same}",
        own / peer
    );
    if let Some(out) = arguments.get(3) {
        std::fs::write(
            format!("{out}/tokenizer.json"),
            ours.to_string(false).map_err(|error| error.to_string())?,
        )?;
        std::fs::write(format!("{out}/text"), texts.concat())?;
    }
    Ok(())
}
