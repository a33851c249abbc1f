//! Owns reading lines of bounded length; a longer line is passed over without being held in memory.

use std::io::Read;

use crate::error::DataError;

/// Given the number and the bytes of a line.
type Each<'a> = dyn FnMut(u64, Option<&[u8]>) -> Result<(), DataError> + 'a;

/// Calls `each` with the number (from 1) and the bytes of every line that is not blank; `None` for a line of more
/// than `limit` bytes.
pub(crate) fn each_line(
    reader: &mut dyn Read,
    limit: usize,
    failed: &dyn Fn(std::io::Error) -> DataError,
    each: &mut Each<'_>,
) -> Result<(), DataError> {
    let mut buffer = vec![0; 1 << 18];
    let mut line: Vec<u8> = Vec::new();
    let mut over = false;
    let mut number = 0;
    loop {
        let read = reader.read(&mut buffer).map_err(failed)?;
        let Some(mut rest) = buffer.get(..read).filter(|rest| !rest.is_empty()) else {
            break;
        };
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = rest.split_at(end);
            push(&mut line, &mut over, head, limit);
            number += 1;
            finish(number, &mut line, &mut over, each)?;
            rest = tail.get(1..).unwrap_or_default();
        }
        push(&mut line, &mut over, rest, limit);
    }
    if over || !line.is_empty() {
        finish(number + 1, &mut line, &mut over, each)?;
    }
    Ok(())
}

fn push(line: &mut Vec<u8>, over: &mut bool, piece: &[u8], limit: usize) {
    if *over || line.len() + piece.len() > limit {
        *over = true;
        line.clear();
    } else {
        line.extend_from_slice(piece);
    }
}

fn finish(
    number: u64,
    line: &mut Vec<u8>,
    over: &mut bool,
    each: &mut Each<'_>,
) -> Result<(), DataError> {
    let result = if *over {
        each(number, None)
    } else {
        let content = line.strip_suffix(b"\r").unwrap_or(line);
        if content.trim_ascii().is_empty() {
            Ok(())
        } else {
            each(number, Some(content))
        }
    };
    line.clear();
    *over = false;
    result
}
