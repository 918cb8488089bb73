//! A restore of a part of a directory: into a new directory, never in the place of anything. The new one is the result, left for the
//! operator to look into and to copy files from.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use tokio_util::sync::CancellationToken;

use super::DirectoryError;
use super::pick::Pick;
use super::place::Place;
use super::sides::Sides;
use super::unpack::{Unpacked, unpack_borrowed, unpack_picked};
use crate::component::ComponentError;
use crate::manifest::Artifact;

/// The new directory beside the live one that a part goes to: `media.restored-20260131-030405`.
pub fn beside(live: &Path, stamp: &str) -> PathBuf {
    let mut name = live.file_name().unwrap_or_default().to_owned();
    name.push(format!(".restored-{stamp}"));
    live.with_file_name(name)
}

/// Where a part of a backup may go: nowhere where something is.
pub fn place(path: &Path, live: &Path) -> Result<Place, DirectoryError> {
    let refuse = |problem: &str| Err(DirectoryError::Destination { path: path.to_owned(), problem: problem.to_owned() });
    let is_beside = path.parent() == live.parent() && path != live;
    if is_beside && Place::find(live).is_ok_and(|live| live.exists && live.inside) {
        return refuse(
            "the directory itself is a mount point, or what it lies in may not be written: what is put beside it would not last",
        );
    }
    let place = Place::find(path)?;
    if !place.empty {
        return refuse("it is not empty, and a part of a backup takes the place of nothing");
    }
    Ok(place)
}

/// Whether nobody has put something there meanwhile.
pub fn still_empty(place: &Place) -> Result<(), DirectoryError> {
    // what lies in a mount point is our own
    let taken = !place.inside && std::fs::read_dir(&place.target).is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        let problem = "somebody has put something there meanwhile".to_owned();
        return Err(DirectoryError::Destination { path: place.target.clone(), problem });
    }
    Ok(())
}

/// What `globs` want. The stream is read to its end, and once more for the content of links whose first name is not wanted.
pub fn unpack<R: BufRead>(
    stream: R,
    again: impl FnOnce() -> Result<R, DirectoryError>,
    sides: &Sides,
    globs: &[String],
    cancel: &CancellationToken,
) -> Result<(Unpacked, Vec<String>), ComponentError> {
    let mut pick = Pick::new(globs)?;
    let (mut unpacked, mut warnings) = unpack_picked(stream, sides.staging()?, &mut pick, cancel)?;
    let unmet = pick.unmet();
    if !unmet.is_empty() {
        let what = format!("anything that matches `{}`; all of it was read, and nothing was restored", unmet.join("`, `"));
        let advice = Some(
            "Patterns are relative to the top of the directory: `icons/**`, `*.png`; `export` writes the archive to look into.".into(),
        );
        return Err(ComponentError::NotHeld { what, advice });
    }
    let borrowed = pick.borrowed();
    if !borrowed.is_empty() {
        let (more, also) = unpack_borrowed(again()?, sides.staging()?, borrowed, cancel)?;
        // the root comes with every reading
        unpacked.entries += more.entries.saturating_sub(1);
        unpacked.bytes += more.bytes;
        warnings.extend(also);
    }
    Ok((unpacked, warnings))
}

pub fn steps(place: &Place, artifact: &Artifact, globs: &[String], live: &Path) -> Vec<String> {
    let target = place.target.display();
    let mut steps = vec![
        format!(
            "read {} ({} bytes) to its end, and unpack what matches `{}`, with the directories above it",
            artifact.path,
            artifact.raw_bytes,
            globs.join("`, `")
        ),
        format!("put it in place as {target}, {}", if place.exists { "which is empty" } else { "a new directory" }),
    ];
    if live != place.target {
        steps.push(format!("{} is not touched; {target} stays until you remove it", live.display()));
    }
    steps.push("how much that is, and whether anything matches, only reading tells".to_owned());
    if !geteuid().is_root() {
        steps.push("note: this does not run as root, so owners and devices may not be set".to_owned());
    }
    steps
}
