//! `restore --resume` and `restore --rollback`: ends restores that died. And what a restore finds of earlier ones.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{Global, RestoreArgs};
use super::progress::Progress;
use super::restore::{confirmed, parse_destination, print_restored};
use super::{identities, open_catalogs, output};
use crate::assembly;
use crate::catalog::Catalog;
use crate::chain::describe;
use crate::clock::{Clock, SystemClock};
use crate::component::{self, Destination, RestoreOptions, Restored, StoredComponent};
use crate::config::Settings;
use crate::encryption::Identities;
use crate::error::Error;
use crate::fetch;
use crate::manifest::Manifest;
use crate::name::{BackupName, ComponentName, TargetName};
use crate::pipeline;
use crate::restore::entry::{Entry, Stage};
use crate::restore::journal::{Found, Journal, Ledger};
use crate::restore::recover::{Takeover, resume, roll_back};
use crate::restore::{Part, Restore, RestoreError};

/// The targets, as far as they can be opened: a journal may lie in each of them.
pub(super) struct Finder<'a> {
    settings: &'a Settings,
    identities: Identities,
    catalogs: Vec<Catalog>,
    pub(super) ledger: Ledger,
}

impl<'a> Finder<'a> {
    pub(super) async fn open(settings: &'a Settings) -> Result<Self, Error> {
        let (catalogs, unread) = open_catalogs(settings, None).await?;
        for why in unread {
            tracing::warn!("{why}: whether a restore was left unfinished there is not known");
        }
        let ledger = Ledger::of(catalogs.iter().map(|catalog| catalog.target().clone()).collect());
        let identities = settings.encryption.identities().unwrap_or_else(|error| {
            tracing::warn!("{}: what is encrypted cannot be read", describe(&error));
            Identities::default()
        });
        Ok(Self { settings, identities, catalogs, ledger })
    }

    /// Refuses when another restore of the same places is under way, or has switched some of its components. What one has left that has
    /// switched none, or all, is in nobody's way; it is removed if `sweep` says so.
    pub(super) async fn make_way(&self, restore: &Restore, sweep: bool) -> Result<(), Error> {
        let places = restore.places().await?;
        for found in self.ledger.find().await {
            let Some(error) = found.conflict(&places) else {
                if found.holder.is_none() && !sweep {
                    output::story(&format!("note: {} is unfinished, of other places", told(&found.entry)));
                }
                continue;
            };
            if found.is_in_the_way() {
                return Err(error.into());
            }
            if !sweep {
                output::story(&format!("note: first, what is left of {} is removed", told(&found.entry)));
                continue;
            }
            output::story(&format!("Removing what is left of {}.", told(&found.entry)));
            let Some(journal) = found.take().await.map_err(RestoreError::Journal)? else { return Err(error.into()) };
            let parts = self.takeovers(journal.entry(), &[], &pipeline::Progress::default()).await?;
            let ended = match journal.entry().stage() {
                Stage::After => resume(journal, &parts).await.map(drop),
                Stage::Before => roll_back(journal, &parts).await,
                Stage::Between => return Err(error.into()),
            };
            if let Err(error) = ended {
                // it is in nobody's way: nothing of it is in service, or everything is
                tracing::warn!("{}: what an earlier restore left stays", describe(&error));
            }
        }
        Ok(())
    }

    /// What it takes to end that restore, in the order of its parts.
    async fn takeovers(
        &self,
        entry: &Entry,
        into: &[(ComponentName, String)],
        progress: &pipeline::Progress,
    ) -> Result<Vec<Takeover>, Error> {
        let backup = self.manifest(&entry.target, &entry.backup, progress).await;
        let safety = match &entry.safety {
            Some(name) => self.manifest(&entry.target, name, progress).await,
            None => None,
        };
        let mut parts = Vec::new();
        for step in &entry.parts {
            let to = into.iter().find(|(name, _)| *name == step.component).map(|(_, to)| Destination::Into(to.clone()));
            let options = RestoreOptions { to: to.unwrap_or_else(|| step.options.to.clone()), ..step.options.clone() };
            let restorer = match assembly::restorer(self.settings, &step.component, step.kind, &options.to) {
                Some(restorer) => restorer,
                None => {
                    return Err(Error::Usage {
                        what: format!("component `{}` of the unfinished restore is not configured here", step.component),
                        advice: Some("Run it with the configuration of the restore that was interrupted.".into()),
                    });
                }
            };
            let held = |stored: &Option<(Manifest, component::ArtifactOpener)>| {
                let (manifest, open) = stored.as_ref()?;
                Some(StoredComponent { component: manifest.component(&step.component)?.clone(), open: open.clone() })
            };
            parts.push(Takeover { restorer, options, stored: held(&backup), safety: held(&safety) });
        }
        Ok(parts)
    }

    /// A backup that may be needed; where it is and is not found, what needs it says so.
    async fn manifest(
        &self,
        target: &TargetName,
        name: &BackupName,
        progress: &pipeline::Progress,
    ) -> Option<(Manifest, component::ArtifactOpener)> {
        let (first, others): (Vec<&Catalog>, Vec<&Catalog>) = self.catalogs.iter().partition(|c| c.target().name() == target);
        for catalog in first.into_iter().chain(others) {
            match catalog.find(name).await {
                Ok(manifest) => {
                    return Some((
                        manifest,
                        fetch::opener(catalog.target().clone(), name.clone(), self.identities.clone(), progress.clone()),
                    ));
                }
                Err(error) => tracing::debug!("{}", describe(&error)),
            }
        }
        tracing::warn!("backup `{name}` is not found in any target");
        None
    }

