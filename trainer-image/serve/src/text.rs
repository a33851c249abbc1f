//! Owns the way from generated tokens to text that may be sent: whole UTF-8 characters only, cut
//! before the first stop string, nothing held back longer than needed. It must not know about HTTP.

/// Text of one choice, fed token by token.
#[derive(Debug)]
pub struct Assembler {
    stops: Vec<String>,
    /// Bytes that do not yet end a character.
    partial: Vec<u8>,
    /// Text decoded but not released: it may be the beginning of a stop string.
    held: String,
    /// Characters released.
    released: usize,
    stopped: bool,
}

impl Assembler {
    /// Stops before the first occurrence of any of `stops`; empty strings stop nothing.
    #[must_use]
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self {
            stops,
            partial: Vec::new(),
            held: String::new(),
            released: 0,
            stopped: false,
        }
    }

    /// Whether a stop string was met; everything after it is dropped.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Characters decoded so far, those held back included.
    #[must_use]
    pub fn decoded(&self) -> usize {
        self.released + self.held.chars().count()
    }

    /// Adds the bytes of a token; returns the text that can be sent now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.partial.extend_from_slice(bytes);
        self.decode(false);
        self.release(false)
    }

    /// No more tokens: returns what is left; an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        self.decode(true);
        self.release(true)
    }

    /// Moves whole characters from `partial` to `held`; invalid bytes become U+FFFD.
    fn decode(&mut self, last: bool) {
        let bytes = std::mem::take(&mut self.partial);
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.held.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // Only the end of the bytes can be the beginning of a character still to come.
            if chunks.peek().is_none() && !last && begins_character(invalid) {
                self.partial = invalid.to_vec();
            } else {
                self.held.push('\u{FFFD}');
            }
        }
    }

    /// Takes from `held` what cannot belong to a stop string.
    fn release(&mut self, last: bool) -> String {
        // The stop string that is complete first wins, as if the text came character by character.
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop).map(|at| (at + stop.len(), at)));
        if let Some((_, at)) = found.min() {
            self.stopped = true;
            self.held.truncate(at);
        }
        let overlaps = self.stops.iter().map(|stop| overlap(&self.held, stop));
        let keep = if last || self.stopped {
            0
        } else {
            overlaps.max().unwrap_or(0)
        };
        let rest = self.held.split_off(self.held.len() - keep);
        let text = std::mem::replace(&mut self.held, rest);
        self.released += text.chars().count();
        text
    }
}

/// Length of the longest proper beginning of `stop` that `text` ends with.
fn overlap(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(at, _)| at).skip(1);
    ends.filter(|end| stop.get(..*end).is_some_and(|start| text.ends_with(start)))
        .last()
        .unwrap_or(0)
}

/// Whether `bytes`, found invalid at the end of the input, may still become one character.
fn begins_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut assembler = Assembler::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut sent: Vec<String> = pieces.iter().map(|piece| assembler.push(piece)).collect();
        sent.push(assembler.finish());
        (sent, assembler.stopped())
    }

    #[test]
    fn characters_are_sent_whole() {
        let (sent, _) = run(
            &[],
            &[b"a\xC3", b"\xA9", b"\xF0\x9F", b"\x98\x80!", b"\xE2\x82"],
        );
        assert_eq!(sent, ["a", "é", "", "😀!", "", "\u{FFFD}"]);
        let (sent, _) = run(&[], &[b"\xE2\x82", b"x", b"\xFF", b"y"]);
        assert_eq!(sent.concat(), "\u{FFFD}x\u{FFFD}y");
    }

    #[test]
    fn stop_strings_across_tokens_are_cut_and_never_leak() {
        let (sent, stopped) = run(&["END"], &[b"one E", b"N", b"D two"]);
        assert_eq!((sent.concat().as_str(), stopped), ("one ", true));
        assert_eq!(sent[1], "");
        let (sent, stopped) = run(&["END"], &[b"one E", b"N", b"x E"]);
        assert_eq!(sent, ["one ", "", "ENx ", "E"]);
        assert!(!stopped);
        let (sent, _) = run(&["bc", "abcd"], &[b"xabcd"]);
        assert_eq!(
            sent.concat(),
            "xa",
            "the stop string that is complete first wins"
        );
        let (sent, _) = run(&["\u{e9}"], &[b"a\xC3", b"\xA9b"]);
        assert_eq!(sent.concat(), "a");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[abé]{0,24}", stop in "[abé]{1,3}", cuts in prop::collection::vec(1usize..4, 0..24)) {
            let mut assembler = Assembler::new(vec![stop.clone()]);
            let mut rest = text.as_bytes();
            let mut sent = String::new();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                sent += &assembler.push(piece);
                rest = after;
            }
            sent += &assembler.push(rest);
            sent += &assembler.finish();
            let expected = text.find(&stop).map_or(text.as_str(), |at| &text[..at]);
            prop_assert_eq!(sent, expected);
        }
    }
}
