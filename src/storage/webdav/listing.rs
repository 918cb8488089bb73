//! What a server answers to PROPFIND. <https://www.rfc-editor.org/rfc/rfc4918#section-9.1>

use chrono::DateTime;
use object_store::ObjectMeta;
use object_store::path::Path;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::Url;

use super::super::folders::Found;
use super::unknown_time;

/// Asks for no more than is needed.
pub(super) const QUESTION: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><D:propfind xmlns:D=\"DAV:\"><D:prop><D:getcontentlength/>\
    <D:getlastmodified/><D:getetag/><D:resourcetype/></D:prop></D:propfind>";

#[derive(Deserialize)]
struct MultiStatus {
    #[serde(default, rename = "response")]
    responses: Vec<Response>,
}

#[derive(Deserialize)]
struct Response {
    href: String,
    #[serde(default, rename = "propstat")]
    stats: Vec<PropStat>,
    /// In place of properties, where there is nothing to tell.
    status: Option<String>,
}

#[derive(Deserialize)]
struct PropStat {
    #[serde(default)]
    prop: Prop,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize, Default)]
struct Prop {
    getcontentlength: Option<String>,
    getlastmodified: Option<String>,
    getetag: Option<String>,
    resourcetype: Option<ResourceType>,
}

#[derive(Deserialize)]
struct ResourceType {
    collection: Option<IgnoredAny>,
}

/// The children that an answer names, of whatever `folder` below `base` was asked for; it names itself, too. What has a name that no key of
/// ours can have is left out.
///
/// # Errors
/// What is wrong with the answer.
pub(super) fn children(answer: &str, base: &Url, folder: &Path) -> Result<Vec<Found>, String> {
    let answer: MultiStatus =
        quick_xml::de::from_str(answer).map_err(|error| format!("the answer to PROPFIND is not understood: {error}"))?;
    let mut found = Vec::new();
    for response in answer.responses {
        let Some(path) = below(&response.href, base) else { continue };
        if !path.prefix_matches(folder) || path.parts().count() != folder.parts().count() + 1 {
            continue;
        }
        // properties that it does not have come in a part of their own
        let code = |status: &str, code: &str| status.split(' ').nth(1) == Some(code);
        let mut told = response.status.iter().chain(response.stats.iter().map(|stat| &stat.status)).peekable();
        let gone = told.peek().is_some() && told.all(|status| code(status, "404"));
        let Some(stat) = response.stats.into_iter().find(|stat| code(&stat.status, "200")) else {
            if gone {
                continue;
            }
            // a list that lacks what is there would be believed
            return Err(format!("the server does not say what `{path}` is"));
        };
        if stat.prop.resourcetype.as_ref().is_some_and(|kind| kind.collection.is_some()) {
            found.push(Found::Folder(path));
            continue;
        }
        let size = stat.prop.getcontentlength.as_deref().and_then(|size| size.trim().parse().ok());
        let Some(size) = size else { return Err(format!("the server does not say how large `{path}` is")) };
        let modified = stat.prop.getlastmodified.as_deref().and_then(|time| DateTime::parse_from_rfc2822(time.trim()).ok());
        found.push(Found::Object(ObjectMeta {
            location: path,
            last_modified: modified.map_or_else(unknown_time, |time| time.to_utc()),
            size,
            e_tag: stat.prop.getetag.filter(|tag| !tag.is_empty()),
            version: None,
        }));
    }
    Ok(found)
}

