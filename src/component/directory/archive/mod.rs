//! The tar format of a directory's artifact: POSIX.1-2001 (pax) interchange format over ustar headers, with the `SCHILY.xattr.*` records of
//! star and the sparse format 1.0 of GNU tar, so that GNU tar and bsdtar restore everything that is in it.
//!
//! The `tar` crate is not used here: its reader trusts the sizes of extension headers and does not know sparse format 1.0, its writer has
//! no part in sparse files or binary names.

use thiserror::Error;

mod extensions;
pub(super) mod header;
pub(super) mod pax;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod read;
pub(in crate::component) mod write;

/// Size of a tar block, in bytes.
pub const BLOCK: usize = 512;

/// Largest extension header that is written or read, in bytes: bounds the memory that a hostile archive can claim.
pub const MAX_EXTENSION: u64 = 16 << 20;

/// Most data extents of a sparse file. A file with more is stored with its last extent reaching to its end.
pub const MAX_EXTENTS: usize = 1 << 18;

/// What is stored of one file system object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Relative to the root, without `./` and without a slash at its end; empty for the root itself.
    pub path: Vec<u8>,
    pub kind: MemberKind,
    /// Permissions with setuid, setgid and sticky bit: the lower 12 bits of `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names of owner and group, a hint for other tools; empty when unknown.
    pub user: Vec<u8>,
    pub group: Vec<u8>,
    pub modified: Time,
    /// Name and value of each extended attribute.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of file content that follow in the archive: for a sparse file the sum of its extents.
    pub size: u64,
}

impl Member {
    /// About how many bytes it takes in memory.
    pub fn memory(&self) -> usize {
        let attributes: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<Vec<u8>>()).sum();
        size_of::<Self>() + self.path.len() + self.user.len() + self.group.len() + attributes
    }
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MemberKind {
    #[default]
    File,
    /// A file of `real` bytes of which only `extents`, ascending and apart, are stored: offset and length.
    Sparse {
        real: u64,
        extents: Vec<(u64, u64)>,
    },
    /// Another name of an earlier member.
    HardLink(Vec<u8>),
    /// The text of a symbolic link.
    Symlink(Vec<u8>),
    Directory,
    Fifo,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// A moment: seconds since 1970, rounded down, and nanoseconds after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    pub seconds: i64,
    pub nanos: u32,
}

/// Why bytes are not an archive that this module reads.
#[derive(Debug, Error)]
pub enum ArchiveError {
    #[error("read the archive")]
    Read(#[source] std::io::Error),
    #[error("the archive ends in the middle of `{0}`")]
    Truncated(String),
    #[error("the archive ends without its end mark")]
    NoEnd,
    #[error("the header after `{after}` is not a tar header: {problem}")]
    Header { after: String, problem: &'static str },
    #[error("the extension header after `{after}` is not sound: {problem}")]
    Extension { after: String, problem: &'static str },
    #[error("`{path}` is of a type that is not supported: {kind:?}")]
    Unsupported { path: String, kind: char },
    #[error("the sparse map of `{0}` is not sound")]
    SparseMap(String),
}

/// Bytes that fill a length up to whole blocks.
pub fn padding(length: u64) -> usize {
    let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// A path for people: lossy, escaped, and cut in its middle when it is long.
pub fn shown(path: &[u8]) -> String {
    const EDGE: usize = 120;
    if path.is_empty() {
        return ".".to_owned();
    }
    let show = |bytes: &[u8]| {
        let mut text = String::new();
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
            }
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
        text
    };
    if path.len() <= 2 * EDGE {
        return show(path);
    }
    format!("{}…{} ({} bytes)", show(&path[..EDGE]), show(&path[path.len() - EDGE..]), path.len())
}
