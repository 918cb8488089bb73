//! Data with something of everything, to back up and to find again.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{FileType, Mode, XattrFlags};

use super::{Postgres, Redis, Scratch, Version};

/// A directory `media` of 8 files of a MiB each, which no compression makes smaller.
pub fn dense_media() -> Scratch {
    let scratch = Scratch::new();
    for i in 0..8 {
        let mut noise = vec![0; 1 << 20];
        blake3::Hasher::new_keyed(&[i; 32]).finalize_xof().fill(&mut noise);
        scratch.write(format!("media/{i}"), noise);
    }
    scratch
}

/// The database `app`, with kinds of objects that restores forget: settings, ACLs, owners, large objects, sequences, odd names.
pub fn fill_postgres(server: &Postgres) {
    server.psql(
        "CREATE ROLE app_owner LOGIN PASSWORD 'canary-role-password'; CREATE ROLE \"We\"\"ird Reader\" NOLOGIN;
         GRANT \"We\"\"ird Reader\" TO app_owner; ALTER ROLE app_owner SET work_mem = '7MB';
         CREATE DATABASE app OWNER app_owner CONNECTION LIMIT 40; REVOKE CONNECT ON DATABASE app FROM PUBLIC;
         GRANT CONNECT ON DATABASE app TO \"We\"\"ird Reader\"; COMMENT ON DATABASE app IS 'it''s the app';
         ALTER DATABASE app SET statement_timeout = '1h'; ALTER ROLE app_owner IN DATABASE app SET search_path = shop, public;",
    );
    server.psql_in("app", SCHEMA);
}

const SCHEMA: &str = r#"
CREATE SCHEMA shop AUTHORIZATION app_owner;
CREATE SCHEMA "Odd ""Schema""";
SET ROLE app_owner;
SET search_path = shop;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL COLLATE "C", mood mood DEFAULT 'ok', amount positive,
    pair pair, doc jsonb, tags text[], raw bytea, at timestamptz, price numeric(12, 4), span int4range,
    twice int GENERATED ALWAYS AS (amount * 2) STORED, dropped int);
