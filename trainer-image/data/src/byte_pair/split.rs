//! Owns GPT-2's splitting rule, `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
//! without a regex engine; it must not allocate.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

const OTHER: u8 = 0;
const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const SPACE: u8 = 3;

/// Class of every code point, from the tables that the regex engines of the reference use.
fn classes() -> &'static [u8] {
    static CLASSES: OnceLock<Vec<u8>> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let mut classes = vec![OTHER; 0x11_0000];
        for (pattern, class) in [(r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE)] {
            let parsed = regex_syntax::parse(pattern).map(|hir| hir.into_kind());
            let Ok(HirKind::Class(Class::Unicode(ranges))) = parsed else {
                continue;
            };
            for range in ranges.iter() {
                let range = range.start() as usize..=range.end() as usize;
                if let Some(slots) = classes.get_mut(range) {
                    slots.fill(class);
                }
            }
        }
        classes
    })
}

/// Class and length in bytes of the character at `at`.
fn at(classes: &[u8], text: &str, at: usize) -> Option<(u8, usize)> {
    let first = *text.as_bytes().get(at)?;
    if first < 0x80 {
        return Some((*classes.get(usize::from(first))?, 1));
    }
    let character = text.get(at..)?.chars().next()?;
    Some((*classes.get(character as usize)?, character.len_utf8()))
}

/// Calls `each` with every piece, in order; together they are the text.
pub(crate) fn split<'a>(text: &'a str, mut each: impl FnMut(&'a str)) {
    let classes = classes();
    let run = |mut from: usize, class: u8| {
        while let Some((next, length)) = at(classes, text, from) {
            if next != class {
                break;
            }
            from += length;
        }
        from
    };
    let mut start = 0;
    while let Some((class, length)) = at(classes, text, start) {
        let rest = text.as_bytes().get(start..).unwrap_or_default();
        let end = match (rest, class) {
            ([b'\'', b's' | b't' | b'm' | b'd', ..], _) => start + 2,
            ([b'\'', b'r' | b'v', b'e', ..] | [b'\'', b'l', b'l', ..], _) => start + 3,
            (_, SPACE) => match at(classes, text, start + 1) {
                // One space belongs to what follows it.
                Some((next, after)) if rest.first() == Some(&b' ') && next != SPACE => {
                    run(start + 1 + after, next)
                }
                _ => {
                    let (mut end, mut last) = (start + length, start);
                    while let Some((SPACE, length)) = at(classes, text, end) {
                        (last, end) = (end, end + length);
                    }
                    // The last white space before a word stays with the word.
                    if end < text.len() && last > start {
                        last
                    } else {
                        end
                    }
                }
            },
            _ => run(start + length, class),
        };
        each(text.get(start..end).unwrap_or_default());
        start = end;
    }
}
