//! The files of AWS profiles, <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>.

use std::collections::BTreeMap;

/// The keys of one profile, in lower case.
pub(super) type Keys = BTreeMap<String, String>;

/// How a file names its profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `[profile x]` and `[default]`.
    Config,
    /// `[x]`.
    Credentials,
}

/// The keys of the profile `name`; `None` if the file has no such profile. A section that comes twice is one.
pub(super) fn profile(text: &str, kind: Kind, name: &str) -> Option<Keys> {
    let mut found: Option<Keys> = None;
    let (mut inside, mut indent) = (false, None);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            inside = header.split_once(']').is_some_and(|(header, _)| is_profile(header, kind, name));
            indent = None;
            if inside {
                found.get_or_insert_default();
            }
            continue;
        }
        let depth = line.len() - line.trim_start().len();
        // deeper than the key above: it goes on, in a table of its own (`s3 =`)
        if indent.is_some_and(|above| depth > above) {
            continue;
        }
        indent = Some(depth);
        let (Some(keys), Some((key, value))) = (found.as_mut().filter(|_| inside), trimmed.split_once('=')) else { continue };
        keys.insert(key.trim().to_lowercase(), without_comment(value).trim().to_owned());
    }
    found
}

fn is_profile(header: &str, kind: Kind, name: &str) -> bool {
    let header = header.trim();
    let own = match header.strip_prefix("profile").filter(|rest| rest.starts_with(char::is_whitespace)) {
        Some(rest) if kind == Kind::Config => rest.trim(),
        _ if kind == Kind::Config && header != "default" => return false,
        _ => header,
    };
    own.trim_matches(['"', '\'']) == name
}

/// A comment in a line begins after a space.
fn without_comment(value: &str) -> &str {
    let begins = |(at, c): &(usize, char)| matches!(c, '#' | ';') && value[..*at].ends_with(char::is_whitespace);
    value.char_indices().find(begins).map_or(value, |(at, _)| &value[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# everybody's\n[default]\nregion = eu-central-1\n\n[profile \"night run\"]\nregion=us-east-2 ; near\n\
        Credential_Process = /opt/helper --name \"a b\"\ns3 =\n  region = nested\n  max_concurrent_requests = 20\nrole_arn = r#1\n\
        [profile other]\n  region = x\n  output = json\n[sso-session night]\nregion = y\n[plain]\nregion = z\n[profile other]\nextra = 1\n";

    fn of(text: &str, kind: Kind, name: &str) -> Option<Vec<String>> {
        profile(text, kind, name).map(|keys| keys.iter().map(|(k, v)| format!("{k}={v}")).collect())
    }

    #[test]
    fn a_profile_has_its_own_keys_only() {
        assert_eq!(of(CONFIG, Kind::Config, "default"), Some(vec!["region=eu-central-1".into()]));
        let night = ["credential_process=/opt/helper --name \"a b\"", "region=us-east-2", "role_arn=r#1", "s3="];
        assert_eq!(of(CONFIG, Kind::Config, "night run"), Some(night.map(str::to_owned).to_vec()));
        assert_eq!(of(CONFIG, Kind::Config, "other"), Some(["extra=1", "output=json", "region=x"].map(str::to_owned).to_vec()));
        for nobody in ["night", "plain", "sso-session night", "profile other", ""] {
            assert_eq!(of(CONFIG, Kind::Config, nobody), None, "{nobody}");
        }
    }

    #[test]
    fn credentials_are_named_without_a_prefix() {
        let text =
            "[default]\naws_access_key_id=A\r\naws_secret_access_key = a+b/c=#d\n[profile x]\nk=1\n[x]\nk=2\nno equals\n[broken\nk=3\n";
        assert_eq!(
            of(text, Kind::Credentials, "default"),
            Some(vec!["aws_access_key_id=A".into(), "aws_secret_access_key=a+b/c=#d".into()])
        );
        assert_eq!(of(text, Kind::Credentials, "x"), Some(vec!["k=2".into()]));
        assert_eq!(of("", Kind::Credentials, "x"), None);
    }
}
