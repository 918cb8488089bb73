//! `config show`, `config schema`, `config init`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::output;
use crate::config::{self, Loaded};
use crate::error::Error;

pub(super) fn show(loaded: &Loaded, json: bool) -> Result<(), Error> {
    if json {
        return output::json(&config::show_json(loaded));
    }
    let rows = config::show(loaded).iter().map(|r| vec![r.key.clone(), r.text(), r.layer.clone()]).collect();
    output::table(&["Key", "Value", "From"], rows)
}

pub(super) fn schema() -> Result<(), Error> {
    output::json(&config::schema())
}

/// Never overwrites: a configuration is worth more than an example.
pub(super) fn init(path: Option<&Path>) -> Result<(), Error> {
    let path = path.unwrap_or(Path::new("config/backstay.toml"));
    let failed = |source| Error::Io { action: format!("write the example to {}", path.display()), source };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(config::example().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    output::answer(&format!("{} written: edit it, then run `backstay check`", path.display()))
}
