//! Extension headers: pax records, and GNU tar's long names.

use super::{Time, pax};

/// What extension headers say about the member that follows.
#[derive(Default)]
pub struct Extensions {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub user: Option<Vec<u8>>,
    pub group: Option<Vec<u8>>,
    pub modified: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: bool,
    pub sparse_name: Option<Vec<u8>>,
    pub sparse_real: Option<u64>,
    /// Bytes of all extension headers of this member.
    pub bytes: u64,
}

impl Extensions {
    /// Takes in the body of one extension header of that kind: `L` and `K` are GNU tar's long names, the rest is pax.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, kind: u8, body: &[u8]) -> Result<(), &'static str> {
        let text = || body.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        match kind {
            b'L' => self.path = Some(text()),
            b'K' => self.link = Some(text()),
            _ => {
                let mut rest = body;
                while !rest.is_empty() {
                    let (key, value, after) = pax::split_first(rest).ok_or("a record is malformed")?;
                    self.take_record(key, value)?;
                    rest = after;
                }
            }
        }
        Ok(())
    }

    fn take_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || pax::decimal(value).ok_or("a number is malformed");
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"uname" => self.user = Some(value.to_vec()),
            b"gname" => self.group = Some(value.to_vec()),
            b"mtime" => self.modified = Some(pax::time(value).ok_or("a time is malformed")?),
            b"GNU.sparse.major" if value == b"1" => self.sparse = true,
            b"GNU.sparse.minor" if value == b"0" => {}
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => self.sparse_real = Some(number()?),
            _ if key.starts_with(b"GNU.sparse.") => return Err("its sparse format is not 1.0"),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((pax::attribute_name(name), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}