    /// Goes on with one restore, from the start where not everything was staged.
    async fn resume(
        &self,
        journal: Journal,
        into: &[(ComponentName, String)],
        progress: &pipeline::Progress,
        cancel: &CancellationToken,
    ) -> Result<Vec<(ComponentName, Restored)>, Error> {
        let entry = journal.entry().clone();
        let parts = self.takeovers(&entry, into, progress).await?;
        if entry.is_staged() || entry.stage() != Stage::Before {
            return Ok(resume(journal, &parts).await?);
        }
        output::story("Not everything was staged: it begins anew.");
        roll_back(journal, &parts).await?;
        let catalog = self.catalogs.iter().find(|c| *c.target().name() == entry.target).ok_or_else(|| Error::NotFound {
            what: format!("there is no target `{}`, from which backup `{}` was restored", entry.target, entry.backup),
            advice: Some("Nothing is left of the unfinished restore: begin a new one.".into()),
        })?;
        let manifest = catalog.find(&entry.backup).await?;
        let identities = identities(self.settings, catalog.target(), &manifest).await?;
        let parts = parts.into_iter().map(|part| Part { restorer: part.restorer, options: part.options }).collect();
        let restore = Restore::new(catalog.target(), manifest, parts, identities, progress.clone())?;
        restore.plan().await?;
        let journal = restore.begin(&self.ledger, entry.safety, SystemClock.now()).await?;
        Ok(restore.execute(Some(journal), cancel).await?)
    }
}

/// Says that a restore was left unfinished, to whoever looks at backups.
pub(super) async fn mention(catalogs: &[Catalog]) {
    let ledger = Ledger::of(catalogs.iter().map(|catalog| catalog.target().clone()).collect());
    for found in ledger.find().await.iter().filter(|found| found.holder.is_none()) {
        output::story(&format!("warning: unfinished: {}; run `restore --resume` or `restore --rollback`", told(&found.entry)));
    }
}

pub(super) async fn run(global: &Global, settings: &Settings, args: RestoreArgs, cancel: &CancellationToken) -> Result<(), Error> {
    let into = args.into.iter().map(|text| parse_destination(text)).collect::<Result<Vec<_>, _>>()?;
    let finder = Finder::open(settings).await?;
    let all = finder.ledger.find().await;
    let (alive, mut dead): (Vec<Found>, Vec<Found>) = all.into_iter().partition(|found| found.holder.is_some());
    if dead.is_empty() {
        let error = alive.first().and_then(|found| found.conflict(&found.places()));
        return Err(error.map_or_else(|| Error::NotFound { what: "there is no unfinished restore".into(), advice: None }, Error::from));
    }
    if args.rollback {
        dead.reverse();
    }
    for found in &dead {
        output::story(&format!("Unfinished: {}. Its journal is {}.", told(&found.entry), found.place()));
        for line in steps(&found.entry, args.resume) {
            output::story(&format!("  {line}"));
        }
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.yes {
        confirmed()?;
    }
    let progress = pipeline::Progress::default();
    let shown = Progress::show(global, "fetched", progress.clone());
    let mut ended = Vec::new();
    for found in dead {
        let entry = found.entry.clone();
        let busy = found.conflict(&found.places());
        let Some(journal) = found.take().await.map_err(RestoreError::Journal)? else {
            return busy.map_or(Ok(()), |error| Err(error.into()));
        };
        let restored = if args.resume {
            finder.resume(journal, &into, &progress, cancel).await?
        } else {
            let parts = finder.takeovers(journal.entry(), &into, &progress).await?;
            roll_back(journal, &parts).await?;
            let back =
                |name: ComponentName| (name, Restored { done: vec!["what was there before is in service".into()], ..Restored::default() });
            entry.parts.iter().map(|part| back(part.component.clone())).collect()
        };
        ended.push((entry.backup, restored));
    }
    drop(shown);
    for (backup, restored) in ended {
        if args.json {
            let components: Vec<_> =
                restored.iter().map(|(name, r)| json!({"name": name, "done": r.done, "warnings": r.warnings})).collect();
            output::json(&json!({"name": backup, "resumed": args.resume, "components": components}))?;
        } else {
            print_restored(restored)?;
        }
    }
    Ok(())
}

/// Which one, in a few words.
fn told(entry: &Entry) -> String {
    format!("the restore of {} that was begun at {} on {}", entry.backup, entry.begun.format("%Y-%m-%d %H:%M:%S UTC"), entry.host)
}

/// How far it is, and what would be done.
fn steps(entry: &Entry, forward: bool) -> Vec<String> {
    let parts = entry.parts.iter().enumerate().map(|(at, part)| {
        let state = match entry.progress(at) {
            _ if entry.stage() == Stage::After => "is switched in",
            component::Progress::Staging => "was not staged",
            component::Progress::Staged => "was staged, not switched",
            component::Progress::Switching => "was switched, or about to be",
        };
        format!("{} {state}: {}", part.component, part.places.join(", "))
    });
    let end = match (forward, entry.stage()) {
        (true, Stage::Before) if !entry.is_staged() => "What was made is removed, and the restore begins anew.",
        (true, _) => "What is not yet switched is switched, and what was replaced is removed.",
        (false, _) => "What was switched is switched back, and what was made is removed.",
    };
    parts.chain([end.to_owned()]).collect()
}
