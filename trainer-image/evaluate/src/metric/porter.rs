//! Owns the Porter stemmer (Porter 1980) with NLTK's extensions, which rouge-score uses; it must not tokenize.

/// Irregular forms and their stems.
const POOL: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Replaces `word` (lower-case ASCII letters and digits) by its stem.
pub(crate) fn stem(word: &mut Vec<u8>) {
    if let Some((_, stem)) = POOL
        .iter()
        .find(|(form, _)| form.as_bytes() == word.as_slice())
    {
        word.clear();
        word.extend_from_slice(stem.as_bytes());
        return;
    }
    if word.len() <= 2 {
        return;
    }
    plural(word);
    past(word);
    if let Some(stem) = word.strip_suffix(b"y")
        && stem.len() > 1
        && ends_consonant(stem)
    {
        replace(word, 1, b"i");
    }
    derivation(word);
    first_match(word, &STEP_3, |stem, _| measure(stem) > 0);
    first_match(word, &STEP_4, |stem, suffix| {
        measure(stem) > 1 && (suffix != b"ion" || matches!(stem.last(), Some(b's' | b't')))
    });
    if let Some(stem) = word.strip_suffix(b"e") {
        let size = measure(stem);
        if size > 1 || (size == 1 && !ends_short(stem)) {
            replace(word, 1, b"");
        }
    }
    if word.ends_with(b"ll")
        && word
            .get(..word.len() - 1)
            .is_some_and(|rest| measure(rest) > 1)
    {
        replace(word, 1, b"");
    }
}

fn replace(word: &mut Vec<u8>, suffix: usize, by: &[u8]) {
    word.truncate(word.len() - suffix);
    word.extend_from_slice(by);
}

/// Whether each letter is a consonant: not a vowel, and not a y after a consonant.
fn consonants(word: &[u8]) -> impl Iterator<Item = bool> {
    let mut before = false;
    word.iter().map(move |letter| {
        before = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !before,
            _ => true,
        };
        before
    })
}

/// Porter's m: how often a vowel is followed by a consonant.
fn measure(word: &[u8]) -> usize {
    let mut before = true;
    let mut size = 0;
    for consonant in consonants(word) {
        size += usize::from(consonant && !before);
        before = consonant;
    }
    size
}

fn ends_consonant(word: &[u8]) -> bool {
    consonants(word).last().unwrap_or(false)
}

/// Porter's *o (consonant, vowel, consonant that is not w, x or y), or NLTK's two letters vowel, consonant.
fn ends_short(word: &[u8]) -> bool {
    let mut last = [false; 3];
    for consonant in consonants(word) {
        last = [last[1], last[2], consonant];
    }
    match word {
        [_, _] => !last[1] && last[2],
        [.., end] if word.len() >= 3 => {
            last == [true, false, true] && !matches!(end, b'w' | b'x' | b'y')
        }
        _ => false,
    }
}

fn plural(word: &mut Vec<u8>) {
    if word.ends_with(b"sses") {
        replace(word, 2, b"");
    } else if word.ends_with(b"ies") {
        let keep = if word.len() == 4 { 1 } else { 2 };
        replace(word, keep, b"");
    } else if word.ends_with(b"s") && !word.ends_with(b"ss") {
        replace(word, 1, b"");
    }
}

fn past(word: &mut Vec<u8>) {
    if word.ends_with(b"ied") {
        let keep = if word.len() == 4 { 1 } else { 2 };
        replace(word, keep, b"");
        return;
    }
    if let Some(stem) = word.strip_suffix(b"eed") {
        if measure(stem) > 0 {
            replace(word, 1, b"");
        }
        return;
    }
    let has_vowel = |stem: &[u8]| !consonants(stem).all(|consonant| consonant);
    let cut = [b"ed".as_slice(), b"ing"].into_iter().find_map(|suffix| {
        word.strip_suffix(suffix)
            .filter(|stem| has_vowel(stem))
            .map(|_| suffix.len())
    });
    let Some(cut) = cut else { return };
    replace(word, cut, b"");
    if word.ends_with(b"at") || word.ends_with(b"bl") || word.ends_with(b"iz") {
        word.push(b'e');
        return;
    }
    if let [.., a, b] = word.as_slice()
        && a == b
        && ends_consonant(word)
    {
        if !matches!(b, b'l' | b's' | b'z') {
            replace(word, 1, b"");
        }
        return;
    }
    if measure(word) == 1 && ends_short(word) {
        word.push(b'e');
    }
}

