//! Owns the four tokenizers of sacrebleu that need no model; each returns text whose tokens stand between spaces.

use std::sync::LazyLock;

/// Which tokenizer prepares text for BLEU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokenize {
    /// mteval-v13a's, sacrebleu's default.
    Mteval13a,
    /// None: text is tokenized already.
    None,
    /// Every character.
    Char,
    /// mteval-v14's international one: Unicode punctuation and symbols.
    Intl,
}

impl Tokenize {
    /// sacrebleu's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mteval13a => "13a",
            Self::None => "none",
            Self::Char => "char",
            Self::Intl => "intl",
        }
    }

    /// The tokenizer with sacrebleu's name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Mteval13a, Self::None, Self::Char, Self::Intl]
            .into_iter()
            .find(|one| one.name() == name)
    }

    pub(super) fn apply(self, text: &str) -> String {
        match self {
            Self::Mteval13a => mteval13a(text),
            Self::None => text.to_owned(),
            Self::Char => {
                let mut spaced = String::with_capacity(2 * text.len());
                for c in text.chars() {
                    spaced.push(c);
                    spaced.push(' ');
                }
                spaced
            }
            Self::Intl => intl(text),
        }
    }
}

/// The expressions of mteval-v13a apply to ASCII only, so they can be applied byte by byte.
fn mteval13a(text: &str) -> String {
    let mut line = format!(" {text} ");
    for (from, to) in [("<skipped>", ""), ("-\n", ""), ("\n", " ")] {
        if line.contains(from) {
            line = line.replace(from, to);
        }
    }
    if line.contains('&') {
        for (from, to) in [
            ("&quot;", "\""),
            ("&amp;", "&"),
            ("&lt;", "<"),
            ("&gt;", ">"),
        ] {
            line = line.replace(from, to);
        }
    }
    let mut first = Vec::with_capacity(line.len() * 2);
    for byte in line.bytes() {
        if matches!(byte, b'{'..=b'~' | b'['..=b'`' | b' '..=b'&' | b'('..=b'+' | b':'..=b'@' | b'/')
        {
            first.extend_from_slice(&[b' ', byte, b' ']);
        } else {
            first.push(byte);
        }
    }
    let point = |byte: u8| byte == b'.' || byte == b',';
    let second = pairs(
        &first,
        |a, b| !a.is_ascii_digit() && point(b),
        |a, b| [a, b' ', b, b' '],
    );
    let third = pairs(
        &second,
        |a, b| point(a) && !b.is_ascii_digit(),
        |a, b| [b' ', a, b' ', b],
    );
    let fourth = pairs(
        &third,
        |a, b| a.is_ascii_digit() && b == b'-',
        |a, b| [a, b' ', b, b' '],
    );
    String::from_utf8(fourth).unwrap_or_default()
}

/// Replaces pairs from left to right, as `re.sub` does with an expression of two characters.
fn pairs<T: Copy>(
    line: &[T],
    hit: impl Fn(T, T) -> bool,
    replace: impl Fn(T, T) -> [T; 4],
) -> Vec<T> {
    let mut out = Vec::with_capacity(line.len() + 32);
    let mut rest = line;
    loop {
        match rest {
            [a, b, tail @ ..] if hit(*a, *b) => {
                out.extend_from_slice(&replace(*a, *b));
                rest = tail;
            }
            [a, tail @ ..] => {
                out.push(*a);
                rest = tail;
            }
            [] => return out,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Category {
    Number,
    Punctuation,
    Symbol,
    Other,
}

/// Ranges of code points with their category, ascending.
static RANGES: LazyLock<Vec<(u32, u32, Category)>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (pattern, category) in [
        (r"\p{N}", Category::Number),
        (r"\p{P}", Category::Punctuation),
        (r"\p{S}", Category::Symbol),
    ] {
        let Ok(parsed) = regex_syntax::parse(pattern) else {
            continue;
        };
        if let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) =
            parsed.kind()
        {
            all.extend(
                class
                    .iter()
                    .map(|range| (u32::from(range.start()), u32::from(range.end()), category)),
            );
        }
    }
    all.sort_by_key(|range| range.0);
    all
});

fn category(c: char) -> Category {
    if c.is_ascii_alphabetic() || c == ' ' {
        return Category::Other;
    }
    let code = u32::from(c);
    let index = RANGES.partition_point(|range| range.0 <= code);
    match index.checked_sub(1).and_then(|index| RANGES.get(index)) {
        Some((_, end, category)) if code <= *end => *category,
        _ => Category::Other,
    }
}

fn intl(text: &str) -> String {
    let line: Vec<char> = text.chars().collect();
    let punctuation = |c: char| category(c) == Category::Punctuation;
    let number = |c: char| category(c) == Category::Number;
    let first = pairs(
        &line,
        |a, b| !number(a) && punctuation(b),
        |a, b| [a, ' ', b, ' '],
    );
    let second = pairs(
        &first,
        |a, b| punctuation(a) && !number(b),
        |a, b| [' ', a, ' ', b],
    );
    let mut out = String::with_capacity(second.len() * 2);
    for c in second {
        if category(c) == Category::Symbol {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_within_numbers_stay() {
        let words = |text: &str| {
            crate::text::split(text)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words(&mteval13a("It cost $1,234.50, e.g. 3-4.")),
            [
                "It", "cost", "$", "1,234.50", ",", "e", ".", "g", ".", "3", "-", "4", "."
            ]
        );
        assert_eq!(
            words(&intl("«Так», 3.5€")),
            ["«", "Так", "»", ",", "3.5", "€"]
        );
    }
}
