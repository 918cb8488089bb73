//! `credential_process`: a program that prints credentials, <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>.
//!
//! No shell reads the command: it is taken apart by quotes and backslashes, and nothing in it is expanded.
//!
//! What it writes to stderr says why it failed ("sign in first"), so an operator needs it; but it is another's program, which AWS only asks to
//! write no secrets there, and one that is traced (`sh -x`) prints all it has. So the end of it is told: one line, without what looks like a key.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use object_store::aws::AwsCredential;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::Given;
use super::error::IdentityError;
use crate::process::{Command, ProcessError, Stderr};
use crate::storage::options::Profile;

/// A person may have to confirm; a run must not wait for one for ever.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Characters that are told of a line.
const SHOWN: usize = 200;

/// The secrets of AWS have at least 40 characters, and no words that people write have so many.
const LONG: usize = 32;

/// Runs the command of a profile.
pub(super) async fn ask(profile: &Profile, command: &str) -> Result<Given, IdentityError> {
    within(TIMEOUT, profile, command).await
}

async fn within(time: Duration, profile: &Profile, command: &str) -> Result<Given, IdentityError> {
    let name = || profile.name.clone();
    let words = words(command).filter(|words| !words.is_empty());
    let Some((program, args)) = words.as_ref().and_then(|words| words.split_first()) else {
        return Err(IdentityError::Command { profile: name() });
    };
    let Some(program) = find(program, profile.environment("PATH")) else {
        return Err(IdentityError::NoProgram { profile: name(), program: program.clone() });
    };
    let command = Command::new(program).args(args).envs(profile.environment.iter().map(|(k, v)| (k, v)));
    let never = CancellationToken::new();
    // what is dropped is killed
    let ran = tokio::time::timeout(time, command.run(&never)).await;
    let ran = ran.map_err(|_| IdentityError::Slow { profile: name(), after: time })?;
    let output = ran.map_err(|source| IdentityError::Process { profile: name(), source: brief(source) })?;
    given(&output.stdout, Utc::now()).map_err(|why| IdentityError::Output { profile: name(), why })
}

/// With the last line of what the program said.
fn brief(error: ProcessError) -> ProcessError {
    match error {
        ProcessError::Failed { program, status, stderr } => {
            let lines = stderr.lines.last().map(|line| without_keys(line).chars().take(SHOWN).collect()).into_iter().collect();
            ProcessError::Failed { program, status, stderr: Stderr { lines } }
        }
        other => other,
    }
}

/// Without runs of base64 that hold small letters, capitals and digits.
fn without_keys(line: &str) -> String {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_' | '=');
    let is_key = |run: &str| {
        let has = |what: fn(&char) -> bool| run.chars().any(|c| what(&c));
        run.len() >= LONG && has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase) && has(char::is_ascii_digit)
    };
    let pieces = line.split_inclusive(|c| !is_base64(c)).map(|piece| {
        let run = piece.trim_end_matches(|c| !is_base64(c));
        if is_key(run) { piece.replace(run, "***") } else { piece.to_owned() }
    });
    pieces.collect()
}

/// An absolute path, or the first program of that name on `path`.
fn find(program: &str, path: Option<&str>) -> Option<PathBuf> {
    if program.contains('/') {
        return std::path::absolute(program).ok();
    }
    std::env::split_paths(OsStr::new(path?)).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// As a shell would, but for what it expands; `None`: a quote that does not end.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = chars.next()?;
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    word.push('\\');
                }
                word.push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// Why an output is no credentials never quotes it.
