//! Headers of objects and extended attributes of archive members (pure).
//!
//! The type stands where the freedesktop.org shared MIME specification has it, so that it is kept by tools and file systems that know
//! nothing of buckets: <https://www.freedesktop.org/wiki/CommonExtendedAttributes/>.

use crate::component::directory::archive::Member;
use crate::storage::USER;

const TYPE: &[u8] = b"user.mime_type";
/// The key, where the path says less.
pub(super) const KEY: &[u8] = b"user.s3.key";
/// Of a folder that is an object too.
pub(super) const FOLDER: &[u8] = b"user.s3.folder";
const HEADER: &str = "user.s3.";
const META: &str = "user.s3.meta.";

/// Name and value of each, sorted.
pub(super) type Headers = Vec<(String, String)>;

/// The attributes that keep the headers.
pub(super) fn attributes(headers: &[(String, String)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let name = |header: &str| match header.strip_prefix(USER) {
        Some(own) => format!("{META}{own}").into_bytes(),
        None if header == "content-type" => TYPE.to_vec(),
        None => format!("{HEADER}{header}").into_bytes(),
    };
    headers.iter().map(|(header, value)| (name(header), value.clone().into_bytes())).collect()
}

/// The headers of a member, sorted; a type is guessed by `key` where none was kept.
pub(super) fn headers(member: &Member, key: &str) -> Headers {
    let mut headers: Headers = member.xattrs.iter().filter_map(|(name, value)| header(name, value)).collect();
    if !headers.iter().any(|(name, _)| name == "content-type") {
        headers.push(("content-type".to_owned(), mime_guess::from_path(key).first_or_octet_stream().to_string()));
    }
    headers.sort();
    headers.dedup_by(|a, b| a.0 == b.0);
    headers
}

/// What cannot be sent is left out: a hostile archive names its headers too.
fn header(name: &[u8], value: &[u8]) -> Option<(String, String)> {
    let is_value = |byte: &u8| *byte == b'\t' || (b' '..=b'~').contains(byte) || *byte >= 0x80;
    let value = std::str::from_utf8(value).ok().filter(|value| value.bytes().all(|byte| is_value(&byte)))?;
    let name = std::str::from_utf8(name).ok()?;
    let known = ["cache-control", "content-disposition", "content-encoding", "content-language", "expires"];
    let header = match name.strip_prefix(META) {
        Some(own) if !own.is_empty() && own.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) => {
            format!("{USER}{}", own.to_ascii_lowercase())
        }
        Some(_) => return None,
        None if name.as_bytes() == TYPE => "content-type".to_owned(),
        None => known.iter().find(|known| name.strip_prefix(HEADER) == Some(known))?.to_string(),
    };
    Some((header, value.to_owned()))
}

/// An attribute of a member.
pub(super) fn attribute<'a>(member: &'a Member, name: &[u8]) -> Option<&'a [u8]> {
    member.xattrs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn member(xattrs: &[(&str, &[u8])]) -> Member {
        Member { xattrs: xattrs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect(), ..Member::default() }
    }

    #[test]
    fn headers_come_back_as_they_were() {
        let all = pairs(&[
            ("cache-control", "max-age=3600"),
            ("content-encoding", "gzip"),
            ("content-type", "image/svg+xml"),
            ("expires", "Fri, 02 Jan 2026 03:04:05 GMT"),
            ("x-amz-meta-owner", "jürgen"),
        ]);
        let member = Member { xattrs: attributes(&all), ..Member::default() };
        assert_eq!(headers(&member, "x.png"), all);
        assert!(member.xattrs.iter().any(|(name, _)| name == b"user.mime_type"));
    }

    #[test]
    fn a_type_that_nobody_kept_is_guessed() {
        assert_eq!(headers(&Member::default(), "icons/App.PNG"), pairs(&[("content-type", "image/png")]));
        assert_eq!(headers(&Member::default(), "no-suffix"), pairs(&[("content-type", "application/octet-stream")]));
    }

    #[test]
    fn what_is_no_header_is_not_sent() {
        let hostile = member(&[
            ("user.s3.meta.a b", b"x"),
            ("user.s3.meta.", b"x"),
            ("user.s3.meta.ok", b"line\r\nx-amz-acl: public-read"),
            ("user.s3.x-amz-acl", b"public-read"),
            ("user.mime_type", b"\xff\xfe"),
            ("security.capability", b"x"),
        ]);
        assert_eq!(headers(&hostile, "x.txt"), pairs(&[("content-type", "text/plain")]));
    }
}
