//! What the journal of a restore says (pure): which components, where they go, and how far they are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::component::{Destination, Progress, RestoreOptions};
use crate::manifest::Kind;
use crate::name::{BackupName, ComponentName, RestoreId, TargetName};

/// Of the journals that are written. A reader refuses newer ones.
pub(super) const FORMAT: u32 = 1;

/// What is on record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub(super) format: u32,
    pub id: RestoreId,
    pub backup: BackupName,
    /// From which it is read.
    pub target: TargetName,
    pub begun: DateTime<Utc>,
    pub host: String,
    /// The backup that was made right before, of what is replaced.
    #[serde(default)]
    pub safety: Option<BackupName>,
    /// In the order of their switches.
    pub parts: Vec<Step>,
    /// The last part whose switch may have begun.
    #[serde(default)]
    pub(super) switching: Option<usize>,
    #[serde(default)]
    pub(super) ending: Option<Ending>,
}

/// One component on record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub component: ComponentName,
    pub kind: Kind,
    /// Without the passwords of a destination.
    pub options: RestoreOptions,
    /// What it replaces.
    pub places: Vec<String>,
    pub staged: bool,
    pub record: Value,
}

/// What a restore has begun to remove, from where there is no other way than on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// Everything is switched; the old state is being removed.
    New,
    /// Everything goes back; the new state is being removed.
    Old,
}

/// What a restore that died has left, as far as an operator must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is switched: the old state is in service everywhere.
    Before,
    /// Some components may be switched.
    Between,
    /// The new state is in service everywhere.
    After,
}

impl Entry {
    pub fn new(id: RestoreId, backup: BackupName, target: TargetName, now: DateTime<Utc>, parts: Vec<Step>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { format: FORMAT, id, backup, target, begun: now, host, safety: None, parts, switching: None, ending: None }
    }

    pub fn stage(&self) -> Stage {
        match (self.ending, self.switching) {
            (Some(Ending::New), _) => Stage::After,
            (_, Some(_)) => Stage::Between,
            (_, None) => Stage::Before,
        }
    }

    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Whether every component has been staged.
    pub fn is_staged(&self) -> bool {
        self.parts.iter().all(|part| part.staged)
    }

    /// How far the part `at` was.
    pub fn progress(&self, at: usize) -> Progress {
        match self.parts.get(at) {
            _ if self.switching.is_some_and(|last| at <= last) => Progress::Switching,
            Some(part) if part.staged => Progress::Staged,
            _ => Progress::Staging,
        }
    }

    /// The first thing that both would replace.
    pub fn shared(&self, places: &[String]) -> Option<&str> {
        self.parts.iter().flat_map(|part| &part.places).find(|place| places.contains(place)).map(String::as_str)
    }
}

/// The entry of a component's options: whoever reads the journal must not learn a password by it.
pub fn without_passwords(options: &RestoreOptions) -> RestoreOptions {
    let to = match &options.to {
        Destination::Into(text) if text.contains("://") => Destination::Into(bare(text)),
        to => to.clone(),
    };
    RestoreOptions { to, ..options.clone() }
}

fn bare(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        return format!("{}://", text.split("://").next().unwrap_or_default());
    };
    if url.password().is_none() && url.query().is_none() {
        return text.to_owned();
    }
    // a file:// URL has none to remove
    let _ = url.set_password(None);
    let kept: Vec<(String, String)> =
        url.query_pairs().filter(|(key, _)| !key.contains("password")).map(|(k, v)| (k.into(), v.into())).collect();
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
    url.into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of two components, and which of them are staged.
    pub fn entry(staged: [bool; 2]) -> Entry {
        let part = |name: &str, staged| Step {
            component: name.parse().expect("a name"),
            kind: Kind::Directory,
            options: RestoreOptions::default(),
            places: vec![format!("directory /{name}")],
            staged,
            record: Value::Null,
        };
        let parts = vec![part("a", staged[0]), part("b", staged[1])];
        let backup: BackupName = "default-2026-01-02-030405".parse().expect("a name");
        Entry::new(RestoreId::random(), backup.clone(), "local".parse().expect("a name"), backup.created(), parts)
    }

    #[test]
    fn what_is_on_record_says_how_far_it_is() {
        let begun = entry([true, false]);
        assert_eq!((begun.stage(), begun.is_staged()), (Stage::Before, false));
        assert_eq!([begun.progress(0), begun.progress(1)], [Progress::Staged, Progress::Staging]);
        let between = Entry { switching: Some(0), ..entry([true, true]) };
        assert_eq!((between.stage(), between.is_staged()), (Stage::Between, true));
        assert_eq!([between.progress(0), between.progress(1)], [Progress::Switching, Progress::Staged]);
        assert_eq!(Entry { ending: Some(Ending::Old), ..between.clone() }.stage(), Stage::Between);
        assert_eq!(Entry { ending: Some(Ending::New), ..between }.stage(), Stage::After);
    }

    #[test]
    fn restores_of_one_place_are_known() {
        let entry = entry([false, false]);
        assert_eq!(entry.shared(&["directory /c".into(), "directory /b".into()]), Some("directory /b"));
        assert_eq!(entry.shared(&["directory /c".into()]), None);
    }

    #[test]
    fn no_password_is_on_record() {
        for (text, expected) in [
            ("postgres://u:canary@h:1/x?sslmode=require&password=canary", "postgres://u@h:1/x?sslmode=require"),
            ("redis://:canary@h:1/0", "redis://h:1/0"),
            ("postgres://u:can#ary@h/x", "postgres://"),
            ("/tmp/look", "/tmp/look"),
            ("file:///tmp/a b.rdb", "file:///tmp/a b.rdb"),
            ("other", "other"),
        ] {
            let options = RestoreOptions { to: Destination::Into(text.into()), ..RestoreOptions::default() };
            assert_eq!(without_passwords(&options).to, Destination::Into(expected.into()), "{text}");
        }
    }
}
