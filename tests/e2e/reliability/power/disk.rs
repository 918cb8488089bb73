//! A disk that keeps nothing but what it was told to keep.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::trace::{Call, Phase};

/// Something that others rely on happens now.
#[derive(Debug)]
pub enum Moment<'a> {
    /// What is at `from` gets the name `to`; of what is created, they are the same.
    Named {
        from: &'a Path,
        to: &'a Path,
    },
    /// Two names are exchanged.
    Exchanged {
        from: &'a Path,
    },
    Removed(&'a Path),
}

/// What was done and may be lost yet. Numbers are of the call that did it.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// Files with bytes that are not on the disk.
    dirty: BTreeMap<PathBuf, usize>,
    /// Names that appeared, or went, in a directory that was not written through since.
    added: BTreeMap<PathBuf, usize>,
    removed: BTreeMap<PathBuf, usize>,
}

impl Disk {
    /// Only what is below `root` is looked at.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), dirty: BTreeMap::new(), added: BTreeMap::new(), removed: BTreeMap::new() }
    }

    /// Whether bytes of the file may be lost.
    pub fn is_dirty(&self, path: &Path) -> bool {
        self.dirty.contains_key(path)
    }

    /// Whether the file, and all names that lead to it, would be there after a cut.
    pub fn is_kept(&self, path: &Path) -> bool {
        !self.is_dirty(path) && path.ancestors().all(|above| !self.added.contains_key(above))
    }

    /// Whether the name would not be there after a cut.
    pub fn is_gone(&self, path: &Path) -> bool {
        path.ancestors().all(|above| !self.removed.contains_key(above))
    }

    /// Whether no name in the directory would come back or go.
    pub fn is_settled(&self, directory: &Path) -> bool {
        !self.added.keys().chain(self.removed.keys()).any(|path| path.parent() == Some(directory))
    }

    /// What of a tree may be lost.
    pub fn unkept_below(&self, path: &Path) -> Vec<PathBuf> {
        self.dirty.keys().chain(self.added.keys()).filter(|p| p.starts_with(path)).cloned().collect()
    }

    /// Does what the program did, and tells `look` of each moment right before it.
    pub fn replay(mut self, calls: &[Call], mut look: impl FnMut(&Self, &Moment)) -> Self {
        // syncs that are under way, with the number of the call at which they began
        let mut syncs: HashMap<usize, usize> = HashMap::new();
        for (now, call) in calls.iter().enumerate() {
            let ours = |path: &&PathBuf| path.starts_with(&self.root);
            let Some(path) = call.paths.iter().find(ours).cloned() else { continue };
            let other = call.paths.get(1).cloned().unwrap_or_default();
            let creates = call.args.contains("O_CREAT") && (call.args.contains("O_EXCL") || !self.is_known(&path));
            match (call.name.as_str(), call.phase) {
                ("fsync" | "fdatasync" | "syncfs", Phase::Begins) => {
                    syncs.insert(call.id, now);
                }
                ("fsync" | "fdatasync", Phase::Ends) => {
                    if let Some(began) = syncs.remove(&call.id) {
                        self.dirty.retain(|p, at| *p != path || *at > began);
                        for names in [&mut self.added, &mut self.removed] {
                            names.retain(|p, at| p.parent() != Some(&path) || *at > began);
                        }
                    }
                }
                ("syncfs", Phase::Ends) => {
                    if let Some(began) = syncs.remove(&call.id) {
                        [&mut self.dirty, &mut self.added, &mut self.removed].into_iter().for_each(|all| all.retain(|_, at| *at > began));
                    }
                }
                ("write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "ftruncate" | "fallocate", _) => {
                    self.dirty.insert(path, now);
                }
                ("copy_file_range", _) => {
                    self.dirty.insert(other, now);
                }
                ("open" | "openat" | "creat", Phase::Begins) if creates => {
                    look(&self, &Moment::Named { from: &path, to: &path });
                    self.added.insert(path, now);
                }
                ("mkdir" | "mkdirat" | "symlink" | "symlinkat" | "mknodat", Phase::Begins) => {
                    // of a link, its name stands last
                    let path = call.paths.last().cloned().unwrap_or(path);
                    look(&self, &Moment::Named { from: &path, to: &path });
                    self.added.insert(path, now);
                }
                ("link" | "linkat", Phase::Begins) => {
                    look(&self, &Moment::Named { from: &path, to: &other });
                    if let Some(at) = self.dirty.get(&path).copied() {
                        self.dirty.insert(other.clone(), at);
                    }
                    self.added.insert(other, now);
                }
                ("rename" | "renameat" | "renameat2", Phase::Begins) if call.args.contains("RENAME_EXCHANGE") => {
                    look(&self, &Moment::Exchanged { from: &path });
                    self.added.insert(path, now);
                    self.added.insert(other, now);
                }
                ("rename" | "renameat" | "renameat2", Phase::Begins) => {
                    look(&self, &Moment::Named { from: &path, to: &other });
                    self.move_below(&path, &other);
                    self.removed.insert(path, now);
                    self.added.insert(other, now);
                }
                ("unlink" | "unlinkat" | "rmdir", Phase::Begins) => {
                    look(&self, &Moment::Removed(&path));
                    self.dirty.remove(&path);
                    self.added.remove(&path);
                    // what goes with its directory need not be written through by itself
                    self.removed.retain(|p, _| !p.starts_with(&path));
                    self.removed.insert(path, now);
                }
                _ => {}
            }
        }
        self
    }

    fn is_known(&self, path: &Path) -> bool {
        self.added.contains_key(path) || self.dirty.contains_key(path)
    }

    /// What may be lost of a tree, or a file, goes with it.
    fn move_below(&mut self, from: &Path, to: &Path) {
        for all in [&mut self.dirty, &mut self.added, &mut self.removed] {
            let moved: Vec<_> = all.iter().filter(|(path, _)| path.starts_with(from)).map(|(path, at)| (path.clone(), *at)).collect();
            for (path, at) in moved {
                all.remove(&path);
                if let Ok(below) = path.strip_prefix(from) {
                    all.insert(if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) }, at);
                }
            }
        }
    }
}
