//! Names of owners and groups, from `/etc/passwd` and `/etc/group`: a hint in the archive for other tools. Backstay itself restores by id.

use std::collections::HashMap;
use std::path::Path;

use super::archive::header::MAX_USER;

/// Names by id.
#[derive(Debug, Default)]
pub struct Owners {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Owners {
    /// Reads the system's files; one that is missing has no names.
    pub fn of_system() -> Self {
        let read = |path: &str| std::fs::read(Path::new(path)).map(|text| names(&text)).unwrap_or_default();
        Self { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    pub fn user(&self, id: u32) -> &[u8] {
        self.users.get(&id).map_or(&[], Vec::as_slice)
    }

    pub fn group(&self, id: u32) -> &[u8] {
        self.groups.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// passwd(5) and group(5) begin alike: name, password, id. The first name of an id counts.
fn names(text: &[u8]) -> HashMap<u32, Vec<u8>> {
    let mut names = HashMap::new();
    for line in text.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b':');
        let (name, id) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        if let Some(id) = id.filter(|_| name.is_ascii() && (1..=MAX_USER).contains(&name.len())) {
            names.entry(id).or_insert_with(|| name.to_vec());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_odd_lines_skipped() {
        let names = names(b"root:x:0:0::/root:/bin/sh\ntoor:x:0:0\n# c\n\n+nis\na:x:12\nb:x:zz\n");
        assert_eq!(names, HashMap::from([(0, b"root".to_vec()), (12, b"a".to_vec())]));
    }
}
