//! Owns the visible text of an HTML page: one pass, no tree; it must not fetch anything the page names.

/// Elements whose content is not prose.
const SKIPPED: [&str; 9] = [
    "script", "style", "nav", "head", "noscript", "svg", "template", "button", "iframe",
];
/// Elements that begin a new line.
const BLOCKS: [&str; 30] = [
    "p",
    "div",
    "br",
    "li",
    "ul",
    "ol",
    "tr",
    "table",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "section",
    "article",
    "header",
    "footer",
    "main",
    "blockquote",
    "dd",
    "dt",
    "dl",
    "hr",
    "figure",
    "details",
    "summary",
    "form",
    "aside",
];

/// The visible text: entities decoded, white space collapsed outside `pre`, a line per block.
pub(crate) fn text_of_html(page: &str) -> String {
    let mut out = Writer {
        text: String::with_capacity(page.len() / 3),
        pending: None,
        preformatted: 0,
    };
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        out.push(before);
        if let Some(comment) = tag.strip_prefix("<!--") {
            rest = after(comment, "-->");
            continue;
        }
        let Some(end) = tag_end(tag) else {
            // A `<` that opens nothing is text.
            if tag.get(1..).is_some_and(|next| {
                next.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '!')
            }) {
                rest = "";
                break;
            }
            out.push("<");
            rest = tag.get(1..).unwrap_or_default();
            continue;
        };
        let inside = tag.get(1..end).unwrap_or_default();
        rest = tag.get(end + 1..).unwrap_or_default();
        let closing = inside.starts_with('/');
        let name: String = inside
            .trim_start_matches('/')
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        if !closing && !inside.ends_with('/') && SKIPPED.contains(&name.as_str()) {
            rest = skip_element(rest, &name);
            continue;
        }
        if name == "pre" {
            out.preformatted = if closing {
                out.preformatted.saturating_sub(1)
            } else {
                out.preformatted + 1
            };
        }
        if BLOCKS.contains(&name.as_str()) {
            out.line();
        } else if name == "td" || name == "th" {
            out.space();
        }
    }
    out.push(rest);
    out.text.trim().to_string()
}

/// Index of the `>` that ends a tag; quotes protect it. `None` when it is not a tag or never ends.
fn tag_end(tag: &str) -> Option<usize> {
    let mut bytes = tag.bytes().enumerate().skip(1);
    let (_, first) = bytes.next()?;
    if !(first.is_ascii_alphabetic() || first == b'/' || first == b'!' || first == b'?') {
        return None;
    }
    let mut quote = None;
    for (at, byte) in bytes {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// The text behind the end of an element, elements of the same name within it counted.
fn skip_element<'a>(mut rest: &'a str, name: &str) -> &'a str {
    let mut depth = 1;
    while let Some(at) = rest.find('<') {
        rest = rest.get(at + 1..).unwrap_or_default();
        let closing = rest.starts_with('/');
        let tag = rest.strip_prefix('/').unwrap_or(rest);
        let named = tag
            .get(..name.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(name))
            && !tag
                .get(name.len()..)
                .unwrap_or_default()
                .starts_with(|c: char| c.is_ascii_alphanumeric());
        if !named {
            continue;
        }
        if closing {
            depth -= 1;
            if depth == 0 {
                return after(rest, ">");
            }
        } else if name != "script" && name != "style" {
            depth += 1;
        }
    }
    ""
}

fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark)
        .map(|(_, rest)| rest)
        .unwrap_or_default()
}

struct Writer {
    text: String,
    /// White space owed before the next visible character.
    pending: Option<char>,
    preformatted: usize,
}

impl Writer {
    fn space(&mut self) {
        self.pending = self.pending.or(Some(' '));
    }

    fn line(&mut self) {
        self.pending = Some('\n');
    }

    fn push(&mut self, piece: &str) {
        let mut rest = piece;
        while let Some(c) = rest.chars().next() {
            let (c, used) = if c == '&' {
                entity(rest)
            } else {
                (c, c.len_utf8())
            };
            rest = rest.get(used..).unwrap_or_default();
            if self.preformatted > 0 && (c == '\n' || c == ' ' || c == '\t') {
                self.owed();
                self.text.push(c);
            } else if c.is_whitespace() {
                self.space();
            } else {
                self.owed();
                self.text.push(c);
            }
        }
    }

    fn owed(&mut self) {
        if let Some(space) = self.pending.take()
            && (space == '\n' && !self.text.ends_with('\n')
                || space == ' ' && !self.text.ends_with(char::is_whitespace))
            && !self.text.is_empty()
        {
            self.text.push(space);
        }
    }
}

/// Decodes the entity at the start of the text: the character and the bytes it took.
fn entity(text: &str) -> (char, usize) {
    let Some(end) = text.bytes().take(12).position(|byte| byte == b';') else {
        return ('&', 1);
    };
    let name = text.get(1..end).unwrap_or_default();
    let decoded = match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some(' '),
        "mdash" => Some('—'),
        "ndash" => Some('–'),
        "hellip" => Some('…'),
        "lsquo" => Some('‘'),
        "rsquo" => Some('’'),
        "ldquo" => Some('“'),
        "rdquo" => Some('”'),
        "copy" => Some('©'),
        "para" => Some('¶'),
        "sect" => Some('§'),
        "times" => Some('×'),
        "rarr" => Some('→'),
        "larr" => Some('←'),
        "middot" => Some('·'),
        "bull" => Some('•'),
        "shy" | "zwnj" | "zwj" | "ZeroWidthSpace" => Some('\u{200b}'),
        _ => name.strip_prefix('#').and_then(|code| {
            let number = match code.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => code.parse().ok()?,
            };
            char::from_u32(number).filter(|c| *c != '\0')
        }),
    };
    decoded.map_or(('&', 1), |c| (c, end + 1))
}

#[cfg(test)]
mod tests {
    use super::text_of_html;

    #[test]
    fn only_visible_text_stays() {
        let page = "<!doctype html><html><head><title>T</title><style>a{}</style></head><body>\
            <nav><ul><li>Home</li></ul></nav><h1>Title &amp; more</h1><!-- no > --><p>One\n  two <b>three</b>.</p>\
            <script>if (a < b) { x('</p>') }</script><pre>fn a() {\n    b\n}</pre><p title='a > b'>3 &lt; 4 &#8212; &#x41;</p></body>";
        assert_eq!(
            text_of_html(page),
            "Title & more\nOne two three.\nfn a() {\n    b\n}\n3 < 4 — A"
        );
    }

    #[test]
    fn broken_pages_do_not_lose_what_came_before() {
        assert_eq!(text_of_html("a < b &c; <p>d<script>e"), "a < b &c;\nd");
        assert_eq!(text_of_html("a <b"), "a");
        assert_eq!(text_of_html(""), "");
        assert_eq!(text_of_html("&#0;&#x110000;&"), "&#0;&#x110000;&");
    }
}
