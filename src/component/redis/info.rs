//! What a server says about itself in `INFO`.

use std::collections::BTreeMap;

use super::compat::Server;

/// A parsed `INFO` reply.
#[derive(Debug, Clone, Default)]
pub struct Info {
    fields: BTreeMap<String, String>,
    modules: Vec<String>,
}

impl Info {
    pub fn parse(text: &str) -> Self {
        let mut info = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.trim_end().split_once(':') else { continue };
            if key == "module" {
                info.modules.extend(value.split(',').find_map(|part| part.strip_prefix("name=")).map(str::to_owned));
            } else {
                info.fields.insert(key.to_owned(), value.to_owned());
            }
        }
        info
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str)
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }

    pub fn is(&self, key: &str, value: &str) -> bool {
        self.text(key) == Some(value)
    }

    /// Names of the loaded modules, sorted.
    pub fn modules(&self) -> Vec<String> {
        let mut names = self.modules.clone();
        names.sort();
        names
    }

    pub fn server(&self) -> Server {
        match self.text("valkey_version") {
            Some(version) => Server::valkey(version),
            None => Server::redis(self.text("redis_version").unwrap_or_default()),
        }
    }

    /// Keys by number of database, those that hold none left out.
    pub fn keys(&self) -> BTreeMap<u32, u64> {
        let count = |value: &str| value.split(',').find_map(|part| part.strip_prefix("keys="))?.parse().ok();
        let db = |(key, value): (&String, &String)| Some((key.strip_prefix("db")?.parse().ok()?, count(value)?));
        self.fields.iter().filter_map(db).collect()
    }

    pub fn is_cluster(&self) -> bool {
        self.is("cluster_enabled", "1")
    }

    /// `host:port` of the master, for a replica.
    pub fn master(&self) -> Option<String> {
        self.is("role", "slave")
            .then(|| format!("{}:{}", self.text("master_host").unwrap_or_default(), self.text("master_port").unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keys_and_modules_are_read() {
        let info = Info::parse(
            "# Server\r\nredis_version:8.2.3\r\n\r\n# Replication\r\nrole:slave\r\nmaster_host:::1\r\nmaster_port:7\r\n\
             module:name=vectorset,ver=1\r\nmodule:name=bf,ver=1\r\ndb0:keys=5,expires=1\r\ndb12:keys=7,expires=0\r\ndbx:1\r\n",
        );
        assert_eq!(info.server().to_string(), "Redis 8.2.3");
        assert_eq!(info.keys(), BTreeMap::from([(0, 5), (12, 7)]));
        assert_eq!(info.modules(), ["bf", "vectorset"]);
        assert_eq!(info.master().as_deref(), Some("::1:7"));
        assert!(!info.is_cluster());
    }
}
