//! What exists without being configured, and what a later layer takes away from an earlier one.

use config::ValueKind;

use super::LoadOptions;
use super::layer::{Entry, Layer, Origin, path};

/// The directories of authentik's containers.
pub(super) const DIRECTORIES: [(&str, &str); 4] =
    [("media", "/media"), ("certs", "/certs"), ("custom-templates", "/templates"), ("blueprints", "/blueprints")];

/// The lowest layer, given those above it.
pub(super) fn layer(above: &[Layer], options: &LoadOptions) -> Layer {
    let mut layer = Layer::default();
    let nobody_has = |section: &str| !above.iter().any(|l| l.has_section(section));
    if !any_backs_up(above) {
        layer.section(path(&["jobs", "default"]), Origin::Default);
    }
    if nobody_has("targets") {
        let url = if in_container(options) { "file:///backups" } else { "file://./backups" };
        layer.set(path(&["targets", "local", "url"]), url.into(), Origin::Default);
    }
    for (name, at) in DIRECTORIES {
        layer.set(path(&["directory", name, "path"]), at.into(), Origin::Default);
    }
    layer
}

/// Whether any job is configured that does not only copy.
fn any_backs_up(above: &[Layer]) -> bool {
    let entries = || above.iter().flat_map(|layer| &layer.entries);
    let copies = |job: &str| {
        let set = |entry: &Entry| matches!(&entry.value, Some(ValueKind::String(from)) if !from.is_empty());
        entries().any(|entry| entry.path == ["jobs", job, "copy_from"] && set(entry))
    };
    entries().any(|entry| matches!(entry.path.as_slice(), [jobs, job, ..] if jobs == "jobs" && !copies(job)))
}

/// Docker, Podman, Kubernetes, or whatever says so in `$container` as systemd-nspawn does.
fn in_container(options: &LoadOptions) -> bool {
    [".dockerenv", "run/.containerenv"].iter().any(|f| options.root.join(f).exists())
        || ["KUBERNETES_SERVICE_HOST", "container"].iter().any(|v| options.env.get(*v).is_some_and(|v| !v.is_empty()))
}

/// A `url` describes a connection as a whole, but single keys win over it. So one that is set in a later layer takes the keys of earlier
/// layers away: else the host of authentik's environment would win over the `url` of the file. A password of the user's own stays, unless
/// the `url` has one itself.
pub(super) fn let_urls_replace_keys(layers: &mut [Layer]) {
    for later in 1..layers.len() {
        let urls: Vec<_> = layers[later]
            .entries
            .iter()
            .filter(|e| matches!(e.path.as_slice(), [kind, _, key] if key == "url" && (kind == "postgres" || kind == "redis")))
            .cloned()
            .collect();
        for url in urls {
            let has_password = matches!(&url.value, Some(ValueKind::String(text)) if holds_password(text));
            for earlier in &mut layers[..later] {
                earlier.entries.retain(|e| {
                    let same = e.path.len() == 3 && e.path[..2] == url.path[..2];
                    let replaced = match e.path.get(2).map_or("", String::as_str) {
                        "host" | "port" | "user" | "username" | "database" | "db" | "tls" => true,
                        "password" => has_password || !e.origin.is_ours(),
                        "sslmode" | "sslrootcert" | "sslcert" | "sslkey" | "ca_file" => !e.origin.is_ours(),
                        _ => false,
                    };
                    !(same && replaced)
                });
            }
        }
    }
}

fn holds_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) || url.contains("password=") || url.contains("password =")
}
