//! Archives that try to write outside their destination: each is refused by name, and nothing changes.

use tar::{EntryType, Header};

use super::*;
use crate::support::{Scratch, Tree, assert_same_tree};

/// An archive that is built field by field, without the care that a proper writer would take.
#[derive(Default)]
struct Forged(Vec<u8>);

impl Forged {
    fn new() -> Self {
        Self::default().entry(EntryType::Directory, b"./", b"", b"")
    }

    fn entry(mut self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let fields = header.as_ustar_mut().expect("ustar");
        fields.name[..name.len()].copy_from_slice(name);
        fields.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, b"", b"evil")
    }

    fn link(self, name: &[u8], target: &[u8]) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    fn hard(self, name: &[u8], target: &[u8]) -> Self {
        self.entry(EntryType::Link, name, target, b"")
    }

    fn directory(self, name: &[u8]) -> Self {
        self.entry(EntryType::Directory, name, b"", b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            // the length counts its own digits: for the records here, two or three of them
            let rest = key.len() + value.len() + 3;
            let length = if rest + 2 < 100 { rest + 2 } else { rest + 3 };
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(EntryType::XHeader, b"pax", b"", &body)
    }

    fn finished(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// Archives that want to write, or to read, what is outside of the place that they are unpacked in: `outside`, a directory, and `secret` there.
pub fn archives(outside: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let secret = [outside, b"/secret"].concat();
    let absolute = [outside, b"/new"].concat();
    let f = Forged::new;
    let hostile: Vec<(&'static str, Forged)> = vec![
        ("above", f().file(b"../escape")),
        ("above, later", f().directory(b"a").file(b"a/../../escape")),
        ("dots inside", f().directory(b"a").file(b"a/../b")),
        ("a directory above", f().directory(b"..")),
        ("a directory above, with a slash", f().directory(b"../x/")),
        ("absolute", f().file(&absolute)),
        ("absolute behind a dot", f().file(&[b"./", absolute.as_slice()].concat())),
        ("absolute directory", f().directory(&absolute)),
        ("empty part", f().directory(b"a").file(b"a//b")),
        ("through a link", f().link(b"l", outside).file(b"l/new")),
        ("through a relative link", f().link(b"l", b"../../outside").file(b"l/new")),
        ("through a link, deeper", f().directory(b"d").link(b"d/l", b"..").file(b"d/l/l2/new")),
        ("a directory through a link", f().link(b"l", outside).directory(b"l/new")),
        ("a directory over a link", f().link(b"l", outside).directory(b"l").file(b"l/new")),
        ("a file over a link", f().link(b"l", &secret).file(b"l")),
        ("a link through a link", f().link(b"l", outside).link(b"l/new", b"x")),
        ("a fifo through a link", f().link(b"l", outside).entry(EntryType::Fifo, b"l/new", b"", b"")),
        ("a hard link above", f().hard(b"h", b"../../outside/secret")),
        ("an absolute hard link", f().hard(b"h", &secret)),
        ("a hard link through a link", f().link(b"l", outside).hard(b"h", b"l/secret")),
        ("a hard link into a link", f().link(b"l", outside).file(b"x").hard(b"l/new", b"x")),
        ("a hard link to a directory", f().directory(b"d").hard(b"h", b"d")),
        ("a hard link to the root", f().hard(b"h", b".")),
        ("a hard link to nothing", f().hard(b"h", b"none")),
        ("a hard link to itself", f().hard(b"h", b"h")),
        ("twice", f().file(b"x").file(b"x")),
        ("a directory twice", f().directory(b"d").directory(b"d/")),
        ("a directory over a file", f().file(b"d").directory(b"d")),
        ("a hard link over a file", f().file(b"a").file(b"b").hard(b"a", b"b")),
        ("below a file", f().file(b"x").file(b"x/y")),
        ("below nothing", f().file(b"none/x")),
        ("the root twice", f().directory(b".")),
        ("the root as a file", Forged::default().file(b".")),
        ("the root as a link", Forged::default().link(b"./", outside).file(b"new")),
        ("no root", Forged::default().file(b"x")),
        ("pax path", f().pax(&[("path", b"../escape")]).file(b"harmless")),
        ("pax link", f().pax(&[("linkpath", b"../../outside/secret")]).hard(b"h", b"harmless")),
        ("pax path with NUL", f().pax(&[("path", b"a\0b")]).file(b"harmless")),
        ("pax empty path", f().pax(&[("path", b"")]).file(b"harmless")),
        ("pax part too long", f().pax(&[("path", &[b'x'; 256])]).file(b"harmless")),
        ("pax size that lies", f().pax(&[("size", b"99999999999")]).file(b"harmless")),
        ("pax length that lies", f().entry(EntryType::XHeader, b"pax", b"", b"99999 path=x\n").file(b"harmless")),
        (
            "sparse name",
            f().pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"../escape"),
                ("GNU.sparse.realsize", b"0"),
            ])
            .entry(EntryType::Regular, b"x", b"", &[b"1\n0\n0\n".as_slice(), &[0; 505]].concat()),
        ),
        (
            "sparse map that lies",
            f().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"x"), ("GNU.sparse.realsize", b"5")])
                .entry(EntryType::Regular, b"x", b"", &[b"1\n9\n1\n".as_slice(), &[0; 506]].concat()),
        ),
        ("long name of GNU", f().entry(EntryType::GNULongName, b"././@LongLink", b"", b"../escape\0").file(b"harmless")),
        ("long link of GNU", f().entry(EntryType::GNULongLink, b"././@LongLink", b"", b"../../outside/secret\0").hard(b"h", b"x")),
        ("old sparse format", f().entry(EntryType::GNUSparse, b"x", b"", b"")),
        ("unknown type", f().entry(EntryType::new(b'M'), b"x", b"", b"")),
    ];
    hostile.into_iter().map(|(what, forged)| (what, forged.finished())).collect()
}

