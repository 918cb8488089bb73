//! `export`: a backup as plain files.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{ExportArgs, Global};
use super::choose::Wanted;
use super::progress::Progress;
use super::{choose, identities, open_catalogs, or_cancelled, output};
use crate::config::Settings;
use crate::error::Error;
use crate::export::export;
use crate::pipeline;

pub(super) async fn run(global: &Global, settings: &Settings, args: ExportArgs, cancel: &CancellationToken) -> Result<(), Error> {
    let (catalogs, unread) = open_catalogs(settings, args.target.as_ref()).await?;
    let wanted = Wanted { name: Some(&args.name), job: args.job.as_ref(), only: &args.only, before: args.before };
    let (target, manifest) = or_cancelled(cancel, choose::backup(&catalogs, unread, &wanted)).await?;
    let identities = identities(settings, &target, &manifest).await?;
    let progress = pipeline::Progress::default();
    let shown = Progress::show(global, "fetched", progress.clone());
    let exported = export(&target, &manifest, &args.only, &args.directory, identities, progress, cancel).await;
    drop(shown);
    let exported = exported?;
    if args.json {
        return output::json(&json!({"name": manifest.name, "target": target.name(), "directory": args.directory, "files": exported.files,
            "bytes": exported.bytes}));
    }
    let directory = args.directory.display();
    output::answer(&format!(
        "{} is in {directory}: {} of content; RESTORE.md says how to restore it",
        manifest.name,
        output::size(exported.bytes)
    ))
}
