//! A member's headers as bytes.

use super::header::{self, Fields, MAX_ID, MAX_NAME, MAX_SIZE};
use super::{BLOCK, MAX_EXTENSION, Member, MemberKind, Time, padding, pax};

/// Two blocks of zeros end an archive; it is filled up to a record of 20 blocks, as POSIX has it.
pub fn end(written: u64) -> Vec<u8> {
    const RECORD: u64 = 20 * BLOCK as u64;
    let least = 2 * BLOCK as u64;
    let over = (written + least) % RECORD;
    let fill = if over == 0 { 0 } else { RECORD - over };
    vec![0; usize::try_from(least + fill).unwrap_or(2 * BLOCK)]
}

/// Appends the extension header and the header of `member`, and the map of a sparse file; its content and its padding follow.
/// `map` of the answer is the length of the sparse map, which counts as content for the padding.
///
/// # Errors
/// [`TooLarge`] if the extended attributes do not fit an extension header.
pub fn member(member: &Member, out: &mut Vec<u8>) -> Result<Written, TooLarge> {
    let map = match &member.kind {
        MemberKind::Sparse { extents, .. } => sparse_map(extents),
        _ => Vec::new(),
    };
    let size = member.size + map.len() as u64;
    let name = stored_name(&member.path, member.kind == MemberKind::Directory);
    let link = match &member.kind {
        MemberKind::HardLink(target) => stored_name(target, false),
        MemberKind::Symlink(target) => target.clone(),
        _ => Vec::new(),
    };
    let records = records(member, &name, &link, size);
    if records.len() as u64 > MAX_EXTENSION {
        return Err(TooLarge);
    }
    if !records.is_empty() {
        let extension =
            Fields { name: b"././@PaxHeader".to_vec(), mode: 0o644, size: records.len() as u64, kind: b'x', ..Fields::default() };
        out.extend_from_slice(&header::encode(&extension));
        out.extend_from_slice(&records);
        out.resize(out.len() + padding(records.len() as u64), 0);
    }
    let (kind, major, minor) = match member.kind {
        MemberKind::File | MemberKind::Sparse { .. } => (b'0', 0, 0),
        MemberKind::HardLink(_) => (b'1', 0, 0),
        MemberKind::Symlink(_) => (b'2', 0, 0),
        MemberKind::CharDevice { major, minor } => (b'3', major, minor),
        MemberKind::BlockDevice { major, minor } => (b'4', major, minor),
        MemberKind::Directory => (b'5', 0, 0),
        MemberKind::Fifo => (b'6', 0, 0),
    };
    let name = match member.kind {
        MemberKind::Sparse { .. } => [b"./GNUSparseFile.0/", member.path.rsplit(|b| *b == b'/').next().unwrap_or_default()].concat(),
        _ => name,
    };
    out.extend_from_slice(&header::encode(&Fields {
        name,
        mode: u64::from(member.mode),
        uid: u64::from(member.uid),
        gid: u64::from(member.gid),
        size,
        mtime: member.modified.seconds,
        kind,
        link,
        user: member.user.clone(),
        group: member.group.clone(),
        major: u64::from(major),
        minor: u64::from(minor),
    }));
    out.extend_from_slice(&map);
    Ok(Written { map: map.len() as u64 })
}

/// What [`member`] wrote beside headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the sparse map.
    pub map: u64,
}

/// The extended attributes of a member are larger than [`MAX_EXTENSION`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// `./` before every name, so that no name can be taken for an option; a slash after a directory's.
fn stored_name(path: &[u8], directory: bool) -> Vec<u8> {
    let mut name = b"./".to_vec();
    name.extend_from_slice(path);
    if directory && !path.is_empty() {
        name.push(b'/');
    }
    name
}

fn records(member: &Member, name: &[u8], link: &[u8], size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let sparse = matches!(member.kind, MemberKind::Sparse { .. });
    let (put_path, put_link) = (sparse || needs_record(name), needs_record(link));
    // without this record names are UTF-8; GNU tar takes the bytes as they are either way and notes that it does not know the record
    if (put_path && std::str::from_utf8(name).is_err()) || (put_link && std::str::from_utf8(link).is_err()) {
        pax::put(&mut out, b"hdrcharset", b"BINARY");
    }
    if let MemberKind::Sparse { real, .. } = &member.kind {
        pax::put(&mut out, b"GNU.sparse.major", b"1");
        pax::put(&mut out, b"GNU.sparse.minor", b"0");
        pax::put(&mut out, b"GNU.sparse.name", name);
        pax::put(&mut out, b"GNU.sparse.realsize", real.to_string().as_bytes());
    } else if put_path {
        pax::put(&mut out, b"path", name);
    }
    if put_link {
        pax::put(&mut out, b"linkpath", link);
    }
    if size > MAX_SIZE {
        pax::put(&mut out, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], member.uid), (b"gid", member.gid)] {
        if u64::from(id) > MAX_ID {
            pax::put(&mut out, key, id.to_string().as_bytes());
        }
    }
    if !fits(member.modified) {
        pax::put(&mut out, b"mtime", pax::put_time(member.modified).as_bytes());
    }
    for (name, value) in &member.xattrs {
        pax::put(&mut out, &pax::attribute_key(name), value);
    }
    out
}

/// A name that is not ASCII goes into a record when it is UTF-8, as POSIX asks, and into the header when it is not and fits there.
fn needs_record(name: &[u8]) -> bool {
    name.len() > MAX_NAME || (!name.is_ascii() && std::str::from_utf8(name).is_ok())
}

fn fits(time: Time) -> bool {
    time.nanos == 0 && u64::try_from(time.seconds).is_ok_and(|s| s <= MAX_SIZE)
}

/// GNU sparse format 1.0: the number of extents, then offset and length of each, one number a line, filled up to whole blocks.
fn sparse_map(extents: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len());
    for (offset, length) in extents {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}