fn given(output: &[u8], now: DateTime<Utc>) -> Result<Given, &'static str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        version: u32,
        access_key_id: Option<String>,
        secret_access_key: Option<String>,
        session_token: Option<String>,
        expiration: Option<String>,
    }
    let body: Body = serde_json::from_slice(output).map_err(|_| "it is no JSON object with a `Version`")?;
    if body.version != 1 {
        return Err("its `Version` is not 1");
    }
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (Some(key_id), Some(secret_key)) = (filled(body.access_key_id), filled(body.secret_access_key)) else {
        return Err("it lacks `AccessKeyId` or `SecretAccessKey`");
    };
    let lifetime = match filled(body.expiration) {
        None => None,
        Some(text) => {
            let until = DateTime::parse_from_rfc3339(&text).map_err(|_| "its `Expiration` is not a time of RFC 3339")?;
            Some((until.to_utc() - now).to_std().map_err(|_| "its `Expiration` is over")?)
        }
    };
    Ok(Given { credential: AwsCredential { key_id, secret_key, token: filled(body.session_token) }, lifetime })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_command_is_taken_apart_and_nothing_in_it_is_expanded() {
        let apart = |text: &str| words(text).map(|words| words.join("|"));
        for (text, expected) in [
            ("/opt/helper  --name\tx", "/opt/helper|--name|x"),
            ("\"/opt/a b\"/helper 'c d' \"\"", "/opt/a b/helper|c d|"),
            ("x $HOME `id` ; rm | cat", "x|$HOME|`id`|;|rm|||cat"),
            (r#"x a\ b "c\"d\e" 'f\g'"#, r#"x|a b|c"d\e|f\g"#),
            ("", ""),
        ] {
            assert_eq!(apart(text).as_deref(), Some(expected), "{text}");
        }
        for broken in ["x 'a", "x \"a", "x a\\"] {
            assert_eq!(apart(broken), None, "{broken}");
        }
    }

    #[tokio::test]
    async fn a_program_that_waits_for_somebody_is_not_waited_for() {
        let profile = Profile {
            name: "x".into(),
            config_file: PathBuf::new(),
            credentials_file: PathBuf::new(),
            environment: vec![("PATH".into(), "/nowhere:/usr/bin:/bin".into())],
        };
        let error = within(Duration::from_millis(50), &profile, "sleep 1000").await.expect_err("no credentials");
        assert!(matches!(error, IdentityError::Slow { .. }), "{error}");
        let error = within(TIMEOUT, &profile, "no-such-program x").await.expect_err("no credentials");
        assert!(matches!(error, IdentityError::NoProgram { .. }), "{error}");
    }

    #[test]
    fn of_what_a_program_says_the_end_is_told_without_keys() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY";
        for (line, told) in [
            ("sign in first: run `aws sso login`", "sign in first: run `aws sso login`".to_owned()),
            ("No such file: /usr/lib/python3/dist-packages/botocore/credentials.py", String::new()),
            (&format!("+ printf '{{\"SecretAccessKey\": \"{secret}\"}}'"), "+ printf '{\"SecretAccessKey\": \"***\"}'".to_owned()),
            (&format!("secret={secret}"), "***".to_owned()),
            (&format!("eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.{secret}."), "***.***.".to_owned()),
            ("", String::new()),
        ] {
            let told = if told.is_empty() { line.to_owned() } else { told };
            assert_eq!(without_keys(line), told);
        }
        let stderr = Stderr { lines: vec![secret.to_owned(), "é".repeat(SHOWN + 1)] };
        let failed = ProcessError::Failed { program: "helper".into(), status: ExitStatus::from_raw(256), stderr };
        assert_eq!(brief(failed).to_string(), format!("helper failed (exit status: 1): {}", "é".repeat(SHOWN)));
    }

    #[test]
    fn what_a_program_prints_is_believed_only_whole() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let of = |text: &str| given(text.as_bytes(), now).map(|g| (g.credential.key_id, g.credential.token, g.lifetime));
        let keys = "\"AccessKeyId\": \"A\", \"SecretAccessKey\": \"S\"";
        assert_eq!(of(&format!("{{\"Version\": 1, {keys}}}\n")), Ok(("A".into(), None, None)));
        let whole = format!(
            "{{\"Version\": 1, {keys}, \"SessionToken\": \"T\", \"Expiration\": \"2026-01-01T01:00:00+00:00\", \"AccountId\": \"1\"}}"
        );
        assert_eq!(of(&whole), Ok(("A".into(), Some("T".into()), Some(Duration::from_secs(3600)))));
        for (text, why) in [
            ("".to_owned(), "JSON"),
            ("canary".to_owned(), "JSON"),
            (format!("{{{keys}}}"), "Version"),
            (format!("{{\"Version\": 2, {keys}}}"), "not 1"),
            ("{\"Version\": 1, \"AccessKeyId\": \"A\"}".to_owned(), "lacks"),
            (whole.replace("2026-01-01T01", "2025-01-01T01"), "over"),
            (whole.replace("2026-01-01T01:00:00+00:00", "soon"), "RFC 3339"),
        ] {
            assert!(of(&text).is_err_and(|e| e.contains(why) && !e.contains("canary")), "{text}");
        }
    }
}
