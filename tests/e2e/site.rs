//! A whole installation to back up: PostgreSQL, Redis and a directory, filled, with what must come back.

use crate::support::{Backstay, Fingerprint, Keyspace, Major, Postgres, Redis, Scratch, Tree, Version};
use crate::support::{assert_same_database, assert_same_keys, assert_same_tree, sample, toml};

pub struct Site {
    pub postgres: Postgres,
    pub redis: Redis,
    pub files: Scratch,
}

/// What a [`Site`] held at one moment.
pub struct State {
    database: Fingerprint,
    roles: Fingerprint,
    keys: Keyspace,
    tree: Tree,
}

impl Site {
    pub fn filled(major: Major, version: Version) -> Self {
        let site = Self { postgres: Postgres::start(major), redis: Redis::start(version, &[]), files: Scratch::new() };
        sample::fill_postgres(&site.postgres);
        sample::fill_redis(&site.redis);
        std::fs::create_dir(site.files.join("media")).expect("create a directory");
        sample::fill_directory(&site.files.join("media"));
        site
    }

    /// Its components, in TOML. Append the targets.
    pub fn components(&self) -> String {
        [
            toml::postgres("postgres", &self.postgres, &["app"]),
            toml::redis("redis", &self.redis),
            toml::directory("media", &self.files.join("media")),
        ]
        .concat()
    }

    pub fn state(&self) -> State {
        State {
            database: Fingerprint::of(&self.postgres, "app"),
            roles: Fingerprint::roles(&self.postgres),
            keys: Keyspace::of(&self.redis),
            tree: Tree::of(&self.files.join("media")),
        }
    }

    /// Loses everything.
    pub fn destroy(&self) {
        self.postgres.psql("DROP DATABASE app WITH (FORCE)");
        self.postgres.psql("DROP ROLE app_owner, \"We\"\"ird Reader\"");
        self.redis.cli(&["FLUSHALL"]);
        if self.redis.version() >= Version::V7_0 {
            self.redis.cli(&["FUNCTION", "FLUSH"]);
        }
        std::fs::remove_dir_all(self.files.join("media")).expect("remove the directory");
    }

    /// Changes everything, as a day of work or of an intruder would.
    pub fn change(&self) {
        self.postgres.psql_in("app", "UPDATE shop.customer SET name = 'changed'; DROP TABLE shop.room; CREATE TABLE shop.newer (a int)");
        self.postgres.psql("ALTER DATABASE app CONNECTION LIMIT 3; ALTER DATABASE app SET work_mem = '9MB'");
        self.redis.cli(&["SET", "string", "changed"]);
        self.redis.cli(&["SET", "newer", "x"]);
        let media = self.files.join("media");
        std::fs::write(media.join("plain.txt"), "changed").expect("write");
        std::fs::write(media.join("newer"), "x").expect("write");
        std::fs::remove_file(media.join("link")).expect("remove");
    }

    /// # Panics
    /// If anything is not as it was, or a helper of the restore was left.
    #[track_caller]
    pub fn assert_is(&self, state: &State) {
        let now = self.state();
        assert_same_database(&state.roles, &now.roles);
        assert_same_database(&state.database, &now.database);
        assert_same_keys(&state.keys, &now.keys);
        assert_same_tree(&state.tree, &now.tree);
        self.assert_no_helpers();
    }

    /// Whether the files are those that [`Site::change`] left.
    pub fn is_changed(&self) -> bool {
        std::fs::read(self.files.join("media/plain.txt")).is_ok_and(|text| text == b"changed")
    }

    /// # Panics
    /// If a database or directory is there that was not before.
    #[track_caller]
    pub fn assert_no_helpers(&self) {
        let ours = |name: &String| !["postgres", "template0", "template1", "app"].contains(&name.as_str());
        let databases: Vec<_> = self.postgres.databases().into_iter().filter(ours).collect();
        assert_eq!(databases, [""; 0], "databases left behind");
        let entries = std::fs::read_dir(self.files.path()).expect("read the directory");
        let names: Vec<_> = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        assert!(names.iter().all(|name| name == "media"), "left behind: {names:?}");
    }
}

/// The program with this site's components and these targets.
pub fn program(site: &Site, targets: &str) -> Backstay {
    Backstay::new(&format!("{}{targets}", site.components()))
}
