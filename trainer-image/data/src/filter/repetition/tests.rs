//! The rules against a plain transcription of datatrove's code, and against its own verdicts.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn find_duplicates(elements: &[&str]) -> (usize, usize) {
    let (mut seen, mut duplicates, mut characters) = (HashSet::new(), 0, 0);
    for element in elements {
        if !seen.insert(*element) {
            duplicates += 1;
            characters += element.chars().count();
        }
    }
    (duplicates, characters)
}

fn reference(text: &str) -> Option<RepetitionRule> {
    let length = text.chars().count() as f64;
    let mut pieces = Vec::new();
    let mut rest = text.trim();
    while let Some(at) = rest.find("\n\n") {
        pieces.push(&rest[..at]);
        rest = rest[at..].trim_start_matches('\n');
    }
    pieces.push(rest);
    let (duplicates, characters) = find_duplicates(&pieces);
    if duplicates as f64 / pieces.len() as f64 > 0.3 {
        return Some(RepetitionRule::DuplicateParagraphs);
    }
    if characters as f64 / length > 0.2 {
        return Some(RepetitionRule::DuplicateParagraphCharacters);
    }
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\n') {
        lines.push(&rest[..at]);
        rest = rest[at..].trim_start_matches('\n');
    }
    lines.push(rest);
    let (duplicates, characters) = find_duplicates(&lines);
    if duplicates as f64 / lines.len() as f64 > 0.3 {
        return Some(RepetitionRule::DuplicateLines);
    }
    if characters as f64 / length > 0.2 {
        return Some(RepetitionRule::DuplicateLineCharacters);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    for (n, limit) in [(2usize, 0.2), (3, 0.18), (4, 0.16)] {
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        for (index, window) in words.windows(n).enumerate() {
            counts.entry(window.join(" ")).or_insert((0, index)).0 += 1;
        }
        let top = counts
            .iter()
            .max_by_key(|(_, (count, first))| (*count, std::cmp::Reverse(*first)));
        if let Some((gram, (count, _))) = top
            && *count > 1
            && (gram.chars().count() * count) as f64 / length > limit
        {
            return Some(RepetitionRule::TopNgram(n as u8));
        }
    }
    for (n, limit) in [
        (5usize, 0.15),
        (6, 0.14),
        (7, 0.13),
        (8, 0.12),
        (9, 0.11),
        (10, 0.10),
    ] {
        let (mut seen, mut characters, mut index) = (HashSet::new(), 0, 0);
        while index + n < words.len() + 1 {
            let gram = words[index..index + n].concat();
            if seen.contains(&gram) {
                characters += gram.chars().count();
                index += n;
            } else {
                seen.insert(gram);
                index += 1;
            }
        }
        if characters as f64 / length > limit {
            return Some(RepetitionRule::DuplicateNgrams(n as u8));
        }
    }
    None
}

#[test]
fn every_rule_can_be_the_one_that_is_broken() {
    let unique = |from: usize, count: usize| {
        (from..from + count)
            .map(|n| format!("w{n}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let long = unique(0, 40);
    let cases = [
        (
            format!("x\n\nx\n\nx\n\n{}", unique(0, 90)),
            Some(RepetitionRule::DuplicateParagraphs),
        ),
        (
            format!(
                "{long}\n\n{long}\n\n{}\n\n{}",
                unique(100, 40),
                unique(200, 40)
            ),
            Some(RepetitionRule::DuplicateParagraphCharacters),
        ),
        (
            format!("a\na\na\n{}", unique(0, 90)),
            Some(RepetitionRule::DuplicateLines),
        ),
        (
            format!("{long}\n{long}\n{}\n{}", unique(100, 40), unique(200, 40)),
            Some(RepetitionRule::DuplicateLineCharacters),
        ),
        (
            format!("{} {}", "so so ".repeat(30), unique(0, 60)),
            Some(RepetitionRule::TopNgram(2)),
        ),
        (
            format!("{} {}", unique(0, 90), unique(10, 60)),
            Some(RepetitionRule::DuplicateNgrams(5)),
        ),
        (unique(0, 300), None),
        (String::new(), None),
    ];
    for (text, expected) in cases {
        let text = text.trim();
        assert_eq!(Repetition::new().broken(text), expected, "{text}");
        if !text.is_empty() {
            assert_eq!(reference(text), expected, "{text}");
        }
    }
}

/// `golden/gopher.py` wrote these with datatrove itself.
#[test]
fn verdicts_equal_datatrove() {
    let table = include_str!("../../../golden/gopher.jsonl");
    let mut rules = HashSet::new();
    for line in table.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let verdict = Repetition::new()
            .broken(case["text"].as_str().unwrap())
            .map(|rule| match rule {
                RepetitionRule::DuplicateParagraphs => "dup_para_frac".to_owned(),
                RepetitionRule::DuplicateParagraphCharacters => "dup_para_char_frac".to_owned(),
                RepetitionRule::DuplicateLines => "dup_line_frac".to_owned(),
                RepetitionRule::DuplicateLineCharacters => "dup_line_char_frac".to_owned(),
                RepetitionRule::TopNgram(n) => format!("top_{n}_gram"),
                RepetitionRule::DuplicateNgrams(n) => format!("duplicated_{n}_n_grams"),
            });
        assert_eq!(verdict.as_deref(), case["verdict"].as_str(), "{line}");
        rules.insert(verdict);
    }
    assert_eq!(rules.len(), 14, "every rule and no rule at all: {rules:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn verdicts_equal_the_reference(words in prop::collection::vec((0u32..40, 0u8..12), 1..200)) {
        let mut text = String::new();
        for (word, separator) in words {
            // Words that collide when joined without spaces (a, aa), and multi-byte ones.
            text.push_str(&match word { 0..4 => "a".repeat(word as usize + 1), 4..8 => format!("ü{word}"), _ => format!("w{word}x{}", word * word) });
            text.push_str(match separator { 0 => "\n", 1 => "\n\n", 2 => "\n\n\n", _ => " " });
        }
        prop_assert_eq!(Repetition::new().broken(&text), reference(&text));
    }
}
