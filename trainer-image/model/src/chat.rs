//! Owns chat templates: messages to the text that a model reads, as Hugging Face's `apply_chat_template`
//! renders it; it must not tokenize. Tuning, evaluation and serving all render here, so they agree.

use minijinja::{Environment, Error as JinjaError, ErrorKind, State, Value, context};
use serde::{Deserialize, Serialize};

use crate::Error;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; other roles are up to the template.
    pub role: String,
    /// Text.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    begin_of_text: String,
    end_of_text: String,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Parses `source` (Jinja). `bos_token` and `eos_token` are what templates know under these names.
    ///
    /// # Errors
    /// [`Error::Chat`] with the parser's words.
    pub fn new(source: &str, begin_of_text: &str, end_of_text: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        // As transformers sets them.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.add_function(
            "raise_exception",
            |text: String| -> Result<Value, JinjaError> {
                Err(JinjaError::new(ErrorKind::InvalidOperation, text))
            },
        );
        environment.set_unknown_method_callback(string_method);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(chat)?;
        Ok(Self {
            environment,
            begin_of_text: begin_of_text.to_owned(),
            end_of_text: end_of_text.to_owned(),
        })
    }

    /// The text of `messages`; with `prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// [`Error::Chat`] when the template refuses the messages.
    pub fn render(&self, messages: &[Message], prompt: bool) -> Result<String, Error> {
        let template = self.environment.get_template(NAME).map_err(chat)?;
        template
            .render(context! {
                messages => messages,
                add_generation_prompt => prompt,
                bos_token => self.begin_of_text,
                eos_token => self.end_of_text,
            })
            .map_err(chat)
    }

    /// The text of a whole conversation and the byte ranges in it that the assistant has to say: what follows
    /// each generation prompt up to the end of that message.
    ///
    /// # Errors
    /// [`Error::Chat`] when the template does not write messages one after another, so that no range can be
    /// told apart.
    pub fn answers(
        &self,
        messages: &[Message],
    ) -> Result<(String, Vec<std::ops::Range<usize>>), Error> {
        let text = self.render(messages, false)?;
        let mut ranges = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if message.role != "assistant" {
                continue;
            }
            let (before, through) = (messages.get(..index), messages.get(..=index));
            let before = self.render(before.unwrap_or_default(), true)?;
            let through = self.render(through.unwrap_or_default(), false)?;
            if !(through.starts_with(&before) && text.starts_with(&through)) {
                let problem = "it does not append messages, so the answers cannot be told apart; use another template";
                return Err(Error::Chat(problem.to_owned()));
            }
            ranges.push(before.len()..through.len());
        }
        Ok((text, ranges))
    }
}

fn chat(error: JinjaError) -> Error {
    Error::Chat(error.to_string())
}

/// The Python string methods that published templates call.
fn string_method(
    _: &State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, JinjaError> {
    let unknown = || {
        JinjaError::new(
            ErrorKind::UnknownMethod,
            format!("method {method} is not supported"),
        )
    };
    let text = value.as_str().ok_or_else(unknown)?;
    let argument = || {
        arguments
            .first()
            .and_then(Value::as_str)
            .ok_or_else(unknown)
    };
    Ok(match (method, arguments.len()) {
        ("strip", 0) => Value::from(text.trim()),
        ("lstrip", 0) => Value::from(text.trim_start()),
        ("rstrip", 0) => Value::from(text.trim_end()),
        ("upper", 0) => Value::from(text.to_uppercase()),
        ("lower", 0) => Value::from(text.to_lowercase()),
        ("startswith", 1) => Value::from(text.starts_with(argument()?)),
        ("endswith", 1) => Value::from(text.ends_with(argument()?)),
        ("split", 1) => text.split(argument()?).map(Value::from).collect(),
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CHAT_TEMPLATE;

    fn conversation() -> Vec<Message> {
        vec![
            Message::new("user", "2+2?"),
            Message::new("assistant", "4"),
            Message::new("user", "3+3?"),
            Message::new("assistant", "6"),
        ]
    }

    #[test]
    fn our_template_marks_roles_and_ends() {
        let template = ChatTemplate::new(CHAT_TEMPLATE, "", "").unwrap();
        assert_eq!(
            template.render(&conversation()[..1], true).unwrap(),
            "<|user|>2+2?<|end|><|assistant|>"
        );
        let (text, ranges) = template.answers(&conversation()).unwrap();
        let answers: Vec<&str> = ranges.into_iter().map(|range| &text[range]).collect();
        assert_eq!(answers, ["4<|end|>", "6<|end|>"]);
    }

    #[test]
    fn published_templates_render_as_in_python() {
        // Zephyr's template; the text is what transformers 5 renders for it.
        let zephyr = "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'].strip() + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}";
        let template = ChatTemplate::new(zephyr, "<s>", "</s>").unwrap();
        let text = template
            .render(&[Message::new("user", " hi ")], true)
            .unwrap();
        assert_eq!(text, "<|user|>\nhi</s>\n<|assistant|>\n");
    }

    #[test]
    fn refusals_say_why() {
        let strict =
            ChatTemplate::new("{{ raise_exception('no system message') }}", "", "").unwrap();
        let error = strict.render(&conversation(), true).unwrap_err();
        assert!(error.to_string().contains("no system message"), "{error}");
        assert_eq!(error.category(), "InvalidChatTemplate");
        assert!(ChatTemplate::new("{% for %}", "", "").is_err());
        let reversed = "{% for message in messages|reverse %}{{ message.content }}{% endfor %}";
        assert!(
            ChatTemplate::new(reversed, "", "")
                .unwrap()
                .answers(&conversation())
                .is_err()
        );
    }
}
