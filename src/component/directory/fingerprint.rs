//! What a tree holds, in a few numbers: how many entries of each kind, and two sums of hashes over all of them.
//!
//! Each entry gives two records. Their BLAKE3 hashes are added up, as four numbers of 64 bits each, so that the order in which entries are
//! looked at does not matter, several threads can share the work, and what could not be restored can be subtracted. It tells damage and
//! mistakes, not forgery: whoever can change a backup can change its manifest, too.
//!
//! ```text
//! contents    kind, path; then for a file its length and the hash of its content (see `content`), for a link its text, for another name
//!             of a file the first one, for a device its numbers
//! attributes  kind, path, mode, owner, group, seconds, nanoseconds, then each extended attribute; nothing for another name of a file
//! ```
//!
//! Texts go with their length before them (4 bytes), numbers are little-endian. Kinds are the letters of find(1)'s `-type`, and `h` for
//! another name. Names sort by their bytes, so that the first one of a file is the same wherever the tree lies.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::archive::{Member, MemberKind};
use super::content::Hash;
use crate::component::Detail;
use crate::manifest::hex;

/// Of the records above. A fingerprint of another version is not compared.
const VERSION: u32 = 1;

/// Attributes that are compared. The others are given by the host rather than by the backup: a label of SELinux, a signature of IMA.
const ATTRIBUTES: [&[u8]; 4] = [b"user.", b"trusted.", b"system.posix_acl_", b"security.capability"];

/// A sum of hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum([u64; 4]);

impl Sum {
    fn of(record: &[u8]) -> Self {
        let hash = blake3::hash(record);
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(hash.as_bytes().as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self(words)
    }

    fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].wrapping_add(other.0[at])))
    }

    fn minus(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].wrapping_sub(other.0[at])))
    }

    fn hex(self) -> String {
        hex(&self.0.map(u64::to_le_bytes).concat())
    }
}

/// How many there are. Differences of counts are counts, too, and wrap around.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Fifos and devices.
    pub others: u64,
    /// Lengths of all files, holes included.
    pub bytes: u64,
}

impl Counts {
    fn of(member: &Member) -> Self {
        let mut counts = Self::default();
        match &member.kind {
            MemberKind::File => counts = Self { files: 1, bytes: member.size, ..counts },
            MemberKind::Sparse { real, .. } => counts = Self { files: 1, bytes: *real, ..counts },
            MemberKind::HardLink(_) => counts.hard_links = 1,
            MemberKind::Symlink(_) => counts.symlinks = 1,
            MemberKind::Directory => counts.directories = 1,
            MemberKind::Fifo | MemberKind::CharDevice { .. } | MemberKind::BlockDevice { .. } => counts.others = 1,
        }
        counts
    }

    fn with(self, other: Self, add: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            files: add(self.files, other.files),
            directories: add(self.directories, other.directories),
            symlinks: add(self.symlinks, other.symlinks),
            hard_links: add(self.hard_links, other.hard_links),
            others: add(self.others, other.others),
            bytes: add(self.bytes, other.bytes),
        }
    }

    /// `3 files, 4 directories, 1 link, 120 bytes`; what there is none of is left out, but for files and bytes.
    pub fn sentence(&self) -> String {
        let links = self.symlinks.wrapping_add(self.hard_links);
        let kinds = [
            (self.files, "file", "files", true),
            (self.directories, "directory", "directories", false),
            (links, "link", "links", false),
            (self.others, "device or fifo", "devices and fifos", false),
            (self.bytes, "byte", "bytes", true),
        ];
        let named = kinds.iter().filter(|(count, .., always)| *always || *count > 0);
        named.map(|(count, one, many, _)| format!("{count} {}", if *count == 1 { one } else { many })).collect::<Vec<_>>().join(", ")
    }
}

/// What a tree holds, or by how much two differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint {
    pub counts: Counts,
    contents: Sum,
    attributes: Sum,
}

impl Fingerprint {
    /// Adds an entry of which only counts and kind matter.
    pub fn count(&mut self, member: &Member) {
        self.counts = self.counts.with(Counts::of(member), u64::wrapping_add);
    }

    /// Adds an entry; `content` is that of a file.
    pub fn add(&mut self, member: &Member, content: Option<&Hash>) {
        self.count(member);
        self.contents = self.contents.plus(Sum::of(&contents(member, content)));
        self.add_attributes(member);
    }

    /// Takes an entry out that has no content.
    pub fn subtract(&mut self, member: &Member) {
        self.counts = self.counts.with(Counts::of(member), u64::wrapping_sub);
        self.contents = self.contents.minus(Sum::of(&contents(member, None)));
        self.subtract_attributes(member);
    }

    pub fn add_attributes(&mut self, member: &Member) {
        if let Some(record) = attributes(member) {
            self.attributes = self.attributes.plus(Sum::of(&record));
        }
    }

