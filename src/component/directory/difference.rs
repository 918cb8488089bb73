//! Where a tree that was unpacked is not what its archive says: names the entries, for a fingerprint says only that there are some.
//!
//! This reads the archive and the tree a second time, and is needed only where something went wrong.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Stat, fstat, major, minor, readlinkat, statat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::DirectoryError;
use super::archive::read::Reader;
use super::archive::{Member, MemberKind, shown};
use super::attributes::{AttributeReader, Subject};
use super::content::{Content, Hash};
use super::fingerprint::is_compared;
use super::ladder::identity;
use super::scout::Scout;
use super::survey::{content, open};
use super::unpack::{descend, split};

/// Differences that are named.
const NAMED: usize = 5;
/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// The first differences between the archive and the tree at `root`, as sentences, and how many more there are. `lenient`: attributes are
/// not looked at, since not all of them could be set.
///
/// # Errors
/// When the archive or the tree cannot be read.
pub fn find(stream: impl BufRead, root: &OwnedFd, lenient: bool, cancel: &CancellationToken) -> Result<Vec<String>, DirectoryError> {
    let mut finder = Finder {
        root: root.as_fd(),
        within: None,
        seen: HashSet::new(),
        hasher: RandomState::new(),
        lenient,
        named: Vec::new(),
        more: 0,
        attributes: AttributeReader::default(),
        buffer: vec![0; BUFFER],
        cancel,
    };
    let mut reader = Reader::new(stream);
    while let Some(member) = reader.next_member().map_err(DirectoryError::Archive)? {
        let failed = |error: Errno| DirectoryError::Compare { path: shown(&member.path), source: error.into() };
        if cancel.is_cancelled() {
            return Err(failed(Errno::CANCELED));
        }
        let hash = archived(&member, &mut reader)?;
        finder.member(&member, hash).map_err(failed)?;
    }
    finder.strangers(root)?;
    if finder.more > 0 {
        finder.named.push(format!("and {} more", finder.more));
    }
    Ok(finder.named)
}

/// The hash of the content that the archive holds of a file.
fn archived<R: BufRead>(member: &Member, reader: &mut Reader<R>) -> Result<Option<Hash>, DirectoryError> {
    let extents = match &member.kind {
        MemberKind::File => &[(0, member.size)][..],
        MemberKind::Sparse { extents, .. } => extents,
        _ => return Ok(None),
    };
    let real = if let MemberKind::Sparse { real, .. } = member.kind { real } else { member.size };
    let (mut content, mut end) = (Content::default(), 0);
    for (offset, length) in extents {
        content.skip(offset - end);
        end = offset + length;
        let mut left = *length;
        while left > 0 {
            let data = reader.data().map_err(DirectoryError::Archive)?;
            let got = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
            content.update(&data[..got]);
            reader.consume(got);
            left -= got as u64;
        }
    }
    content.skip(real - end);
    Ok(Some(content.finish()))
}

struct Finder<'a> {
    root: BorrowedFd<'a>,
    /// The directory of the last entry.
    within: Option<(Vec<u8>, OwnedFd)>,
    /// Hashes of the paths that the archive holds: a million of them take 16 MB.
    seen: HashSet<u64>,
    hasher: RandomState,
    lenient: bool,
    named: Vec<String>,
    more: usize,
    attributes: AttributeReader,
    buffer: Vec<u8>,
    cancel: &'a CancellationToken,
}

