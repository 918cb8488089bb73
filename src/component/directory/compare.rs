//! Whether a tree that was unpacked is the one that was backed up.

use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;

use rustix::fs::syncfs;
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::DirectoryError;
use super::difference::find;
use super::fingerprint::{Expected, Fingerprint};
use super::survey::survey;
use super::unpack::Unpacked;
use crate::component::Detail;

/// Writes the tree through to the disk and, meanwhile, looks at it as closely as `expected` says. `path` is for messages.
///
/// # Errors
/// [`DirectoryError::Read`] and [`DirectoryError::Write`].
pub fn settle(
    staging: OwnedFd,
    path: PathBuf,
    expected: Option<&Expected>,
    cancel: &CancellationToken,
) -> Result<Option<Fingerprint>, DirectoryError> {
    let failed = |error: Errno| DirectoryError::Write { path: ".".to_owned(), source: error.into() };
    let root = staging.try_clone().map_err(|source| DirectoryError::Write { path: ".".to_owned(), source })?;
    let detail = expected.map_or(Detail::Off, Expected::detail);
    if detail == Detail::Off {
        return syncfs(&staging).map(|()| None).map_err(failed);
    }
    thread::scope(|scope| {
        let syncing = thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, || syncfs(&staging));
        let found = survey(root, path.clone(), detail, cancel);
        let synced = match syncing {
            Ok(thread) => thread.join().map_err(|_| DirectoryError::Died(path))?,
            Err(_) => syncfs(&staging),
        };
        let found = found?;
        synced.map(|()| Some(found)).map_err(failed)
    })
}

/// What a comparison came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// For the user.
    Same(String),
    Differs(&'a Expected, &'a Fingerprint),
}

/// `partial`: only a part of the backup was asked for, of which no fingerprint says anything.
pub fn judge<'a>(expected: Option<&'a Expected>, found: Option<&'a Fingerprint>, unpacked: &Unpacked, partial: bool) -> Verdict<'a> {
    let (Some(expected), Some(found)) = (expected, found) else {
        let why = match expected {
            _ if partial => "a part of a backup has no fingerprint",
            Some(_) => "the backup's fingerprint is of a version that is not known here",
            None => "the backup holds no fingerprint",
        };
        return Verdict::Same(format!("not compared: {why}"));
    };
    if !expected.is(found, &unpacked.known) {
        return Verdict::Differs(expected, found);
    }
    let sentence = found.counts.sentence();
    let how = if expected.detail() == Detail::Full { "" } else { ", counted only" };
    let but = if unpacked.known == Fingerprint::default() { "" } else { "; what could not be set is named in the warnings" };
    Verdict::Same(format!("compared with the backup's fingerprint: {sentence}{how}{but}"))
}

/// In sentences, where the tree is not what the backup noted.
pub fn explain(
    archive: impl BufRead,
    staging: &OwnedFd,
    expected: &Expected,
    unpacked: &Unpacked,
    found: &Fingerprint,
    cancel: &CancellationToken,
) -> Result<Vec<String>, DirectoryError> {
    let named = find(archive, staging, unpacked.known != Fingerprint::default(), cancel)?;
    if !named.is_empty() {
        return Ok(named);
    }
    let (noted, restored) = (expected.counts().sentence(), found.counts.sentence());
    Ok(vec![match noted == restored {
        true => "the archive was unpacked as it is, but holds other contents or attributes than were noted when it was made".to_owned(),
        false => format!("the archive was unpacked as it is, and holds {restored}; when it was made, {noted} were noted"),
    }])
}
