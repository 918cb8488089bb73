//! The fingerprint of a bucket (pure): of all keys with their contents, and of all headers, each in no order.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::component::Detail;

/// The sum of what was added, modulo 2^64 in each of four places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum([u64; 4]);

impl Sum {
    fn add(&mut self, hash: &blake3::Hash) {
        for (sum, bytes) in self.0.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            *sum = sum.wrapping_add(u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        }
    }

    fn text(self) -> String {
        self.0.iter().map(|place| format!("{place:016x}")).collect()
    }
}

/// What a bucket holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Print {
    objects: u64,
    bytes: u64,
    contents: Sum,
    headers: Sum,
}

/// As it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    objects: u64,
    bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    contents: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers: Option<String>,
}

/// How two prints compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// In a sentence.
    Same(String),
    /// All but the headers: not every store keeps each of them.
    OtherHeaders,
    Differs(String),
}

impl Print {
    /// Adds an object. `key` is below the prefix, `content` the hash of its bytes.
    pub(super) fn add(&mut self, key: &str, size: u64, content: &blake3::Hash, headers: &[(String, String)]) {
        self.objects += 1;
        self.bytes += size;
        let mut hasher = blake3::Hasher::new();
        put(&mut hasher, key.as_bytes());
        hasher.update(&size.to_le_bytes()).update(content.as_bytes());
        self.contents.add(&hasher.finalize());
        let mut hasher = blake3::Hasher::new();
        put(&mut hasher, key.as_bytes());
        for (name, value) in headers {
            put(&mut hasher, name.as_bytes());
            put(&mut hasher, value.as_bytes());
        }
        self.headers.add(&hasher.finalize());
    }

    pub(super) fn objects(&self) -> u64 {
        self.objects
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// For the manifest.
    pub(super) fn noted(&self, detail: Detail) -> Option<Value> {
        let sum = |sum: Sum| (detail == Detail::Full).then(|| sum.text());
        let stored = Stored { objects: self.objects, bytes: self.bytes, contents: sum(self.contents), headers: sum(self.headers) };
        (detail != Detail::Off).then(|| serde_json::to_value(stored).unwrap_or_default())
    }

    /// Compares with what a manifest says.
    ///
    /// # Errors
    /// When that is no fingerprint of a bucket.
    pub(super) fn judge(&self, noted: &Value) -> io::Result<Verdict> {
        let stored: Stored = Stored::deserialize(noted)?;
        if (stored.objects, stored.bytes) != (self.objects, self.bytes) {
            let text = format!("{} objects of {} bytes in place of {} of {}", self.objects, self.bytes, stored.objects, stored.bytes);
            return Ok(Verdict::Differs(text));
        }
        if stored.contents.as_ref().is_some_and(|contents| *contents != self.contents.text()) {
            return Ok(Verdict::Differs("the keys or contents of some objects are others".to_owned()));
        }
        if stored.headers.is_some_and(|headers| headers != self.headers.text()) {
            return Ok(Verdict::OtherHeaders);
        }
        let what = if stored.contents.is_some() { "keys, contents and headers" } else { "number and size" };
        Ok(Verdict::Same(format!("compared: {what} of {} objects are as they were backed up", self.objects)))
    }
}

/// With its length before it, so that two fields are never taken for one.
fn put(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(objects: &[(&str, &str, &str)]) -> Print {
        let mut print = Print::default();
        for (key, content, kind) in objects {
            let headers = [("content-type".to_owned(), (*kind).to_owned())];
            print.add(key, content.len() as u64, &blake3::hash(content.as_bytes()), &headers);
        }
        print
    }

    #[test]
    fn the_order_does_not_count_and_everything_else_does() {
        let noted = print(&[("a", "1", "x/y"), ("b", "2", "x/y")]).noted(Detail::Full).expect("noted");
        let judge = |objects: &[(&str, &str, &str)]| print(objects).judge(&noted).expect("a verdict");
        assert!(matches!(judge(&[("b", "2", "x/y"), ("a", "1", "x/y")]), Verdict::Same(text) if text.contains("contents")));
        assert_eq!(judge(&[("b", "2", "x/y"), ("a", "1", "x/z")]), Verdict::OtherHeaders);
        for other in [vec![("a", "1", "x/y")], vec![("a", "2", "x/y"), ("b", "1", "x/y")], vec![("a", "1", "x/y"), ("c", "2", "x/y")]] {
            assert!(matches!(judge(&other), Verdict::Differs(_)), "{other:?}");
        }
    }

    #[test]
    fn counts_compare_counts_only() {
        let noted = print(&[("a", "1", "x/y")]).noted(Detail::Counts).expect("noted");
        assert!(matches!(print(&[("b", "2", "q/q")]).judge(&noted).expect("a verdict"), Verdict::Same(text) if text.contains("number")));
        assert_eq!(Print::default().noted(Detail::Off), None);
        assert!(Print::default().judge(&serde_json::json!({"root": "x"})).is_err());
    }
}