#[tokio::test]
async fn nothing_leaves_the_destination() {
    let scratch = Scratch::new();
    scratch.write("outside/secret", "secret");
    scratch.write("to/place/old", "old");
    let outside = scratch.join("outside");
    set_time(&scratch.join("to"), 1, 0);
    let before = Tree::of(scratch.path());
    for (what, tar) in archives(outside.as_os_str().as_bytes()) {
        let tar: Arc<[u8]> = tar.into();
        let part = stored_as(tar.len(), Facts::new(), move || Box::new(io::Cursor::new(tar.clone())));
        let error = stage(&part, &scratch.join("to/place"), false).await.err().unwrap_or_else(|| panic!("{what}: it was accepted"));
        let ours = matches!(
            &error,
            ComponentError::Directory(
                backstay::component::directory::DirectoryError::Refused { .. } | backstay::component::directory::DirectoryError::Archive(_)
            )
        );
        assert!(ours, "{what}: {error:?}");
        set_time(&scratch.join("to"), 1, 0);
        assert_same_tree(&before, &Tree::of(scratch.path()));
    }
}

#[tokio::test]
async fn the_same_tools_forge_an_archive_that_is_accepted() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.join("to")).expect("created");
    let forged = Forged::new()
        .directory(b"d/")
        .file(b"d/x")
        .hard(b"h", b"./d/x")
        .link(b"l", b"../outside")
        .pax(&[("path", "ü".as_bytes()), ("mtime", b"1.5")])
        .file(b"harmless")
        .entry(EntryType::GNULongName, b"././@LongLink", b"", b"d/y\0")
        .file(b"harmless");
    let tar: Arc<[u8]> = forged.finished().into();
    let part = stored_as(tar.len(), Facts::new(), move || Box::new(io::Cursor::new(tar.clone())));
    restore(&part, &scratch.join("to/place")).await;
    assert_eq!(names(&scratch.join("to/place")), ["d", "h", "l", "ü"]);
    assert_eq!(names(&scratch.join("to/place/d")), ["x", "y"]);
}

/// Each directory is entered, and is to get its attributes when it is left: until then they are remembered.
#[tokio::test]
async fn directories_within_one_another_cannot_claim_all_memory() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.join("to")).expect("created");
    let value = vec![b'x'; 3 << 20];
    let mut forged = Forged::new();
    for depth in 1..25 {
        let (path, record) = ("d/".repeat(depth), format!("{} SCHILY.xattr.user.x=", value.len() + 29));
        let record = [record.as_bytes(), &value, b"\n"].concat();
        assert_eq!(record.len(), value.len() + 29);
        forged = forged.entry(EntryType::XHeader, b"pax", b"", &record).directory(path.as_bytes());
    }
    let tar: Arc<[u8]> = forged.finished().into();
    let part = stored_as(tar.len(), Facts::new(), move || Box::new(io::Cursor::new(tar.clone())));
    let error = stage(&part, &scratch.join("to/place"), false).await.err().expect("refused");
    assert!(error.to_string().contains("more attributes than any real tree has"), "{error}");
    assert_eq!(names(&scratch.join("to")), [""; 0]);
}
