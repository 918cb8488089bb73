//! `check`: everything that can be known before the night.

mod encryption;

use bytes::Bytes;
use chrono::Utc;
use serde_json::{Value, json};

use super::args::CheckArgs;
use super::output;
use crate::assembly;
use crate::chain::{describe, explain};
use crate::component::ComponentError;
use crate::config::{self, CopySettings, JobSettings, Loaded, Settings, When};
use crate::error::Error;
use crate::name::TargetName;
use crate::schedule::Schedule;
use crate::storage::{Access, StorageError, Target};

/// How many of a job's next times are shown.
const TIMES: usize = 3;

struct Finding {
    subject: String,
    verdict: Verdict,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Nothing to be done by this program.
    Noted,
    Warning,
    Skipped,
    Failed,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Noted => "note",
            Self::Warning => "warning",
            Self::Skipped => "skipped",
            Self::Failed => "FAILED",
        }
    }
}

pub(super) async fn run(loaded: &Loaded, args: CheckArgs) -> Result<(), Error> {
    let settings = &loaded.settings;
    let file = loaded.file.as_ref().map_or("no file; defaults and environment".into(), |f| f.display().to_string());
    let mut findings = vec![Finding { subject: "configuration".into(), verdict: Verdict::Ok, text: file }];
    findings.extend(environment(loaded));
    findings.extend(jobs(settings));
    if !args.config_only {
        findings.extend(encryption::encryption(settings));
        findings.extend(components(settings).await);
        findings.extend(targets(settings).await);
    }
    let failed: Vec<&str> = findings.iter().filter(|f| f.verdict == Verdict::Failed).map(|f| f.subject.as_str()).collect();
    let result = match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Error::Incomplete(format!("the check failed for {}", failed.join(", ")))),
    };
    if args.json {
        let row =
            |f: &Finding| json!({"subject": f.subject, "ok": f.verdict != Verdict::Failed, "verdict": f.verdict.word(), "text": f.text});
        output::json(&findings.iter().map(row).collect::<Vec<_>>())?;
    } else {
        let row = |f: Finding| vec![f.subject, f.verdict.word().into(), f.text];
        output::table(&["Subject", "Verdict", "Facts"], findings.into_iter().map(row).collect())?;
    }
    result
}

/// What was understood from which of authentik's variables, and what its operator should know.
fn environment(loaded: &Loaded) -> Vec<Finding> {
    let understood = config::show(loaded).into_iter().filter(|row| row.layer.starts_with("AUTHENTIK_"));
    let understood =
        understood.map(|row| Finding { subject: row.layer.clone(), verdict: Verdict::Ok, text: format!("{} = {}", row.key, row.text()) });
    let noted = loaded.notes.iter().map(|note| Finding { subject: "authentik".into(), verdict: Verdict::Noted, text: note.clone() });
    understood.chain(noted).collect()
}

fn jobs(settings: &Settings) -> Vec<Finding> {
    let now = Utc::now();
    let next = |schedule: &Schedule| {
        let times = schedule.next_n(now, TIMES).into_iter();
        let times: Vec<String> = times.map(|t| t.with_timezone(&schedule.zone()).format("%Y-%m-%d %H:%M:%S %:z").to_string()).collect();
        format!("`{}` ({}): next at {}", schedule.text(), schedule.zone(), times.join(", "))
    };
    let finding = |job: &JobSettings| {
        let mut text = job.schedule.as_ref().map_or_else(|| "by hand only".to_owned(), next);
        if let Some(drill) = &job.drill {
            text.push_str(&format!("; drill {}", next(drill)));
        }
        Finding { subject: format!("job {}", job.name), verdict: Verdict::Ok, text }
    };
    let copying = |copy: &CopySettings| {
        let (verdict, when) = match &copy.when {
            When::Scheduled(schedule) => (Verdict::Ok, next(schedule)),
            When::Follows => match names(&settings.before_copying(&copy.from)) {
                none if none.is_empty() => (Verdict::Warning, "by hand only, for no job writes there: set its `schedule`".to_owned()),
                jobs => (Verdict::Ok, format!("after each run of {jobs}")),
            },
            When::Asked => (Verdict::Ok, "by hand only".to_owned()),
        };
        let text = format!("copies from {} into {}; {when}", copy.from, names(&copy.targets));
        Finding { subject: format!("job {}", copy.name), verdict, text }
    };
    settings.jobs.iter().map(finding).chain(settings.copies.iter().map(copying)).collect()
}

fn names<N: ToString>(names: &[N]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

async fn components(settings: &Settings) -> Vec<Finding> {
    let checks = settings.components.iter().map(|options| async move {
        let source = assembly::source(options);
        let subject = format!("{} {}", source.kind().as_str(), source.name());
        match source.check().await {
            Ok(facts) => {
                let told = facts.iter().map(|(k, v)| (k, plain(v))).filter(|(_, text)| !text.is_empty());
                let text = told.map(|(k, text)| format!("{k} {text}")).collect::<Vec<_>>().join(", ");
                Finding { subject, verdict: Verdict::Ok, text }
            }
            Err(error @ ComponentError::Absent(_)) => Finding { subject, verdict: Verdict::Skipped, text: describe(&error) },
            Err(error) => Finding { subject, verdict: Verdict::Failed, text: explain(&error, error.advice()) },
        }
    });
    futures_util::future::join_all(checks).await
}

/// A fact in a line; what is nested is only named in the manifest.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(members) => members.keys().cloned().collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

async fn targets(settings: &Settings) -> Vec<Finding> {
    let names = settings.targets.iter().map(|t| &t.name);
    let checks = assembly::targets(settings, names, Access::Write).await.into_iter().map(|(name, target)| async move {
        let subject = format!("target {name}");
        match write_and_delete(&name, target).await {
            Ok(text) => Finding { subject, verdict: Verdict::Ok, text },
            Err(error) => Finding { subject, verdict: Verdict::Failed, text: explain(&error, error.advice()) },
        }
    });
    futures_util::future::join_all(checks).await
}

/// The least that a run needs: list, create, refuse a second create, read, delete.
async fn write_and_delete(name: &TargetName, target: Result<Target, StorageError>) -> Result<String, StorageError> {
    let target = target?;
    target.probe().await?;
    let key = target.layout().check(&uuid::Uuid::new_v4().to_string());
    let bytes = Bytes::from_static(b"backstay check\n");
    target.create(&key, bytes.clone(), "text/plain").await?;
    let second = target.create(&key, Bytes::from_static(b"another\n"), "text/plain").await;
    target.delete(&key).await?;
    let create_only = match second {
        Err(StorageError::Occupied { .. }) => "create-only writes honoured",
        _ => "create-only writes NOT honoured: only the lease keeps two hosts apart",
    };
    let space = target.free_space().await.map_or(String::new(), |free| format!(", {} free", output::size(free)));
    tracing::debug!(target = %name, "checked");
    Ok(format!("list, write, read and delete work, {create_only}{space}"))
}