    pub fn subtract_attributes(&mut self, member: &Member) {
        if let Some(record) = attributes(member) {
            self.attributes = self.attributes.minus(Sum::of(&record));
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.counts = self.counts.with(other.counts, u64::wrapping_add);
        self.contents = self.contents.plus(other.contents);
        self.attributes = self.attributes.plus(other.attributes);
    }

    /// As it is noted by a backup; `None` if it is to note none.
    pub fn noted(&self, detail: Detail) -> Option<Value> {
        let noted = match detail {
            Detail::Off => return None,
            Detail::Counts => Noted { version: VERSION, counts: self.counts, contents: None, attributes: None },
            Detail::Full => Noted {
                version: VERSION,
                counts: self.counts,
                contents: Some(self.contents.hex()),
                attributes: Some(self.attributes.hex()),
            },
        };
        serde_json::to_value(noted).ok()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    version: u32,
    #[serde(flatten)]
    counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<String>,
}

/// What a backup noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    Full(Fingerprint),
    Counts(Counts),
    /// Of a version that is not known here.
    Unknown,
}

impl Expected {
    /// # Errors
    /// When it is no fingerprint of a tree.
    pub fn read(noted: &Value) -> std::io::Result<Self> {
        if noted.get("version").and_then(Value::as_u64).is_some_and(|version| version != u64::from(VERSION)) {
            return Ok(Self::Unknown);
        }
        let Noted { counts, contents, attributes, .. } = Noted::deserialize(noted).map_err(std::io::Error::other)?;
        let malformed = || std::io::Error::other("a sum is not 64 hexadecimal digits");
        match (contents, attributes) {
            (Some(contents), Some(attributes)) => Ok(Self::Full(Fingerprint {
                counts,
                contents: sum(&contents).ok_or_else(malformed)?,
                attributes: sum(&attributes).ok_or_else(malformed)?,
            })),
            _ => Ok(Self::Counts(counts)),
        }
    }

    /// How much of a tree has to be looked at for it.
    pub fn detail(&self) -> Detail {
        match self {
            Self::Full(_) => Detail::Full,
            Self::Counts(_) => Detail::Counts,
            Self::Unknown => Detail::Off,
        }
    }

    /// Whether a restored tree is what was noted, but for what is known to differ.
    pub fn is(&self, found: &Fingerprint, known: &Fingerprint) -> bool {
        match self {
            Self::Full(noted) => {
                let mut expected = noted.clone();
                expected.merge(known);
                expected == *found
            }
            Self::Counts(noted) => noted.with(known.counts, u64::wrapping_add) == found.counts,
            Self::Unknown => true,
        }
    }