type Rule = (&'static [u8], &'static [u8]);

/// The first rule whose suffix fits decides, whether its condition holds or not.
fn first_match(word: &mut Vec<u8>, rules: &[Rule], condition: impl Fn(&[u8], &[u8]) -> bool) {
    for (suffix, by) in rules {
        if let Some(stem) = word.strip_suffix(*suffix) {
            if condition(stem, suffix) {
                replace(word, suffix.len(), by);
            }
            return;
        }
    }
}

const STEP_2: [Rule; 22] = [
    (b"ational", b"ate"),
    (b"tional", b"tion"),
    (b"enci", b"ence"),
    (b"anci", b"ance"),
    (b"izer", b"ize"),
    (b"bli", b"ble"),
    (b"alli", b"al"),
    (b"entli", b"ent"),
    (b"eli", b"e"),
    (b"ousli", b"ous"),
    (b"ization", b"ize"),
    (b"ation", b"ate"),
    (b"ator", b"ate"),
    (b"alism", b"al"),
    (b"iveness", b"ive"),
    (b"fulness", b"ful"),
    (b"ousness", b"ous"),
    (b"aliti", b"al"),
    (b"iviti", b"ive"),
    (b"biliti", b"ble"),
    (b"fulli", b"ful"),
    (b"logi", b"log"),
];

fn derivation(word: &mut Vec<u8>) {
    // NLTK: "alli" becomes "al", which may again end in a suffix of this step.
    while word
        .strip_suffix(b"alli")
        .is_some_and(|stem| measure(stem) > 0)
    {
        replace(word, 2, b"");
    }
    first_match(word, &STEP_2, |stem, suffix| {
        if suffix == b"logi" {
            let mut longer = stem.to_vec(); // NLTK measures the stem with its l
            longer.push(b'l');
            measure(&longer) > 0
        } else {
            measure(stem) > 0
        }
    });
}

const STEP_3: [Rule; 7] = [
    (b"icate", b"ic"),
    (b"ative", b""),
    (b"alize", b"al"),
    (b"iciti", b"ic"),
    (b"ical", b"ic"),
    (b"ful", b""),
    (b"ness", b""),
];

const STEP_4: [Rule; 19] = [
    (b"al", b""),
    (b"ance", b""),
    (b"ence", b""),
    (b"er", b""),
    (b"ic", b""),
    (b"able", b""),
    (b"ible", b""),
    (b"ant", b""),
    (b"ement", b""),
    (b"ment", b""),
    (b"ent", b""),
    (b"ion", b""),
    (b"ou", b""),
    (b"ism", b""),
    (b"ate", b""),
    (b"iti", b""),
    (b"ous", b""),
    (b"ive", b""),
    (b"ize", b""),
];

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    fn stemmed(word: &str) -> String {
        let mut word = word.as_bytes().to_vec();
        super::stem(&mut word);
        String::from_utf8(word).unwrap()
    }

    #[test]
    fn stems_equal_nltks_on_the_table() {
        let file =
            std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers.jsonl.gz"))
                .unwrap();
        let mut seen = 0;
        for line in BufReader::new(flate2::read::GzDecoder::new(file)).lines() {
            let case: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let (Some(words), Some(stems)) = (case["words"].as_array(), case["stems"].as_array())
            else {
                continue;
            };
            for (word, stem) in words.iter().zip(stems) {
                let (word, stem) = (word.as_str().unwrap(), stem.as_str().unwrap());
                if word.len() > 3 {
                    assert_eq!(stemmed(word), stem, "{word}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 2000, "{seen}");
    }

    #[test]
    fn porters_and_nltks_examples() {
        for (word, stem) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("ties", "tie"),
            ("agreed", "agre"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("happy", "happi"),
            ("enjoy", "enjoy"),
            ("skies", "sky"),
            ("relational", "relat"),
            ("vietnamization", "vietnam"),
            ("generalli", "gener"),
            ("apologi", "apolog"),
            ("adoption", "adopt"),
            ("controll", "control"),
            ("probate", "probat"),
            ("dying", "die"),
        ] {
            assert_eq!(stemmed(word), stem, "{word}");
        }
    }
}