impl Finder<'_> {
    fn tell(&mut self, path: &[u8], difference: &str) {
        if self.named.len() < NAMED {
            self.named.push(format!("`{}` {difference}", shown(path)));
        } else {
            self.more += 1;
        }
    }

    fn member(&mut self, member: &Member, hash: Option<Hash>) -> Result<(), Errno> {
        self.seen.insert(self.hasher.hash_one(&member.path));
        let difference = if member.path.is_empty() {
            let stat = fstat(self.root)?;
            self.attributes(member, &stat, Subject::Open(self.root))?
        } else {
            self.entry(member, hash)?
        };
        if let Some(difference) = difference {
            self.tell(&member.path, &difference);
        }
        Ok(())
    }

    fn entry(&mut self, member: &Member, hash: Option<Hash>) -> Result<Option<String>, Errno> {
        let (directory, name) = split(&member.path).map_err(|_| Errno::INVAL)?;
        let within = match self.directory(directory) {
            Ok(within) => within,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Some("is missing".to_owned())),
            Err(error) => return Err(error),
        };
        let stat = match statat(&within, &name, AtFlags::SYMLINK_NOFOLLOW) {
            // a device that only root may create
            Err(Errno::NOENT) if self.lenient && !matches!(member.kind, MemberKind::File | MemberKind::Directory) => return Ok(None),
            Err(Errno::NOENT) => return Ok(Some("is missing".to_owned())),
            other => other?,
        };
        let wrong = |what: &str| Ok(Some(what.to_owned()));
        match (&member.kind, FileType::from_raw_mode(stat.st_mode)) {
            (MemberKind::HardLink(target), _) => {
                let (directory, first) = split(target).map_err(|_| Errno::INVAL)?;
                let target = descend(self.root, directory).and_then(|at| statat(&at, &first, AtFlags::SYMLINK_NOFOLLOW));
                let same = target.is_ok_and(|target| identity(&target) == identity(&stat));
                return if same { Ok(None) } else { wrong("is not another name of the same file") };
            }
            (MemberKind::File | MemberKind::Sparse { .. }, FileType::RegularFile) => {
                let length = if let MemberKind::Sparse { real, .. } = member.kind { real } else { member.size };
                if u64::try_from(stat.st_size).unwrap_or(0) != length {
                    return Ok(Some(format!("has {} bytes in place of {length}", stat.st_size)));
                }
                let file = open(within.as_fd(), name.to_bytes())?;
                if Some(content(file.as_fd(), &stat, &mut self.buffer, self.cancel)?) != hash {
                    return wrong("has another content");
                }
            }
            (MemberKind::Symlink(text), FileType::Symlink) => {
                if readlinkat(&within, &name, Vec::new())?.as_bytes() != text.as_slice() {
                    return wrong("leads elsewhere");
                }
            }
            (MemberKind::CharDevice { major: a, minor: b }, FileType::CharacterDevice)
            | (MemberKind::BlockDevice { major: a, minor: b }, FileType::BlockDevice) => {
                if (*a, *b) != (major(stat.st_rdev), minor(stat.st_rdev)) {
                    return wrong("is another device");
                }
            }
            (MemberKind::Directory, FileType::Directory) | (MemberKind::Fifo, FileType::Fifo) => {}
            _ => return wrong("is of another type"),
        }
        self.attributes(member, &stat, Subject::Named(within.as_fd(), &name))
    }

    fn attributes(&mut self, member: &Member, stat: &Stat, subject: Subject<'_>) -> Result<Option<String>, Errno> {
        let link = matches!(member.kind, MemberKind::Symlink(_));
        let mut differences = Vec::new();
        if self.lenient {
            return Ok(None);
        }
        if (stat.st_uid, stat.st_gid) != (member.uid, member.gid) {
            differences.push(format!("owner {}:{} in place of {}:{}", stat.st_uid, stat.st_gid, member.uid, member.gid));
        }
        if !link && stat.st_mode & 0o7777 != member.mode {
            differences.push(format!("mode {:04o} in place of {:04o}", stat.st_mode & 0o7777, member.mode));
        }
        let time = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        if time != (member.modified.seconds, member.modified.nanos) {
            differences.push("another time of modification".to_owned());
        }
        let sorted = |mut attributes: Vec<(Vec<u8>, Vec<u8>)>| {
            attributes.retain(|(name, _)| is_compared(name));
            attributes.sort();
            attributes
        };
        if sorted(self.attributes.read(subject)?) != sorted(member.xattrs.clone()) {
            differences.push("other extended attributes".to_owned());
        }
        Ok((!differences.is_empty()).then(|| format!("has {}", differences.join(", "))))
    }

    fn directory(&mut self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let handle = match self.within.take() {
            Some((at, handle)) if at == path => handle,
            _ => descend(self.root, path)?,
        };
        let copy = handle.try_clone().map_err(|_| Errno::MFILE)?;
        self.within = Some((path.to_vec(), handle));
        Ok(copy)
    }

    /// What is there and should not be.
    fn strangers(&mut self, root: &OwnedFd) -> Result<(), DirectoryError> {
        let failed = |path: &[u8], error: Errno| DirectoryError::Compare { path: shown(path), source: error.into() };
        let copy = root.try_clone().map_err(|_| failed(b"", Errno::MFILE))?;
        let mut scout = Scout::unfollowed(copy);
        while let Some(found) = scout.next() {
            if self.cancel.is_cancelled() {
                return Err(failed(&found.path, Errno::CANCELED));
            }
            if !self.seen.contains(&self.hasher.hash_one(&found.path)) {
                self.tell(&found.path, "is not in the backup");
            }
        }
        Ok(())
    }
}
