//! Owns the filters of text; each gives a stable reason and must not change the text.

mod language;
mod repetition;

use bessemer_protocol::task::{Clean, Repetition};

use crate::error::DataError;
use language::Language;

pub use repetition::{Repetition as RepetitionFilter, RepetitionRule};

/// The filters of a task with their scratch space, reused over documents.
#[derive(Debug)]
pub(crate) struct Filter<'a> {
    clean: &'a Clean,
    repetition: Option<RepetitionFilter>,
    language: Option<Language>,
}

impl<'a> Filter<'a> {
    /// # Errors
    /// `Config` for a language that is not known.
    pub(crate) fn new(clean: &'a Clean) -> Result<Self, DataError> {
        Ok(Self {
            clean,
            repetition: clean
                .repetition
                .map(|Repetition::Gopher| RepetitionFilter::new()),
            language: clean.language.as_ref().map(Language::new).transpose()?,
        })
    }

    /// Why a document goes; `None` when it stays.
    pub(crate) fn refused(&mut self, text: &str) -> Option<&'static str> {
        let characters = text.chars().count() as u64;
        if characters < self.clean.min_characters {
            return Some("tooShort");
        }
        if characters > self.clean.max_characters {
            return Some("tooLong");
        }
        if self.language.is_some_and(|language| !language.is(text)) {
            return Some("language");
        }
        let repetition = self.repetition.as_mut()?;
        repetition.broken(text).map(RepetitionRule::reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repetitive(text: &str) -> Option<&'static str> {
        RepetitionFilter::new()
            .broken(text)
            .map(RepetitionRule::reason)
    }

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
}
