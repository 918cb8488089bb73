//! Keys of objects and paths of archive members (pure).
//!
//! A key is any text: `a//b`, `dir/`, `/x`, and `a` beside `a/b` are all different objects. A path in an archive that stock tools unpack is
//! less. So a key that is no such path gets one that is, unlike any other, and is kept beside it ([`super::headers::KEY`]).

use std::fmt::Write as _;

/// Longest part of a path that file systems take, in bytes.
const LONGEST_PART: usize = 255;

/// The paths of keys that come in the order of a listing: those below a folder stand together.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The folders that the last path lies in, each whole, without a slash at its end.
    open: Vec<String>,
    /// Paths of files that a later key may take for a folder.
    files: Vec<String>,
}

/// Where an object goes in the archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Folders that must come before it, outermost first.
    pub(super) folders: Vec<String>,
    pub(super) path: String,
    /// The object is a folder's: its key ends in a slash, and it has no content.
    pub(super) is_folder: bool,
    /// Whether the path says less than the key.
    pub(super) differs: bool,
}

impl Paths {
    /// The place of the next key. `size` is that of its object.
    pub(super) fn place(&mut self, key: &str, size: u64) -> Place {
        // keys that begin alike stand together
        self.files.retain(|file| key.starts_with(file.as_str()));
        let in_a_file = self.files.iter().any(|file| key[file.len()..].starts_with('/'));
        let folder =
            key.strip_suffix('/').filter(|folder| size == 0 && !in_a_file && is_path(folder) && !self.open.iter().any(|o| o == folder));
        let (path, is_folder) = match folder {
            Some(folder) => (folder, true),
            None if is_path(key) && !in_a_file => (key, false),
            None => return Place { folders: Vec::new(), path: escaped(key), is_folder: false, differs: true },
        };
        let parents: Vec<String> = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
        let folders = parents.iter().filter(|parent| !self.open.contains(parent)).cloned().collect();
        self.open = parents;
        if is_folder {
            self.open.push(path.to_owned());
        } else {
            self.files.push(path.to_owned());
        }
        Place { folders, path: path.to_owned(), is_folder, differs: false }
    }
}

/// Whether stock tools unpack a member of that name as it is.
fn is_path(key: &str) -> bool {
    !key.is_empty() && !key.contains('\0') && key.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= LONGEST_PART)
}

/// A name without a slash that no other key gets: what cannot stand is written `%2F`, and the key's hash follows.
fn escaped(key: &str) -> String {
    let mut name = String::new();
    for c in key.chars() {
        match c {
            '/' | '\0' | '%' => drop(write!(name, "%{:02X}", u32::from(c))),
            c => name.push(c),
        }
        if name.len() > LONGEST_PART / 2 {
            break;
        }
    }
    format!("{name}.{}", &blake3::hash(key.as_bytes()).to_hex()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(keys: &[&str]) -> Vec<Place> {
        let mut paths = Paths::default();
        keys.iter().map(|key| paths.place(key, if key.ends_with('/') { 0 } else { 1 })).collect()
    }

    fn place(folders: &[&str], path: &str, is_folder: bool) -> Place {
        Place { folders: folders.iter().map(|&f| f.to_owned()).collect(), path: path.to_owned(), is_folder, differs: false }
    }

    #[test]
    fn keys_that_are_paths_stay_and_folders_come_before_them() {
        let got = places(&["a", "icons/app.png", "icons/deep/er/x", "icons/deep/y", "j/k"]);
        let expected = [
            place(&[], "a", false),
            place(&["icons"], "icons/app.png", false),
            place(&["icons/deep", "icons/deep/er"], "icons/deep/er/x", false),
            place(&[], "icons/deep/y", false),
            place(&["j"], "j/k", false),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn the_object_of_a_folder_is_the_folder() {
        let got = places(&["dir/", "dir/x", "e/", "e/f/"]);
        assert_eq!(got, [place(&[], "dir", true), place(&[], "dir/x", false), place(&[], "e", true), place(&[], "e/f", true)]);
    }

    #[test]
    fn every_other_key_gets_a_path_of_its_own_that_can_be_unpacked() {
        let long = "l".repeat(300);
        let mut keys = ["/x", "a", "a-b", "a/b", "a//b", "a/../b", "./c", "", "n\0l", long.as_str(), "a/", "a%2F%2Fb"];
        // as a server lists them
        keys.sort_unstable();
        let got = places(&keys);
        let mut seen = std::collections::BTreeSet::new();
        for (key, place) in keys.iter().zip(&got) {
            assert!(is_path(&place.path), "{key}: {place:?}");
            assert!(seen.insert(place.path.clone()), "{key}: {place:?}");
            assert_eq!(place.differs, place.path != *key, "{key}");
        }
        let path = |key: &str| got[keys.iter().position(|k| *k == key).expect("there")].path.as_str();
        assert_eq!((path("a"), path("a-b")), ("a", "a-b"));
        assert_ne!(path("a/b"), "a/b", "a file cannot be a folder too");
        // a folder with content is not a folder
        let mut paths = Paths::default();
        assert!(!paths.place("dir/", 5).is_folder);
    }
}
