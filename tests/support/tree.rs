//! Says whether two directory trees are the same, independently of the program.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::pg_compare::differences;

/// How much more a restored file may occupy than the original, in bytes: file systems allocate ahead.
const ALLOCATION_SLACK: u64 = 128 << 10;

/// A tree as `lstat`, content and extended attributes say. The root's own entry has the path `.`.
#[derive(Debug, Clone)]
pub struct Tree {
    entries: BTreeMap<String, String>,
    /// Bytes that each regular file occupies.
    allocated: BTreeMap<String, u64>,
}

impl Tree {
    pub fn of(root: &Path) -> Self {
        let mut tree = Self { entries: BTreeMap::new(), allocated: BTreeMap::new() };
        let mut first_names = BTreeMap::new();
        tree.add(root, root, &mut first_names);
        tree
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn add(&mut self, root: &Path, path: &Path, first_names: &mut BTreeMap<(u64, u64), String>) {
        let relative = path.strip_prefix(root).expect("below the root");
        let name =
            if relative.as_os_str().is_empty() { ".".to_owned() } else { relative.as_os_str().as_bytes().escape_ascii().to_string() };
        let meta = must(path, fs::symlink_metadata(path));
        let kind = meta.file_type();
        let mut entry = format!("{:o} {}:{} {}.{:09}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
        if kind.is_symlink() {
            let target = must(path, fs::read_link(path));
            entry.push_str(&format!(" -> {}", target.as_os_str().as_bytes().escape_ascii()));
        } else if kind.is_file() {
            entry.push_str(&format!(" {} bytes {}", meta.len(), must(path, content(path))));
            self.allocated.insert(name.clone(), meta.blocks() * 512);
        } else if !kind.is_dir() {
            entry.push_str(&format!(" device {}", meta.rdev()));
        }
        if meta.nlink() > 1 && !kind.is_dir() {
            let first = first_names.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
            entry.push_str(&format!(" same file as {first}"));
        }
        entry.push_str(&must(path, attributes(path)));
        self.entries.insert(name, entry);

        if kind.is_dir() {
            let mut children: Vec<_> = must(path, fs::read_dir(path)).map(|child| must(path, child).path()).collect();
            children.sort();
            for child in children {
                self.add(root, &child, first_names);
            }
        }
    }

    /// What differs, a line each.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = differences(&self.entries, &other.entries);
        for (name, before) in &self.allocated {
            if let Some(after) = other.allocated.get(name).filter(|after| **after > before + ALLOCATION_SLACK) {
                found.push(format!("{name}: occupies {before} -> {after} bytes, so its holes were filled"));
            }
        }
        found
    }
}

/// # Panics
/// If they differ, naming everything that does.
#[track_caller]
pub fn assert_same_tree(before: &Tree, after: &Tree) {
    let found = before.differences(after);
    assert!(found.is_empty(), "the trees differ:\n{}", found.join("\n"));
}

fn must<T>(path: &Path, result: io::Result<T>) -> T {
    result.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn content(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// Extended attributes, POSIX ACLs and capabilities among them.
fn attributes(path: &Path) -> io::Result<String> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    names.truncate(length);
    let mut names: Vec<&[u8]> = names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        text.push_str(&format!(" {}={}", name.escape_ascii(), value[..length].escape_ascii()));
    }
    Ok(text)
}