INSERT INTO customer (name, mood, amount, pair, doc, tags, raw, at, price, span)
SELECT E'n\\a\tm\ne ' || i, (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::mood, i, ROW(i, NULLIF('b' || i % 7, 'b3'))::pair, jsonb_build_object('i', i, 'ü', '\u00e4'),
    ARRAY['x', NULL, 'ÿ' || i], decode(md5(i::text), 'hex'), timestamptz '2000-01-01 00:00+00' + i * interval '1.000001 hour', i / 7.0,
    int4range(i, i + 10)
FROM generate_series(1, 3000) i;
ALTER TABLE customer DROP COLUMN dropped;
CREATE INDEX customer_doc ON customer USING gin (doc);
CREATE INDEX customer_partial ON customer (lower(name)) WHERE amount > 10;
CREATE STATISTICS customer_stats ON name, amount FROM customer;
CREATE TABLE purchase (
    customer bigint REFERENCES customer ON DELETE CASCADE, day date NOT NULL, n serial, note text) PARTITION BY RANGE (day);
CREATE TABLE purchase_2020 PARTITION OF purchase FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE purchase_rest PARTITION OF purchase DEFAULT;
INSERT INTO purchase (customer, day, note) SELECT 1 + i % 3000, date '2020-06-01' + i, repeat('x', i % 100) FROM generate_series(1, 2000) i;
CREATE TABLE parent (a int, b text); CREATE TABLE child (c float8) INHERITS (parent);
INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (2, 'c', 'NaN'), (3, NULL, '-Infinity'), (4, '', 1e-300);
CREATE TABLE room (n int, during tstzrange, EXCLUDE USING gist (during WITH &&));
INSERT INTO room VALUES (1, '[2020-01-01, 2020-01-02)'), (2, '[2020-01-02,)');
CREATE UNLOGGED TABLE scratch AS SELECT 1 AS one;
CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
CREATE VIEW happy AS SELECT id, name FROM customer WHERE mood = 'happy' WITH CHECK OPTION;
CREATE MATERIALIZED VIEW per_mood AS SELECT mood, count(*) FROM customer GROUP BY mood;
CREATE MATERIALIZED VIEW empty_yet AS SELECT 1 AS one WITH NO DATA;
CREATE SEQUENCE tickets INCREMENT 3 START 100 CYCLE MAXVALUE 1000; SELECT nextval('tickets'), nextval('tickets') \g /dev/null
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
-- a comment that must stay
NEW.name := NEW.name; RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE customer ENABLE ROW LEVEL SECURITY; ALTER TABLE room ENABLE ROW LEVEL SECURITY; ALTER TABLE room FORCE ROW LEVEL SECURITY;
CREATE POLICY small ON customer USING (amount < 100);
GRANT SELECT ON ALL TABLES IN SCHEMA shop TO "We""ird Reader";
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO "We""ird Reader";
RESET ROLE; RESET search_path;
CREATE TABLE "Odd ""Schema"""."tab""le; DROP" ("col""umn" int, "select" text);
INSERT INTO "Odd ""Schema"""."tab""le; DROP" VALUES (1, '\.'), (2, E'\\N'), (NULL, NULL);
CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN NULL; END';
CREATE EVENT TRIGGER noticed ON ddl_command_end EXECUTE FUNCTION noticed();
CREATE PUBLICATION everything FOR ALL TABLES;
SELECT lo_from_bytea(4711, decode(repeat('00ff', 5000), 'hex')), lo_from_bytea(4712, '') \g /dev/null
ALTER LARGE OBJECT 4711 OWNER TO app_owner; GRANT SELECT ON LARGE OBJECT 4711 TO "We""ird Reader";
COMMENT ON LARGE OBJECT 4711 IS 'large';
"#;

/// Every type of Redis, small and large encodings of it, expiries, several databases, functions where the version has them.
pub fn fill_redis(server: &Redis) {
    let run = |line: &str| server.cli(&line.split(' ').collect::<Vec<_>>());
    for line in [
        "SET string value",
        "SET number 1234567890",
        "PFADD hyperloglog a b c d",
        "SETBIT bits 7000 1",
        "RPUSH list a b c",
        "SADD intset 1 2 3",
        "SADD set a b c",
        "HSET hash f v g w",
        "ZADD zset 1.5 a 2 b -inf c",
        "GEOADD geo 13.361389 38.115556 Palermo",
        "XADD stream 1-1 f v",
        "XADD stream 2-1 f v g w",
        "XADD stream 3-1 f v",
        "XDEL stream 2-1",
        "XGROUP CREATE stream group 0",
        "XREADGROUP GROUP group consumer COUNT 1 STREAMS stream >",
        "SET expiring v EX 86400",
        "HSET expiring-hash f v",
        "PEXPIRE expiring-hash 90000000",
    ] {
        run(line);
    }
    // encodings of large values, and bytes that are no text
    let mut connection = server.connect();
    for database in [0, 5] {
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(database).ignore();
        for i in 0..2000 {
            pipe.cmd("RPUSH").arg("large list").arg(format!("{i} {}", "x".repeat(40))).ignore();
            pipe.cmd("HSET").arg("large hash").arg(i).arg(vec![0, 255, b'\r', b'\n', (i % 251) as u8]).ignore();
        }
        if database == 5 {
            pipe.cmd("SET").arg(&b"\x00\xff\r\nkey"[..]).arg(vec![0xff_u8; 100_000]).ignore();
        }
        pipe.query::<()>(&mut connection).expect("fill Redis");
    }
    if server.version() >= Version::V7_0 {
        let library = "#!lua name=lib\nredis.register_function('answer', function() return 42 end)";
        redis::cmd("FUNCTION").arg("LOAD").arg(library).query::<String>(&mut connection).expect("load a function");
    }
    if server.version() >= Version::V8_2 {
        run("HSET fields f v g w");
        run("HPEXPIRE fields 80000000 FIELDS 1 f");
    }
}

/// Links, holes, attributes, odd names and owners, empty directories. Owners and devices only where the caller is root.
pub fn fill_directory(root: &Path) {
    let write = |name: &[u8], content: &[u8]| {
        let path = root.join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().expect("below the root")).expect("create directories");
        fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    };
    let plain = write(b"plain.txt", b"hello\n");
    write(b"empty", b"");
    write(b"deep/er/still/file", &(0..200_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    write(b"not utf-8 \xff\xfe", b"x");
    write(b"new\nline \\ \"quotes\" 'and' spaces ", b"x");
    write(&[b'n'; 255], b"a name of 255 bytes");
    write(format!("{0}/{0}/{0}/file", "d".repeat(100)).as_bytes(), b"a path of 300 bytes");
    fs::create_dir_all(root.join("empty directory")).expect("create a directory");
    fs::set_permissions(root.join("empty directory"), fs::Permissions::from_mode(0o1750)).expect("chmod");
    symlink("plain.txt", root.join("link")).expect("symlink");
    symlink("/nowhere/at/all", root.join("dangling")).expect("symlink");
    symlink("l".repeat(500), root.join("long link")).expect("symlink");
    fs::hard_link(&plain, root.join("deep/hard link")).expect("link");
    let attribute = |name: &str, value: &[u8]| rustix::fs::lsetxattr(&plain, name, value, XattrFlags::empty()).expect("set an attribute");
    attribute("user.comment", b"caf\xe9\0=\n");
    let setuid = write(b"setuid", b"#!/bin/sh\n");
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4711)).expect("chmod");

    let sparse = File::create(root.join("sparse")).expect("create a sparse file");
    sparse.set_len(64 << 20).expect("grow a sparse file");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 32 << 20).expect("write into a sparse file");

    if rustix::process::geteuid().is_root() {
        chown(root.join("empty"), Some(12_345), Some(54_321)).expect("chown");
        std::os::unix::fs::lchown(root.join("link"), Some(1), Some(2)).expect("lchown");
        chown(root.join("deep"), Some(7), Some(8)).expect("chown");
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("make a FIFO");
    }
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_007, 123_456_789);
    for name in ["plain.txt", "empty directory", "deep/er"] {
        File::open(root.join(name)).expect("open").set_modified(long_ago).expect("set the time");
    }
}
