//! authentik's old dumps on the command line: in the list, and by name in a restore.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::output;
use crate::catalog::Catalog;
use crate::chain::describe;
use crate::config::{ComponentOptions, Settings};
use crate::error::Error;
use crate::legacy::{self, Dump, LegacyError};
use crate::manifest::{Kind, Manifest};
use crate::name::{ComponentName, TargetName};
use crate::storage::Target;

/// A dump, and the targets that hold it.
pub(super) struct Row {
    dump: Dump,
    targets: Vec<TargetName>,
}

/// Adds the dumps of one target to `rows`, which stay in the order of their times.
pub(super) fn merge(rows: &mut Vec<Row>, target: &TargetName, dumps: Vec<Dump>) {
    for dump in dumps {
        match rows.iter_mut().find(|row| row.dump.file == dump.file) {
            Some(row) => row.targets.push(target.clone()),
            None => rows.push(Row { dump, targets: vec![target.clone()] }),
        }
    }
    rows.sort_by_key(|row| row.dump.created);
}

impl Row {
    /// Under the headings of `listbackups`.
    pub(super) fn to_columns(&self) -> Vec<String> {
        let Dump { file, created, bytes } = &self.dump;
        let created = created.format("%Y-%m-%d %H:%M:%S").to_string();
        let [nothing, postgres, status] = ["-", Kind::Postgres.as_str(), "legacy"].map(str::to_owned);
        vec![file.clone(), created, nothing.clone(), postgres, nothing.clone(), output::size(*bytes), status, nothing]
    }

    pub(super) fn to_json(&self) -> Value {
        let Dump { file, created, bytes } = &self.dump;
        json!({
            "name": file, "created": created, "job": null,
            "target": self.targets.iter().map(TargetName::as_str).collect::<Vec<_>>().join(","), "targets": self.targets,
            "damaged_targets": [], "untrusted_targets": [], "status": "legacy", "components": [Kind::Postgres.as_str()],
            "raw_bytes": null, "stored_bytes": bytes,
            "replaced_by": null, "verified": null, "drilled": null, "drill_seconds": null, "drill_failed": null,
        })
    }
}

/// The dump called `name`, in the first target that has it, read to its end and described; `None` if that is no name of a dump.
pub(super) async fn find(
    settings: &Settings,
    catalogs: &[Catalog],
    unread: &[String],
    name: Option<&str>,
    only: &[ComponentName],
    cancel: &CancellationToken,
) -> Result<Option<(Target, Manifest)>, Error> {
    let Some(name) = name.filter(|name| legacy::is_dump(name)) else { return Ok(None) };
    if !settings.encryption.trusted_signers.is_empty() {
        return Err(Error::Integrity(format!(
            "dump `{name}` has no manifest that could be signed, and `encryption.trusted_signers` asks for a signature; nothing was changed"
        )));
    }
    let component = component(settings, only)?;
    let mut trouble = unread.to_vec();
    for catalog in catalogs {
        let target = catalog.target();
        match legacy::find(target, name).await {
            Ok(Some(dump)) => {
                output::story(&format!("Reading {name} to its end: nobody has recorded what it holds."));
                let described = legacy::describe(target, &dump, component, cancel).await;
                return Ok(Some((target.clone(), described.map_err(refused)?)));
            }
            Ok(None) => {}
            Err(error) => trouble.push(describe(&error)),
        }
    }
    Err(super::choose::not_found(format!("there is no dump `{name}`"), trouble))
}

fn refused(error: LegacyError) -> Error {
    match error {
        LegacyError::Cancelled => Error::Cancelled,
        LegacyError::Storage(error) => error.into(),
        error if error.is_damage() => Error::Integrity(format!("{}; nothing was changed", describe(&error))),
        error => Error::Incomplete(format!("{}; nothing was changed", describe(&error))),
    }
}

/// The one that the dump is of: the only one of its kind, or the one that was named.
fn component(settings: &Settings, only: &[ComponentName]) -> Result<ComponentName, Error> {
    let of_kind = |options: &&ComponentOptions| matches!(options, ComponentOptions::Postgres(_));
    let configured: Vec<&ComponentName> = settings.components.iter().filter(of_kind).map(ComponentOptions::name).collect();
    match (only, configured.as_slice()) {
        ([name], _) => Ok(name.clone()),
        ([], [name]) => Ok((*name).clone()),
        ([], []) => Ok("postgres".parse().expect("a valid name")),
        _ => Err(Error::Usage {
            what: "the dump is of one PostgreSQL database: of which component?".into(),
            advice: Some("Give --only with its name.".into()),
        }),
    }
}
