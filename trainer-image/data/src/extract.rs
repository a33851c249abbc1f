//! Owns turning a file into documents, one at a time; it must not judge them.

mod html;
mod lines;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use bessemer_protocol::task::{Format, Purpose};

use crate::document::{Document, MAX_BYTES};
use crate::error::DataError;
use crate::record;

pub(crate) use html::text_of_html;

/// What a piece of a file turns out to be: a document, or left out with a reason.
pub(crate) enum Item {
    Document(Document),
    Removed(&'static str),
}

/// A piece of a file as it was read, decompressed but not yet looked at: at most one document.
#[derive(Debug)]
pub(crate) enum Raw {
    /// A whole file.
    File(Format, Vec<u8>),
    /// A line of JSON records, with its number from 1.
    Line(u64, Vec<u8>),
    /// A file or line that is too long to be held.
    TooLong,
}

impl Raw {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::File(_, bytes) | Self::Line(_, bytes) => bytes.len(),
            Self::TooLong => 0,
        }
    }

    /// The document within; `None` when it is empty of text.
    ///
    /// # Errors
    /// `NotText`, `Record`.
    pub(crate) fn parse(
        &self,
        path: &Path,
        reading: &Reading<'_>,
    ) -> Result<Option<Item>, DataError> {
        match self {
            Self::TooLong => Ok(Some(Item::Removed("tooLong"))),
            Self::Line(line, bytes) => {
                let at = record::At { path, line: *line };
                record::read(&at, text(path, bytes)?, reading)
            }
            Self::File(format, bytes) => {
                let content = text(path, bytes)?;
                let text = match format {
                    Format::Html => text_of_html(content),
                    _ => content.to_string(),
                };
                Ok(Some(Item::Document(Document {
                    text,
                    license: None,
                    subject: None,
                })))
            }
        }
    }
}

/// How the text of a source's records is found.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    pub format: Format,
    pub text_field: Option<&'a str>,
    pub subject_field: Option<&'a str>,
    /// Records are kept whole (instruction and similar purposes).
    pub records: bool,
    /// Decides the form of records.
    pub purpose: Purpose,
}

/// Calls `each` for every piece of a file.
///
/// # Errors
/// `Compressed`, `Vanished`, those of the file system and of `each`.
pub(crate) fn read_file(
    path: &Path,
    format: Format,
    each: &mut dyn FnMut(Raw) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => DataError::Vanished { path: path.into() },
        _ => DataError::io(path, error),
    })?;
    let compressed = path.extension().is_some_and(|extension| extension == "gz");
    let name = if compressed {
        path.with_extension("")
    } else {
        path.to_path_buf()
    };
    let format = match format {
        Format::Auto => guess(&name),
        given => given,
    };
    let mut reader: Box<dyn Read> = if compressed {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(file)
    };
    let failed = |error: std::io::Error| {
        if compressed {
            DataError::Compressed {
                path: path.into(),
                reason: error.to_string(),
            }
        } else {
            DataError::io(path, error)
        }
    };
    if format == Format::Jsonl {
        return lines::each_line(
            reader.as_mut(),
            MAX_BYTES,
            &failed,
            &mut |number, line| match line {
                None => each(Raw::TooLong),
                Some(line) => each(Raw::Line(number, line.to_vec())),
            },
        );
    }
    let mut bytes = Vec::new();
    let read = reader
        .by_ref()
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if read > MAX_BYTES {
        // Read to the end all the same, so that a damaged archive is found.
        std::io::copy(reader.as_mut(), &mut std::io::sink()).map_err(failed)?;
        return each(Raw::TooLong);
    }
    each(Raw::File(format, bytes))
}

/// The format of a file by its extension; what is unknown is plain text.
fn guess(name: &Path) -> Format {
    let extension = name.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str() {
        Some("md" | "markdown") => Format::Markdown,
        Some("html" | "htm" | "xhtml") => Format::Html,
        Some("jsonl" | "ndjson") => Format::Jsonl,
        Some(
            "rs" | "c" | "h" | "cc" | "cpp" | "hpp" | "go" | "py" | "js" | "ts" | "java" | "sh"
            | "toml" | "sql",
        ) => Format::Code,
        _ => Format::Text,
    }
}

/// Bytes as text; a NUL byte or invalid UTF-8 is refused with its place.
fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, DataError> {
    let refuse = |reason: String| DataError::NotText {
        path: path.into(),
        reason,
    };
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(refuse(format!("a NUL byte at offset {at}: binary data")));
    }
    std::str::from_utf8(bytes)
        .map_err(|error| refuse(format!("invalid UTF-8 at byte {}", error.valid_up_to())))
}
