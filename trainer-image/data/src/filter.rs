//! Owns the filters of text; each gives a stable reason and must not change the text.

use std::collections::{HashMap, HashSet};

use bessemer_protocol::task::{Clean, Repetition};

/// Why a document goes; `None` when it stays.
pub(crate) fn refused(clean: &Clean, text: &str) -> Option<&'static str> {
    let characters = text.chars().count() as u64;
    if characters < clean.min_characters {
        return Some("tooShort");
    }
    if characters > clean.max_characters {
        return Some("tooLong");
    }
    match clean.repetition {
        Some(Repetition::Gopher) => repetitive(text),
        None => None,
    }
}

/// Largest share of characters in the most frequent n-gram, for n = 2, 3, 4.
const TOP: [(usize, f64); 3] = [(2, 0.20), (3, 0.18), (4, 0.16)];
/// Largest share of characters in n-grams that occur again, for n = 5 to 10.
const DUPLICATE: [(usize, f64); 6] = [
    (5, 0.15),
    (6, 0.14),
    (7, 0.13),
    (8, 0.12),
    (9, 0.11),
    (10, 0.10),
];

/// Gopher's repetition rules (Rae et al. 2021, table A1) as datatrove 0.10.1 evaluates them, over words split at
/// white space. Lengths are in code points; a first occurrence is no duplicate.
pub(crate) fn repetitive(text: &str) -> Option<&'static str> {
    let length = text.chars().count() as f64;
    if length == 0.0 {
        return None;
    }
    let paragraphs: Vec<&str> = split_runs(text.trim(), 2);
    let (share, characters) = duplicates(&paragraphs);
    if share > 0.30 {
        return Some("repeatedParagraphs");
    }
    if characters / length > 0.20 {
        return Some("repeatedParagraphCharacters");
    }
    let lines: Vec<&str> = split_runs(text, 1);
    let (share, characters) = duplicates(&lines);
    if share > 0.30 {
        return Some("repeatedLines");
    }
    if characters / length > 0.20 {
        return Some("repeatedLineCharacters");
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let sizes: Vec<usize> = words.iter().map(|word| word.chars().count()).collect();
    for (n, limit) in TOP {
        if top_ngram(&words, &sizes, n) / length > limit {
            return Some("repeatedTopNgram");
        }
    }
    for (n, limit) in DUPLICATE {
        if duplicate_ngrams(&words, &sizes, n) / length > limit {
            return Some("repeatedNgrams");
        }
    }
    None
}

/// Splits at runs of at least `least` newlines.
fn split_runs(text: &str, least: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut run) = (0, 0);
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'\n' {
            run += 1;
            continue;
        }
        if run >= least {
            parts.push(text.get(start..at - run).unwrap_or_default());
            start = at;
        }
        run = 0;
    }
    let end = if run >= least {
        text.len() - run
    } else {
        text.len()
    };
    parts.push(text.get(start..end).unwrap_or_default());
    parts
}

/// Share of parts that were seen before, and the characters in them.
fn duplicates(parts: &[&str]) -> (f64, f64) {
    let mut seen = HashSet::new();
    let (mut count, mut characters) = (0usize, 0usize);
    for part in parts {
        if !seen.insert(*part) {
            count += 1;
            characters += part.chars().count();
        }
    }
    (count as f64 / parts.len().max(1) as f64, characters as f64)
}

/// Count times length, joining spaces included, of the most frequent n-gram; of equal counts the first in the text.
fn top_ngram(words: &[&str], sizes: &[usize], n: usize) -> f64 {
    let mut counts: HashMap<&[&str], (usize, usize)> = HashMap::new();
    for (at, gram) in words.windows(n).enumerate() {
        counts.entry(gram).or_insert((0, at)).0 += 1;
    }
    let best = counts
        .values()
        .max_by_key(|(count, first)| (*count, std::cmp::Reverse(*first)));
    match best {
        Some((count, first)) if *count > 1 => {
            let characters: usize = sizes.iter().skip(*first).take(n).sum();
            (count * (characters + n - 1)) as f64
        }
        _ => 0.0,
    }
}

/// Characters, without spaces, of n-grams that occurred before: left to right, jumping n words after a hit.
fn duplicate_ngrams(words: &[&str], sizes: &[usize], n: usize) -> f64 {
    let mut seen = HashSet::new();
    let (mut at, mut characters) = (0, 0);
    while let Some(gram) = words.get(at..at + n) {
        if seen.insert(gram) {
            at += 1;
        } else {
            characters += sizes.iter().skip(at).take(n).sum::<usize>();
            at += n;
        }
    }
    characters as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_a_text_that_only_it_refuses() {
        let prose: String = (0..200).map(|i| format!("word{i} ")).collect();
        assert_eq!(repetitive(&prose), None);
        let lines = format!("{prose}\n{}", "x\n".repeat(3).replace('x', "same line"));
        assert_eq!(repetitive(&lines), Some("repeatedLines"));
        let paragraphs = format!("a\n\n{}", "b\n\n".repeat(3));
        assert_eq!(repetitive(&paragraphs), Some("repeatedParagraphs"));
        let long = "y".repeat(900);
        let characters = format!("{prose}\n\n{long}\n\nq\n\nr\n\ns\n\n{long}");
        assert_eq!(repetitive(&characters), Some("repeatedParagraphCharacters"));
        assert_eq!(
            repetitive(&"very good ".repeat(20)),
            Some("repeatedTopNgram")
        );
        let phrase: String = (0..30).map(|i| format!("phrase{i} ")).collect();
        let other: String = (0..60).map(|i| format!("other{i} ")).collect();
        assert_eq!(
            repetitive(&format!("{phrase}{other}{phrase}")),
            Some("repeatedNgrams")
        );
    }

    #[test]
    fn a_repeated_ngram_is_counted_once_per_extra_copy() {
        let words = ["a", "b", "c", "d", "e", "a", "b", "c", "d", "e", "f"];
        let sizes = [1; 11];
        assert_eq!(duplicate_ngrams(&words, &sizes, 5), 5.0);
        assert_eq!(top_ngram(&words, &sizes, 2), 2.0 * 3.0);
    }

    #[test]
    fn runs_of_newlines_separate() {
        assert_eq!(split_runs("a\nb\n\n\nc\n", 1), ["a", "b", "c"]);
        assert_eq!(split_runs("a\nb\n\n\nc", 2), ["a\nb", "c"]);
    }
}
