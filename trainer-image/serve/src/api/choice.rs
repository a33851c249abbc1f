//! Owns one choice of an answer while its tokens arrive: text, scores, offsets and the end. It
//! must not know in which of OpenAI's shapes the choice is sent.

use crate::engine::{Event, Failure, Finish};
use crate::sampler::Score;
use crate::text::Assembler;
use crate::vocabulary::Vocabulary;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;

/// A token with its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Its id.
    pub token: u32,
    /// Its score; the first token of an echoed prompt has none.
    pub score: Option<Score>,
    /// Characters before it, the echoed prompt included.
    pub offset: usize,
}

/// What can be sent now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Which choice.
    pub index: usize,
    /// Text.
    pub text: String,
    /// Tokens of the text.
    pub scores: Vec<Scored>,
    /// Set with the last delta.
    pub finish: Option<Finish>,
}

impl Delta {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.scores.is_empty() && self.finish.is_none()
    }
}

/// A choice and where its events come from.
#[derive(Debug)]
pub struct Choice {
    index: usize,
    vocabulary: Arc<Vocabulary>,
    events: UnboundedReceiver<Event>,
    assembler: Assembler,
    /// The prompt's text and ids, until they have been sent.
    echo: Option<(String, Vec<u32>)>,
    /// Characters of the echoed prompt.
    echoed: usize,
    /// Scores of tokens whose text is held back.
    held: VecDeque<Scored>,
    /// Characters sent, the echo left out.
    sent: usize,
    generated: usize,
    finished: bool,
}

impl Choice {
    /// A choice whose engine events come from `events`; `echo` is sent before everything else.
    #[must_use]
    pub fn new(
        index: usize,
        vocabulary: Arc<Vocabulary>,
        events: UnboundedReceiver<Event>,
        stops: Vec<String>,
        echo: Option<(String, Vec<u32>)>,
    ) -> Self {
        let echoed = echo.as_ref().map_or(0, |(text, _)| text.chars().count());
        let assembler = Assembler::new(stops);
        Self {
            index,
            vocabulary,
            events,
            assembler,
            echo,
            echoed,
            held: VecDeque::new(),
            sent: 0,
            generated: 0,
            finished: false,
        }
    }

    /// Tokens generated so far.
    #[must_use]
    pub fn generated(&self) -> usize {
        self.generated
    }

    /// The next delta with something in it; `None` after the last. Cancel safe: what an event
    /// brought is returned in the same poll.
    ///
    /// # Errors
    /// When the engine cannot complete the sequence; the outer `None` of the failure means that it
    /// has stopped altogether.
    pub async fn next(&mut self) -> Option<Result<Delta, Option<Failure>>> {
        while !self.finished {
            let delta = match self.events.recv().await {
                Some(event) => self.feed(event),
                None => Err(None),
            };
            match delta {
                Ok(delta) if delta.is_empty() => {}
                Ok(delta) => return Some(Ok(delta)),
                Err(failure) => {
                    self.finished = true;
                    return Some(Err(failure));
                }
            }
        }
        None
    }

    fn feed(&mut self, event: Event) -> Result<Delta, Option<Failure>> {
        let mut delta = Delta {
            index: self.index,
            ..Delta::default()
        };
        match event {
            Event::Prompt(scores) => self.tell_echo(&mut delta, scores),
            Event::Token { token, score } => {
                self.tell_echo(&mut delta, Vec::new());
                self.generated += 1;
                let offset = self.assembler.decoded();
                if score.is_some() {
                    self.held.push_back(Scored {
                        token,
                        score,
                        offset,
                    });
                }
                let vocabulary = self.vocabulary.clone();
                let text = self.assembler.push(vocabulary.bytes(token));
                self.release(&mut delta, &text);
                if self.assembler.stopped() {
                    self.finish(&mut delta, Finish::Stop);
                }
            }
            Event::End(finish) => {
                self.tell_echo(&mut delta, Vec::new());
                let text = self.assembler.finish();
                self.release(&mut delta, &text);
                if !self.assembler.stopped() {
                    self.take_scores(&mut delta, usize::MAX);
                }
                let finish = if self.assembler.stopped() {
                    Finish::Stop
                } else {
                    finish
                };
                self.finish(&mut delta, finish);
            }
            Event::Failed(failure) => return Err(Some(failure)),
        }
        Ok(delta)
    }

    fn finish(&mut self, delta: &mut Delta, finish: Finish) {
        delta.finish = Some(finish);
        self.finished = true;
        // The engine sees at its next step that nobody listens and frees the sequence.
        self.events.close();
    }

    /// Adds text and the scores of tokens that begin inside it.
    fn release(&mut self, delta: &mut Delta, text: &str) {
        delta.text.push_str(text);
        self.sent += text.chars().count();
        self.take_scores(delta, self.sent);
    }

    fn take_scores(&mut self, delta: &mut Delta, before: usize) {
        while let Some(scored) = self.held.pop_front_if(|scored| scored.offset < before) {
            delta.scores.push(Scored {
                offset: scored.offset + self.echoed,
                ..scored
            });
        }
    }

    fn tell_echo(&mut self, delta: &mut Delta, scores: Vec<Option<Score>>) {
        let Some((text, tokens)) = self.echo.take() else {
            return;
        };
        delta.text.push_str(&text);
        let mut place = Assembler::new(Vec::new());
        let mut ids = tokens.iter();
        for score in scores {
            let Some(token) = ids.next() else { return };
            // A prompt's text shows special tokens by name where it was given as text.
            delta.scores.push(Scored {
                token: *token,
                score,
                offset: place.decoded(),
            });
            place.push(self.vocabulary.bytes(*token));
        }
    }
}
