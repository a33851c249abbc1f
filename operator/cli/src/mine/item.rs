//! Owns the reading of Rust sources as text: documentation comments and the items they describe. No parser: what a
//! line-wise reading cannot tell is left out.

/// Pairs of an item's signature and the first paragraph of its documentation.
pub fn pairs(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut documentation: Vec<&str> = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            documentation.push(text.strip_prefix(' ').unwrap_or(text));
        } else if line.starts_with("#[") || line.starts_with("//") {
            // Attributes and plain comments may stand between documentation and item.
        } else {
            if let Some(answer) = paragraph(&documentation)
                && let Some(signature) = signature(line, &mut lines)
            {
                found.push((signature, answer));
            }
            documentation.clear();
        }
    }
    found
}

/// All documentation of a file as prose, a blank line between comments.
pub fn documentation(source: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in source.lines() {
        let line = line.trim();
        let text = line.strip_prefix("//!").or_else(|| {
            line.strip_prefix("///")
                .filter(|rest| !rest.starts_with('/'))
        });
        match text {
            Some(text) => {
                out.push_str(text.strip_prefix(' ').unwrap_or(text));
                out.push('\n');
                inside = true;
            }
            None if inside => {
                out.push('\n');
                inside = false;
            }
            None => {}
        }
    }
    out
}

/// The first paragraph as one line, if it is a sentence of usual length without links that mean nothing alone.
fn paragraph(documentation: &[&str]) -> Option<String> {
    let lines = documentation
        .iter()
        .take_while(|line| !line.trim().is_empty());
    let text = lines.map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    let sentence = (25..=240).contains(&text.len())
        && text.ends_with('.')
        && !text.contains("](")
        && !text.starts_with('#');
    sentence.then(|| text.replace("[`", "`").replace("`]", "`"))
}

/// A public function's signature on one line, without its body.
fn signature<'a>(first: &str, lines: &mut impl Iterator<Item = &'a str>) -> Option<String> {
    let public = [
        "pub fn ",
        "pub const fn ",
        "pub async fn ",
        "pub unsafe fn ",
    ];
    if !public.iter().any(|start| first.starts_with(start)) {
        return None;
    }
    let mut text = first.to_string();
    while !text.contains('{') && !text.ends_with(';') {
        text.push(' ');
        text.push_str(lines.next()?.trim());
        if text.len() > 400 {
            return None;
        }
    }
    let signature = text.split('{').next()?.trim_end_matches(';');
    let words: Vec<&str> = signature.split_whitespace().collect();
    let joined = words
        .join(" ")
        .replace("( ", "(")
        .replace(", )", ")")
        .replace(" )", ")");
    (joined.len() <= 160).then_some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_and_first_paragraphs_are_paired() {
        let source = "/// Adds two numbers and returns their sum.\n///\n/// # Panics\n/// Never.\n#[inline]\npub fn add(\n    a: u8,\n    b: u8,\n) -> u8 {\n    a + b\n}\n/// Short.\npub fn x() {}\n/// A private one is left out, always.\nfn y() {}\n";
        assert_eq!(
            pairs(source),
            [(
                "pub fn add(a: u8, b: u8) -> u8".into(),
                "Adds two numbers and returns their sum.".into()
            )]
        );
        assert!(documentation(source).starts_with(
            "Adds two numbers and returns their sum.\n\n# Panics\nNever.\n\nShort.\n"
        ));
    }
}
