//! Which members of an archive are wanted (pure), by gitignore-style globs as `exclude` takes them.
//!
//! A glob that matches a directory means all that is in it. Directories above a wanted member are made too, but only once it comes. A
//! wanted hard link may be another name of a file that is not wanted, and whose content has gone by: it is borrowed, see
//! [`Pick::borrowed`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::DirectoryError;
use super::archive::{Member, MemberKind};
use super::unpack::MAX_REMEMBERED;

/// First names of files, each with the wanted names of the same file.
pub type Borrowed = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

/// What to do with a member.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// Pass it over.
    Leave,
    /// Take it, after these directories above it.
    Take(Vec<Member>),
    /// Make these directories; what it shall be in them comes later.
    Borrow(Vec<Member>),
}

/// The wanted members of one archive, while it is read.
#[derive(Debug)]
pub struct Pick {
    /// All globs: the last one that matches counts.
    all: Gitignore,
    /// Those that want something, and whether they have met it.
    each: Vec<(String, Gitignore, bool)>,
    /// Directories that are not wanted themselves, from the root down to where the archive stands, and not yet made.
    above: Vec<Member>,
    borrowed: Borrowed,
    /// Bytes that `borrowed` takes.
    borrowed_bytes: usize,
}

/// Most memory for names of files that are borrowed: a million of them. A hostile archive has no end of them.
const MAX_BORROWED: usize = 256 << 20;

impl Pick {
    /// # Errors
    /// [`DirectoryError::Pattern`].
    pub fn new(globs: &[String]) -> Result<Self, DirectoryError> {
        let wants_something = |glob: &&String| !glob.starts_with('!');
        let each = globs.iter().filter(wants_something).map(|glob| Ok((glob.clone(), matcher(std::slice::from_ref(glob))?, false)));
        Ok(Self {
            all: matcher(globs)?,
            each: each.collect::<Result<_, DirectoryError>>()?,
            above: Vec::new(),
            borrowed: Borrowed::new(),
            borrowed_bytes: 0,
        })
    }

    /// Looks at the next member of the archive.
    pub fn look(&mut self, member: &Member) -> Choice {
        // what leads elsewhere is taken, which is refused
        if member.path.is_empty() || member.path[0] == b'/' {
            return Choice::Take(Vec::new());
        }
        self.above.retain(|above| is_above(&above.path, &member.path));
        let is_directory = member.kind == MemberKind::Directory;
        if !self.wants(&member.path, is_directory) {
            if is_directory {
                self.above.push(member.clone());
            }
            return Choice::Leave;
        }
        for (_, glob, met) in &mut self.each {
            *met = *met || matches(glob, &member.path, is_directory);
        }
        let above = std::mem::take(&mut self.above);
        match &member.kind {
            MemberKind::HardLink(first) if first.first() != Some(&b'/') && !self.wants(first, false) => {
                self.borrowed_bytes += first.len() + member.path.len() + 128;
                self.borrowed.entry(first.clone()).or_default().push(member.path.clone());
                Choice::Borrow(above)
            }
            _ => Choice::Take(above),
        }
    }

    /// Whether the archive makes it remember more than any real one would.
    pub fn is_overfull(&self) -> bool {
        self.borrowed_bytes > MAX_BORROWED || self.above.iter().map(Member::memory).sum::<usize>() > MAX_REMEMBERED
    }

    /// Globs that have met nothing.
    pub fn unmet(&self) -> Vec<&str> {
        self.each.iter().filter(|(.., met)| !met).map(|(glob, ..)| glob.as_str()).collect()
    }

    /// What has to be read once more.
    pub fn borrowed(self) -> Borrowed {
        self.borrowed
    }

    fn wants(&self, path: &[u8], is_directory: bool) -> bool {
        matches(&self.all, path, is_directory)
    }
}

fn matches(globs: &Gitignore, path: &[u8], is_directory: bool) -> bool {
    globs.matched_path_or_any_parents(Path::new(OsStr::from_bytes(path)), is_directory).is_ignore()
}

