//! Files with several names: the first name seen of each. Names lie in one buffer, a directory's path once, so that a million of them take
//! tens of megabytes; a file whose names were all seen is forgotten.

use std::collections::HashMap;
use std::ops::Range;

use super::ladder::Identity;

/// The first names of files that have more.
#[derive(Debug, Default)]
pub struct Links {
    seen: HashMap<(u32, u64), First>,
    devices: Vec<u64>,
    bytes: Vec<u8>,
    /// The directory of the name that was added last.
    directory: Range<usize>,
}

#[derive(Debug)]
struct First {
    directory: Range<usize>,
    name: Range<usize>,
    /// Names that were not seen yet.
    left: u32,
}

impl Links {
    /// The path under which this file was stored, if it was.
    pub fn find(&mut self, file: Identity) -> Option<Vec<u8>> {
        let key = (self.device(file.0), file.1);
        let first = self.seen.get_mut(&key)?;
        let path = [&self.bytes[first.directory.clone()], &self.bytes[first.name.clone()]].concat();
        first.left = first.left.saturating_sub(1);
        if first.left == 0 {
            self.seen.remove(&key);
        }
        Some(path)
    }

    /// Remembers the first name of a file that has `names` of them.
    pub fn add(&mut self, file: Identity, names: u64, path: &[u8]) {
        let slash = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        if self.bytes[self.directory.clone()] != path[..slash] {
            self.directory = self.store(&path[..slash]);
        }
        let name = self.store(&path[slash..]);
        let left = u32::try_from(names.saturating_sub(1)).unwrap_or(u32::MAX);
        let device = self.device(file.0);
        self.seen.insert((device, file.1), First { directory: self.directory.clone(), name, left });
    }

    fn store(&mut self, text: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text);
        start..self.bytes.len()
    }

    /// Few devices, so that a short number does for each.
    fn device(&mut self, device: u64) -> u32 {
        let at = self.devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_is_found_until_all_were_seen() {
        let mut links = Links::default();
        links.add((1, 7), 3, b"a/b/x");
        links.add((2, 7), 2, b"a/b/y");
        links.add((1, 8), 2, b"top");
        assert_eq!(links.find((1, 7)).as_deref(), Some(&b"a/b/x"[..]));
        assert_eq!(links.find((2, 7)).as_deref(), Some(&b"a/b/y"[..]));
        assert_eq!(links.find((1, 8)).as_deref(), Some(&b"top"[..]));
        assert_eq!(links.find((1, 7)).as_deref(), Some(&b"a/b/x"[..]));
        assert_eq!(links.find((1, 7)), None);
        assert!(links.seen.is_empty());
    }
}
