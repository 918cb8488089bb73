//! An answer to ListObjectsV2 (pure).
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::Listed;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) listed: Vec<Listed>,
    pub(super) next: Option<String>,
}

/// Reads an answer to ListObjectsV2.
pub(super) fn page(xml: &str) -> Result<Page, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        encoding_type: String,
        #[serde(default)]
        contents: Vec<Entry>,
        #[serde(default)]
        is_truncated: bool,
        next_continuation_token: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        key: String,
        size: u64,
        last_modified: DateTime<Utc>,
    }
    let answer: Answer = quick_xml::de::from_str(xml).map_err(|error| format!("the answer is not a list of objects: {error}"))?;
    let key = |key: &str| -> Result<String, String> {
        if answer.encoding_type != "url" {
            return Ok(key.to_owned());
        }
        // as forms are encoded: `+` is a space, and a plus sign is never itself
        let text = key.replace('+', "%20");
        percent_encoding::percent_decode_str(&text).decode_utf8().map(Into::into).map_err(|_| format!("the key `{key}` is not UTF-8"))
    };
    let mut listed = Vec::with_capacity(answer.contents.len());
    for entry in &answer.contents {
        listed.push(Listed { key: key(&entry.key)?, size: entry.size, modified: entry.last_modified });
    }
    match (answer.is_truncated, answer.next_continuation_token.filter(|token| !token.is_empty())) {
        (true, None) => Err("the list is cut, and does not say how it goes on".to_owned()),
        (true, next) => Ok(Page { listed, next }),
        (false, _) => Ok(Page { listed, next: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_is_read_from_a_list() {
        let entry = |key: &str| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;x&quot;</ETag><Size>7</Size></Contents>"
            )
        };
        let list = |encoding: &str, keys: &[&str], rest: &str| {
            let entries: String = keys.iter().map(|key| entry(key)).collect();
            format!("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><Name>b</Name>{encoding}{entries}{rest}</ListBucketResult>")
        };
        let keys = |xml: &str| page(xml).expect("a list").listed.into_iter().map(|listed| listed.key).collect::<Vec<_>>();
        let url = "<EncodingType>url</EncodingType>";
        let encoded = list(url, &["a//b", "dir/", "with+space", "a%2Bb", "%C3%BC%26%3C", "%01"], "<IsTruncated>false</IsTruncated>");
        assert_eq!(keys(&encoded), ["a//b", "dir/", "with space", "a+b", "ü&<", "\u{1}"]);
        assert_eq!(keys(&list("", &["a+b%20", "x&amp;&lt;y"], "")), ["a+b%20", "x&<y"]);
        assert_eq!(keys(&list("", &[], "")), [""; 0]);
        let first = page(&encoded).expect("a list").listed.remove(0);
        assert_eq!((first.size, first.modified.to_rfc3339()), (7, "2026-01-02T03:04:05.678+00:00".to_owned()));
    }

    #[test]
    fn a_list_goes_on_or_is_refused() {
        let list = |rest: &str| page(&format!("<ListBucketResult>{rest}</ListBucketResult>"));
        let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t&amp;1</NextContinuationToken>";
        assert_eq!(list(more), Ok(Page { listed: Vec::new(), next: Some("t&1".to_owned()) }));
        assert!(list("<IsTruncated>true</IsTruncated>").is_err());
        assert!(page("<html>").is_err() && page("").is_err());
        assert!(list("<EncodingType>url</EncodingType><Contents><Key>%FF</Key><LastModified>2026-01-02T03:04:05Z</LastModified><Size>1</Size></Contents>").is_err());
    }
}
