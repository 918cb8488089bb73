//! How much a directory holds, for people who are about to replace it: a look, not a survey.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytesize::ByteSize;
use serde_json::json;

use super::place::Place;
use crate::manifest::Facts;

/// Entries that are counted: a plan should not take longer than it is read.
const MOST: u64 = 100_000;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    entries: u64,
    /// Lengths of the files.
    bytes: u64,
    /// There is more: it was too much, or could not be read.
    more: bool,
}

/// Counts what lies below `path`. Links are not followed.
fn usage(path: &Path) -> Usage {
    let mut found = Usage::default();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            found.more = true;
            continue;
        };
        for entry in entries {
            if found.entries == MOST {
                return Usage { more: true, ..found };
            }
            // of the entry itself, not of what it leads to
            match entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))) {
                Ok((path, metadata)) => {
                    found.entries += 1;
                    if metadata.is_dir() {
                        waiting.push(path);
                    } else if metadata.is_file() {
                        found.bytes += metadata.size();
                    }
                }
                Err(_) => found.more = true,
            }
        }
    }
    found
}

/// What is replaced and what room there is, in sentences and for scripts; `needed` in bytes.
pub fn describe(place: &Place, needed: u64) -> (Vec<String>, Facts) {
    let seen = (place.exists && !place.empty).then(|| usage(&place.target));
    let room = place.available();
    let mut steps = Vec::new();
    if let Some(Usage { entries, bytes, more }) = seen {
        let least = if more { "more than " } else { "" };
        steps.push(format!("{} holds {least}{entries} entries now, {}", place.target.display(), ByteSize(bytes).display().iec()));
    }
    let needs = format!("about {} are needed in {}", ByteSize(needed).display().iec(), place.base().display());
    steps.push(match room {
        Some(bytes) => format!("{needs}, which has {}", ByteSize(bytes).display().iec()),
        None => format!("{needs}, which does not tell how much it has"),
    });
    let facts = [
        ("path", json!(place.target)),
        ("exists", json!(place.exists)),
        ("current_entries", json!(seen.map(|usage| usage.entries))),
        ("current_bytes", json!(seen.map(|usage| usage.bytes))),
        ("needed_bytes", json!(needed)),
        ("available_bytes", json!(room)),
    ];
    (steps, facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_is_counted_and_no_link_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("a/b")).expect("created");
        fs::write(dir.path().join("a/b/c"), "12345").expect("written");
        fs::write(dir.path().join("d"), "123").expect("written");
        std::os::unix::fs::symlink("/", dir.path().join("link")).expect("a link");
        assert_eq!(usage(dir.path()), Usage { entries: 5, bytes: 8, more: false });
        assert_eq!(usage(&dir.path().join("nowhere")), Usage { more: true, ..Usage::default() });
    }
}
