//! JSON that somebody else may have written, read in bounded memory.
//!
//! A few bytes of JSON can claim a hundred times as many: `{"a":1}` is a node of a tree with room for eleven. So what the values will take is
//! reckoned from the text, before any is made.

use serde::de::DeserializeOwned;
use thiserror::Error;

/// Bytes that an object takes, whatever is in it: a node of a `BTreeMap<String, Value>`.
const OBJECT: usize = 640;
/// Bytes that a value takes, in a vector that has grown to twice what is in it.
const VALUE: usize = 64;

/// Why a text is not read.
#[derive(Debug, Error)]
pub enum JsonError {
    #[error("its values would take more than {} of memory", bytesize::ByteSize(*.limit as u64).display().iec())]
    TooLarge { limit: usize },
    #[error(transparent)]
    Form(#[from] serde_json::Error),
}

/// Reads `text`, if its values take no more than about `limit` bytes.
///
/// # Errors
/// [`JsonError`].
pub fn from_json<T: DeserializeOwned>(text: &[u8], limit: usize) -> Result<T, JsonError> {
    if memory(text) > limit {
        return Err(JsonError::TooLarge { limit });
    }
    Ok(serde_json::from_slice(text)?)
}

/// About how many bytes the values of `text` take; never much less than they do.
fn memory(text: &[u8]) -> usize {
    let (mut memory, mut quoted, mut escaped) = (text.len(), false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' => memory += OBJECT,
            b',' | b':' | b'[' => memory += VALUE,
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_real_files_hold_is_read() {
        let table = r#"{"name":"public.\"a, b\": {[","rows":12345,"sum":"123456789012345678901234567890","other":[1,2.5,null,true]}"#;
        let tables = format!("[{}]", vec![table; 50_000].join(","));
        let read: Value = from_json(tables.as_bytes(), 128 * MIB).expect("fifty thousand tables");
        assert_eq!(read.as_array().map(Vec::len), Some(50_000));
        assert!(from_json::<Value>(b"{\"a\\\"", MIB).is_err_and(|e| matches!(e, JsonError::Form(_))));
    }

    #[test]
    fn what_would_take_a_multiple_of_its_bytes_is_refused_unread() {
        for (piece, times) in [("{\"a\":1},", 200_000), ("1,", 2_000_000), ("[],", 1_000_000), ("[[],", 1_000_000), ("\"\",", 2_000_000)] {
            let text = format!("[{}1]", piece.repeat(times));
            assert!(matches!(from_json::<Value>(text.as_bytes(), 64 * MIB), Err(JsonError::TooLarge { .. })), "{piece}");
        }
    }

    #[test]
    fn what_is_quoted_counts_as_its_bytes() {
        let text = serde_json::to_vec(&"{,:[\\\"".repeat(10_000)).expect("JSON");
        assert_eq!(memory(&text), text.len());
    }
}