/// The key of a URL, or of the path of one; `None` if it is not below `base`, or no key.
fn below(href: &str, base: &Url) -> Option<Path> {
    let url = base.join(href.trim()).ok()?;
    let decoded = |path: &str| percent_decode_str(path.trim_end_matches('/')).decode_utf8().ok().map(|text| text.into_owned());
    let (path, base) = (decoded(url.path())?, decoded(base.path())?);
    let key = path.strip_prefix(&base)?;
    if !(key.is_empty() || key.starts_with('/')) {
        return None;
    }
    Path::parse(key.trim_start_matches('/')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(answer: &str, base: &str, folder: &str) -> Vec<String> {
        let name = |found: Found| match found {
            Found::Folder(path) => format!("{path}/"),
            Found::Object(meta) => format!("{} {} {}", meta.location, meta.size, meta.last_modified.timestamp()),
        };
        let base = Url::parse(base).expect("a URL");
        children(answer, &base, &Path::parse(folder).expect("a path")).expect("understood").into_iter().map(name).collect()
    }

    /// As Apache's mod_dav answers.
    #[test]
    fn an_answer_of_apache_is_understood() {
        let answer = r#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:" xmlns:lp2="http://apache.org/dav/props/">
<D:href>/dav/my%20backups/</D:href>
<D:propstat><D:prop><lp1:getlastmodified>Sun, 22 Nov 2026 10:00:00 GMT</lp1:getlastmodified><lp1:getetag>"1000-1"</lp1:getetag>
<lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
<D:propstat><D:prop><D:getcontentlength/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>
</D:response>
<D:response xmlns:lp1="DAV:"><D:href>/dav/my%20backups/default-2026-01-02-030405/</D:href>
<D:propstat><D:prop><lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
</D:response>
<D:response xmlns:lp1="DAV:"><D:href>/dav/my%20backups/a%2520b</D:href>
<D:propstat><D:prop><lp1:getcontentlength>12</lp1:getcontentlength><lp1:getlastmodified>Thu, 01 Jan 1970 00:00:07 GMT</lp1:getlastmodified>
<lp1:getetag>"c-1"</lp1:getetag><lp1:resourcetype/></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
</D:response>
</D:multistatus>"#;
        assert_eq!(names(answer, "https://host/dav/my%20backups", ""), ["default-2026-01-02-030405/", "a%20b 12 7"]);
    }

    /// As sabre/dav (Nextcloud) and others answer: whole URLs, other prefixes, the children of a folder below the target's.
    #[test]
    fn other_prefixes_and_whole_urls_are_understood() {
        let answer = r#"<?xml version="1.0"?><d:multistatus xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns"><d:response>
<d:href>https://host/files/me/b/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype></d:prop>
<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response><d:response><d:href>https://host/files/me/b/SHA256SUMS</d:href><d:propstat><d:prop>
<d:getcontentlength>3</d:getcontentlength><d:getlastmodified>Thu, 01 Jan 1970 00:00:01 GMT</d:getlastmodified><d:resourcetype/></d:prop>
<d:status>HTTP/2 200</d:status></d:propstat></d:response><d:response><d:href>/elsewhere/b/x</d:href></d:response></d:multistatus>"#;
        assert_eq!(names(answer, "https://host/files/me", "b"), ["b/SHA256SUMS 3 1"]);
        // a folder whose name only begins alike is not below
        assert_eq!(names(answer, "https://host/files/m", ""), [""; 0]);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let base = Url::parse("https://host/dav").expect("a URL");
        for answer in ["", "<html>welcome", "not XML"] {
            assert!(children(answer, &base, &Path::default()).is_err(), "{answer}");
        }
        let sizeless = "<multistatus><response><href>/dav/x</href><propstat><prop><resourcetype/></prop><status>HTTP/1.1 200 OK</status>\
            </propstat></response></multistatus>";
        assert!(children(sizeless, &base, &Path::default()).is_err());
    }

    #[test]
    fn what_the_server_cannot_tell_of_is_not_taken_for_absent() {
        let base = Url::parse("https://host/dav").expect("a URL");
        let of = |rest: &str| {
            let answer = format!("<multistatus><response><href>/dav/x</href>{rest}</response></multistatus>");
            children(&answer, &base, &Path::default())
        };
        assert_eq!(of("<status>HTTP/1.1 404 Not Found</status>"), Ok(Vec::new()));
        for rest in ["<status>HTTP/1.1 403 Forbidden</status>", "<status>HTTP/1.1 500 Internal Server Error</status>", ""] {
            assert!(of(rest).is_err_and(|why| why.contains("`x`")), "{rest}");
        }
        let stat = "<propstat><prop><resourcetype/></prop><status>HTTP/1.1 423 Locked</status></propstat>";
        assert!(of(stat).is_err());
    }
}