    pub fn counts(&self) -> Counts {
        match self {
            Self::Full(noted) => noted.counts,
            Self::Counts(counts) => *counts,
            Self::Unknown => Counts::default(),
        }
    }
}

fn sum(digits: &str) -> Option<Sum> {
    let mut words = [0; 4];
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (word, digits) in words.iter_mut().zip(digits.as_bytes().as_chunks::<16>().0) {
        *word = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?.swap_bytes();
    }
    Some(Sum(words))
}

/// Whether an extended attribute is compared.
pub fn is_compared(name: &[u8]) -> bool {
    ATTRIBUTES.iter().any(|prefix| name.starts_with(prefix))
}

fn contents(member: &Member, content: Option<&Hash>) -> Vec<u8> {
    let mut record = Vec::with_capacity(128);
    record.push(letter(&member.kind));
    put_text(&mut record, &member.path);
    match &member.kind {
        MemberKind::File | MemberKind::Sparse { .. } => {
            let length = if let MemberKind::Sparse { real, .. } = member.kind { real } else { member.size };
            record.extend_from_slice(&length.to_le_bytes());
            record.extend_from_slice(content.unwrap_or(&[0; 32]));
        }
        MemberKind::HardLink(text) | MemberKind::Symlink(text) => put_text(&mut record, text),
        MemberKind::CharDevice { major, minor } | MemberKind::BlockDevice { major, minor } => {
            record.extend_from_slice(&major.to_le_bytes());
            record.extend_from_slice(&minor.to_le_bytes());
        }
        MemberKind::Directory | MemberKind::Fifo => {}
    }
    record
}

fn attributes(member: &Member) -> Option<Vec<u8>> {
    // the mode of a symbolic link means nothing and differs between systems
    let mode = match member.kind {
        MemberKind::HardLink(_) => return None,
        MemberKind::Symlink(_) => 0,
        _ => member.mode,
    };
    let mut record = Vec::with_capacity(128);
    record.push(letter(&member.kind));
    put_text(&mut record, &member.path);
    for number in [mode, member.uid, member.gid] {
        record.extend_from_slice(&number.to_le_bytes());
    }
    record.extend_from_slice(&member.modified.seconds.to_le_bytes());
    record.extend_from_slice(&member.modified.nanos.to_le_bytes());
    let mut compared: Vec<_> = member.xattrs.iter().filter(|(name, _)| is_compared(name)).collect();
    compared.sort();
    for (name, value) in compared {
        put_text(&mut record, name);
        put_text(&mut record, value);
    }
    Some(record)
}

fn letter(kind: &MemberKind) -> u8 {
    match kind {
        MemberKind::File | MemberKind::Sparse { .. } => b'f',
        MemberKind::HardLink(_) => b'h',
        MemberKind::Symlink(_) => b'l',
        MemberKind::Directory => b'd',
        MemberKind::Fifo => b'p',
        MemberKind::CharDevice { .. } => b'c',
        MemberKind::BlockDevice { .. } => b'b',
    }
}

fn put_text(record: &mut Vec<u8>, text: &[u8]) {
    // no text of an entry comes near 4 GiB
    record.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::super::archive::Time;
    use super::*;

    fn member(path: &str, kind: MemberKind) -> Member {
        Member { path: path.into(), kind, mode: 0o640, uid: 1, gid: 2, modified: Time { seconds: -5, nanos: 7 }, ..Member::default() }
    }

    fn of(members: &[Member]) -> Fingerprint {
        let mut print = Fingerprint::default();
        for member in members {
            print.add(member, Some(&[9; 32]));
        }
        print
    }

    fn expected(noted: &Fingerprint, detail: Detail) -> Expected {
        Expected::read(&noted.noted(detail).expect("noted")).expect("read")
    }

    #[test]
    fn what_was_noted_is_read_back() {
        let print = of(&[member("a", MemberKind::File), member("b", MemberKind::Fifo)]);
        assert_eq!(expected(&print, Detail::Full), Expected::Full(print.clone()));
        assert_eq!(expected(&print, Detail::Counts), Expected::Counts(print.counts));
        assert_eq!(print.noted(Detail::Off), None);
        assert_eq!(Expected::read(&serde_json::json!({"version": 2})).expect("a later one"), Expected::Unknown);
        for bad in [serde_json::json!({}), serde_json::json!([1]), serde_json::json!({"version": 1, "files": "many"})] {
            assert!(Expected::read(&bad).is_err(), "{bad}");
        }
        let mut short = print.noted(Detail::Full).expect("noted");
        short["contents"] = "00".into();
        assert!(Expected::read(&short).is_err());
    }

    #[test]
    fn the_order_does_not_matter_and_everything_else_does() {
        let (a, b) = (member("a", MemberKind::File), member("b", MemberKind::Directory));
        let whole = of(&[a.clone(), b.clone()]);
        assert_eq!(whole, of(&[b.clone(), a.clone()]));
        let capability = (b"security.capability".to_vec(), b"v".to_vec());
        for other in [
            Member { path: b"c".to_vec(), ..a.clone() },
            Member { size: 1, ..a.clone() },
            Member { mode: 0o600, ..a.clone() },
            Member { uid: 2, ..a.clone() },
            Member { gid: 3, ..a.clone() },
            Member { modified: Time { seconds: -5, nanos: 8 }, ..a.clone() },
            Member { xattrs: vec![capability], ..a.clone() },
            Member { kind: MemberKind::Fifo, ..a.clone() },
            Member { kind: MemberKind::HardLink(b"b".to_vec()), ..a.clone() },
        ] {
            let found = of(&[other.clone(), b.clone()]);
            assert!(!expected(&whole, Detail::Full).is(&found, &Fingerprint::default()), "{other:?}");
        }
        let mut content = of(std::slice::from_ref(&b));
        content.add(&a, Some(&[8; 32]));
        assert_ne!(whole, content);
        assert!(expected(&whole, Detail::Counts).is(&content, &Fingerprint::default()), "counts say nothing of contents");
    }

    #[test]
    fn what_the_host_adds_does_not_matter() {
        let plain = member("a", MemberKind::File);
        let labelled = Member { xattrs: vec![(b"security.selinux".to_vec(), b"label".to_vec())], ..plain.clone() };
        assert_eq!(of(&[plain]), of(&[labelled]));
    }

    #[test]
    fn holes_do_not_matter() {
        let whole = Member { size: 9000, ..member("a", MemberKind::File) };
        let sparse = Member { size: 5, ..member("a", MemberKind::Sparse { real: 9000, extents: vec![(0, 5), (9000, 0)] }) };
        assert_eq!(of(&[whole]), of(&[sparse]));
    }

    #[test]
    fn what_could_not_be_restored_is_taken_into_account() {
        let (file, device) = (member("a", MemberKind::File), member("b", MemberKind::BlockDevice { major: 8, minor: 1 }));
        let noted = expected(&of(&[file.clone(), device.clone()]), Detail::Full);
        let mine = Member { uid: 1000, ..file.clone() };
        let found = of(std::slice::from_ref(&mine));
        let mut known = Fingerprint::default();
        assert!(!noted.is(&found, &known));
        known.subtract(&device);
        assert!(!noted.is(&found, &known));
        known.subtract_attributes(&file);
        known.add_attributes(&mine);
        assert!(noted.is(&found, &known));
    }

    #[test]
    fn counts_read_well() {
        let counts = Counts { files: 1, directories: 2, symlinks: 1, hard_links: 1, others: 0, bytes: 5 };
        assert_eq!(counts.sentence(), "1 file, 2 directories, 2 links, 5 bytes");
        assert_eq!(Counts::default().sentence(), "0 files, 0 bytes");
    }
}
