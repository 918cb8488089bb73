//! Which component `--database`, `--table` and `--path` mean (pure): one, and nothing else of the backup is restored.

use std::collections::BTreeSet;

use super::args::RestoreArgs;
use crate::error::Error;
use crate::manifest::{Component, ComponentStatus, Kind, Manifest};
use crate::name::ComponentName;

/// The components to restore: what was asked for, or everything that the backup holds.
///
/// # Errors
/// [`Error::Usage`] and [`Error::NotFound`].
pub(super) fn names(manifest: &Manifest, args: &RestoreArgs) -> Result<Vec<ComponentName>, Error> {
    let held = || manifest.components.iter().filter(|c| c.status == ComponentStatus::Complete);
    let Some((option, kind)) = part(args) else {
        return Ok(if args.only.is_empty() { held().map(|c| c.name.clone()).collect() } else { args.only.clone() });
    };
    let usage = |what: String, advice: &str| Err(Error::Usage { what, advice: Some(advice.to_owned()) });
    let list = |names: &[&Component]| names.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    match args.only.as_slice() {
        [] => {}
        [name] => match manifest.component(name) {
            Some(component) if !fits(component.kind, kind) => {
                return usage(format!("{option} is for a {} component, which `{name}` is not", kind.as_str()), "Name another with --only.");
            }
            Some(component) => return one_database(component, args).map(|()| vec![name.clone()]),
            None => return Ok(vec![name.clone()]), // which the caller says
        },
        _ => return usage(format!("{option} restores a part of one component, and nothing else"), "Name one with --only."),
    }
    let candidates: Vec<&Component> = held().filter(|c| fits(c.kind, kind)).collect();
    match candidates.as_slice() {
        [one] => one_database(one, args).map(|()| vec![one.name.clone()]),
        [] => Err(Error::NotFound { what: format!("backup `{}` holds no {} component", manifest.name, kind.as_str()), advice: None }),
        many => usage(format!("{option} of which component: {}?", list(many)), "Name one with --only."),
    }
}

/// Whether a component of a kind has parts of that kind: the archive of a bucket is that of a directory too.
fn fits(kind: Kind, wanted: Kind) -> bool {
    kind == wanted || (kind, wanted) == (Kind::Bucket, Kind::Directory)
}

/// Tables are those of one database.
fn one_database(component: &Component, args: &RestoreArgs) -> Result<(), Error> {
    let held: BTreeSet<&str> = component.artifacts.iter().filter_map(|artifact| artifact.database.as_deref()).collect();
    let named: BTreeSet<&str> = args.database.iter().map(String::as_str).collect();
    let meant = if named.is_empty() { held } else { named };
    if args.table.is_empty() || meant.len() == 1 {
        return Ok(());
    }
    let list = meant.into_iter().collect::<Vec<_>>().join(", ");
    Err(Error::Usage { what: format!("--table of which database: {list}?"), advice: Some("Name one with --database.".into()) })
}

/// The option that asks for a part, and of what kind of component.
fn part(args: &RestoreArgs) -> Option<(&'static str, Kind)> {
    let options = [
        ("--table", !args.table.is_empty(), Kind::Postgres),
        ("--database", !args.database.is_empty(), Kind::Postgres),
        ("--path", !args.path.is_empty(), Kind::Directory),
    ];
    options.into_iter().find(|(_, given, _)| *given).map(|(option, _, kind)| (option, kind))
}