fn is_above(directory: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn matcher(globs: &[String]) -> Result<Gitignore, DirectoryError> {
    let mut builder = GitignoreBuilder::new(Path::new(""));
    for glob in globs {
        builder.add_line(None, glob).map_err(|source| DirectoryError::Pattern { glob: glob.clone(), source })?;
    }
    builder.build().map_err(|source| DirectoryError::Pattern { glob: globs.join(", "), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(text: &str) -> Member {
        let (path, kind) = match text.split_once("=>") {
            Some((path, first)) => (path, MemberKind::HardLink(first.into())),
            None => match text.strip_suffix('/') {
                Some(path) => (path, MemberKind::Directory),
                None => (text, MemberKind::File),
            },
        };
        Member { path: path.into(), kind, ..Member::default() }
    }

    /// The members that are made, in their order, those that are borrowed in brackets; and what has met nothing.
    fn pick(globs: &[&str], archive: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut pick = Pick::new(&globs.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>()).expect("globs");
        let mut made = Vec::new();
        let text = |member: &Member| String::from_utf8_lossy(&member.path).into_owned();
        for name in archive {
            let member = member(name);
            let (above, own) = match pick.look(&member) {
                Choice::Leave => continue,
                Choice::Take(above) => (above, text(&member)),
                Choice::Borrow(above) => (above, format!("[{}]", text(&member))),
            };
            made.extend(above.iter().map(text));
            made.push(own);
        }
        (made, pick.unmet().into_iter().map(str::to_owned).collect())
    }

    const TREE: &[&str] =
        &["", "a.png", "icons/", "icons/a.png", "icons/deep/", "icons/deep/b.txt", "media/", "media/x/", "media/x/c.png", "z"];

    fn check(globs: &[&str], made: &[&str], unmet: &[&str]) {
        let (found, left) = pick(globs, TREE);
        assert_eq!(
            (found.iter().skip(1).map(String::as_str).collect::<Vec<_>>().as_slice(), left),
            (made, unmet.iter().map(|s| (*s).to_owned()).collect())
        );
    }

    #[test]
    fn globs_mean_what_they_mean_in_exclude() {
        check(&["icons/**"], &["icons", "icons/a.png", "icons/deep", "icons/deep/b.txt"], &[]);
        check(&["icons"], &["icons", "icons/a.png", "icons/deep", "icons/deep/b.txt"], &[]);
        check(&["/icons/"], &["icons", "icons/a.png", "icons/deep", "icons/deep/b.txt"], &[]);
        check(&["*.png"], &["a.png", "icons", "icons/a.png", "media", "media/x", "media/x/c.png"], &[]);
        check(&["/*.png"], &["a.png"], &[]);
        check(&["icons/*.png", "z"], &["icons", "icons/a.png", "z"], &[]);
        check(&["icons/**", "!*.png"], &["icons", "icons/deep", "icons/deep/b.txt"], &[]);
    }

    #[test]
    fn a_glob_that_meets_nothing_is_told_though_others_do() {
        check(&["icons/**", "imges/**"], &["icons", "icons/a.png", "icons/deep", "icons/deep/b.txt"], &["imges/**"]);
        check(&["icons/*.png", "*.png"], &["a.png", "icons", "icons/a.png", "media", "media/x", "media/x/c.png"], &[]);
        check(&["#"], &[], &["#"]);
    }

    #[test]
    fn directories_above_are_made_once_and_only_for_something() {
        let (made, _) = pick(&["a/b/x", "a/c"], &["a/", "a/b/", "a/b/n", "a/b/x", "a/c", "d/", "d/e"]);
        assert_eq!(made, ["a", "a/b", "a/b/x", "a/c"]);
    }

    #[test]
    fn a_link_to_what_is_not_wanted_is_borrowed() {
        let archive = ["", "one", "two=>one", "d/", "d/three=>one", "d/own", "d/four=>d/own"];
        let (made, _) = pick(&["d/**", "two"], &archive);
        assert_eq!(made[1..], ["[two]", "d", "[d/three]", "d/own", "d/four"]);
        let mut pick = Pick::new(&["d/**".to_owned(), "two".to_owned()]).expect("globs");
        archive.iter().for_each(|name| drop(pick.look(&member(name))));
        assert_eq!(pick.borrowed(), [(b"one".to_vec(), vec![b"two".to_vec(), b"d/three".to_vec()])].into());
    }

    #[test]
    fn hostile_paths_are_left_to_who_refuses_them() {
        assert_eq!(pick(&["x"], &["/etc/passwd", "x=>/etc/shadow"]).0, ["/etc/passwd", "x"]);
    }
}
