//! Lists of a store that has folders, as servers of files do and buckets do not: one request a folder.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, Extensions, ListResult, ObjectMeta, Result};

use super::layout;

/// The folder of a target is not there. It is not made either: what should lie there may be a disk that is not mounted.
pub(super) const NO_BASE: &str = "there is no such folder on the server";

/// What lies in a folder.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    Folder(Path),
    Object(ObjectMeta),
}

#[async_trait]
pub(super) trait Folders: std::fmt::Debug + Send + Sync {
    /// What lies in a folder; `None` if it is not there.
    async fn children(&self, folder: &Path) -> Result<Option<Vec<Found>>>;

    /// Removes a folder that was seen empty. Whether one that is not empty any more stays is the server's to say.
    async fn remove_folder(&self, folder: &Path) -> Result<()>;

    /// The error that says [`NO_BASE`].
    fn no_base(&self) -> Error;

    /// Bytes that the target has room for; `None` where the server does not tell.
    async fn free_space(&self) -> Option<u64> {
        None
    }
}

/// A name of its own for what is not whole yet.
pub(super) fn unfinished() -> Path {
    Path::from_iter([layout::PRIVATE, layout::UNFINISHED, uuid::Uuid::new_v4().to_string().as_str()])
}

async fn children_or_none(folders: &dyn Folders, folder: &Path) -> Result<Vec<Found>> {
    match folders.children(folder).await? {
        // a folder that is not there has nothing in it; but that of the target has to be there
        None if folder.as_ref().is_empty() => Err(folders.no_base()),
        children => Ok(children.unwrap_or_default()),
    }
}

/// Every object below a prefix.
pub(super) fn list(folders: Arc<dyn Folders>, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
    let root = prefix.cloned().unwrap_or_default();
    let lists = stream::try_unfold(vec![root], move |mut waiting| {
        let folders = folders.clone();
        async move {
            let Some(folder) = waiting.pop() else { return Ok::<_, Error>(None) };
            let mut objects = Vec::new();
            for found in children_or_none(&*folders, &folder).await? {
                match found {
                    Found::Folder(path) => waiting.push(path),
                    Found::Object(meta) => objects.push(Ok(meta)),
                }
            }
            Ok(Some((stream::iter(objects), waiting)))
        }
    });
    lists.try_flatten().boxed()
}

/// The folders and objects right below a prefix.
pub(super) async fn list_with_delimiter(folders: &dyn Folders, prefix: Option<&Path>) -> Result<ListResult> {
    let (mut common_prefixes, mut objects) = (Vec::new(), Vec::new());
    for found in children_or_none(folders, &prefix.cloned().unwrap_or_default()).await? {
        match found {
            Found::Folder(path) => common_prefixes.push(path),
            Found::Object(meta) => objects.push(meta),
        }
    }
    Ok(ListResult { common_prefixes, objects, extensions: Extensions::new() })
}

/// Removes folders below `folder`, and itself, that hold nothing but such folders. Nobody may be writing there.
pub(super) async fn remove_if_empty(folders: &dyn Folders, folder: &Path) -> Result<()> {
    let (mut waiting, mut empty) = (vec![folder.clone()], Vec::new());
    while let Some(next) = waiting.pop() {
        for found in folders.children(&next).await?.unwrap_or_default() {
            match found {
                Found::Folder(path) => waiting.push(path),
                Found::Object(_) => return Ok(()),
            }
        }
        empty.push(next);
    }
    // those below before the one that holds them
    for folder in empty.iter().rev() {
        match folders.remove_folder(folder).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
