//! The seeds of the corpus: small, and each made by the program whose bytes it stands for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{corpus, functions};
use crate::directory;
use crate::site::{Site, program};
use crate::support::process::run;
use crate::support::{Major, Postgres, Redis, Scratch, Version, toml};

/// Largest seed, in bytes.
const LARGEST: usize = 64 << 10;

fn seed(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    assert!(bytes.len() <= LARGEST, "{target}/{name} has {} bytes", bytes.len());
    let path = corpus(target).join(name);
    if std::env::var_os("BACKSTAY_SEEDS").is_some() {
        std::fs::create_dir_all(corpus(target)).expect("a folder");
        std::fs::write(path, bytes).expect("written");
    } else {
        assert!(path.is_file(), "{} is missing: BACKSTAY_SEEDS=1 ./test seeds_", path.display());
    }
}

/// With the byte before it that says how it is to be taken.
fn led(by: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&[by][..], bytes.as_ref()].concat()
}

/// `BACKSTAY_SEEDS=1` writes them anew.
#[test]
fn seeds_can_be_made_and_are_there() {
    manifests();
    configurations();
    postgres();
    redis();
    trees();
    words();
}

fn manifests() {
    let store = Scratch::new();
    let site = Site::filled(Major::V15, Version::V7_0);
    let backstay = program(&site, &toml::file_target("local", store.path()));
    let name = backstay.backup();
    seed("manifest", "whole", std::fs::read(store.join(&name).join("manifest.json")).expect("a manifest"));
    let globals = std::fs::read(store.join(&name).join("postgres/globals.sql.gz")).expect("stored");
    seed("decode", "ours", led(0, globals));
    let name = backstay.succeed(&["backup", "--only", "redis", "--json"]).json()["name"].as_str().expect("a name").to_owned();
    seed("manifest", "only", std::fs::read(store.join(name).join("manifest.json")).expect("a manifest"));
    let text = b"twice the same, twice the same, twice the same\n".repeat(20);
    for (name, by, command) in [("gzip", 0, "gzip"), ("zstd", 1, "zstd")] {
        let stored = piped(Command::new(command).arg("-c"), &text);
        seed("decode", name, led(by, &stored));
        seed("decode", &format!("{name}-twice"), led(by, [stored.clone(), stored].concat()));
    }
    seed("decode", "plain", led(2, text));
}

fn piped(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    child.stdin.take().expect("piped").write_all(input).expect("written");
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success());
    output.stdout
}

fn configurations() {
    let example = backstay::config::example();
    // what is commented out there is what could be set
    let all: String =
        example.lines().map(|line| line.strip_prefix("# ").filter(|l| l.contains(" = ")).unwrap_or(line).to_owned() + "\n").collect();
    seed("config", "example", example);
    seed("config", "all-keys", all);
    seed(
        "config",
        "several",
        "[jobs.a]\nschedule = \"*/5 * * * *\"\ntimezone = \"Europe/Berlin\"\ncomponents = [\"p\", \"r\", \"d\"]\ntargets = [\"l\", \"s\"]\nkeep_last = 3\n\
         stall_timeout = \"1h 3m\"\n[postgres.p]\nurl = \"postgres://u:p%40@h:5/db?sslmode=verify-full\"\ndatabases = [\"*\"]\njobs = 4\n\
         [redis.r]\nurl = \"rediss://:p@h:1/3\"\n[directory.d]\npath = \"/d\"\nexclude = [\"*.tmp\", \"!keep\"]\n[targets.l]\nurl = \"file:///b\"\n\
         limit = \"3MiB/s\"\n[targets.s]\nurl = \"s3://bucket/some/prefix\"\nendpoint = \"https://s3.example:9000\"\npart_size = \"8MiB\"\n\
         access_key_id = \"env://KEY?x\"\nsecret_access_key = \"file:///run/secrets/s3\"\n[worker]\nlisten = \"[::1]:9717\"\n",
    );
}

fn postgres() {
    for major in Major::ALL {
        let server = Postgres::start(major);
        server.psql("CREATE ROLE \"o\"\"dd\" LOGIN PASSWORD 'x' CONNECTION LIMIT 3 VALID UNTIL '2031-01-01'; ALTER ROLE \"o\"\"dd\" SET work_mem = '7MB'");
        server.create_database("app");
        server.psql_in(
            "app",
            "CREATE TABLE a (i int PRIMARY KEY, t text DEFAULT E'it''s\\n'); INSERT INTO a SELECT i, repeat('x', i) FROM generate_series(1, 20) i;
             CREATE TABLE \"b;\"\"\" (a int REFERENCES a); CREATE SEQUENCE s; CREATE MATERIALIZED VIEW m AS SELECT * FROM a; COMMENT ON TABLE a IS $$x$$;
             CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $body$ SELECT 1; -- ' $body$; GRANT SELECT ON a TO \"o\"\"dd\";
             SELECT lo_from_bytea(4711, decode(repeat('00ff', 50), 'hex')) \\g /dev/null",
        );
        let dump = |args: &[&str]| run(server.client("pg_dump", "app").args(args));
        let number = major.number();
        seed("archive", &format!("{number}"), dump(&["-Fc", "-Z0"]));
        seed("archive", &format!("{number}-compressed"), dump(&["-Fc", "-Z1"]));
        seed("archive", &format!("{number}-schema"), dump(&["-Fc", "-Z0", "--schema-only"]));
        seed("script", &format!("{number}-plain"), dump(&["--clean"]));
        seed("script", &format!("{number}-globals"), run(server.client("pg_dumpall", "app").arg("--globals-only")));
    }
    for (name, text) in [
        ("url", "postgresql://u%20ser:p%40ss@[::1]:5433,host2/db?sslmode=require&options=-c%20a%3Db&application_name=x"),
        ("pairs", "host='a \\' b' port = 5432 dbname=x user='' sslmode=disable"),
        ("service", "# comment\n[x]\nhost=h\nport=5\n\n[y]\ndbname=z\n"),
    ] {
        seed("script", name, text);
    }
}

fn redis() {
    for version in Version::ALL {
        let server = Redis::start(version, &[]);
        let number = format!("{version:?}");
        for line in [
            "SET string value",
            "SET number 1234567890",
            "SET short 12",
            "PFADD hyperloglog a b c d",
            "RPUSH list a b c",
            "SADD intset 1 2 3",
            "SADD set a b c",
            "HSET hash f v g w",
            "ZADD zset 1.5 a 2 b -inf c",
            "XADD stream 1-1 f v",
            "XADD stream 2-1 f v g w",
            "XGROUP CREATE stream group 0",
            "XREADGROUP GROUP group consumer COUNT 1 STREAMS stream >",
            "SET expiring v EX 86400",
        ] {
            server.cli(&line.split(' ').collect::<Vec<_>>());
        }
        server.cli(&["SET", "packed", &"ab".repeat(500)]);
        server.cli(&["RPUSH", "long", &"z".repeat(5000)]);
        if version >= Version::V7_0 {
            server.cli(&["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('answer', function() return 42 end)"]);
        }
        for (name, mode, capa) in [("disk", 0, false), ("diskless", 1, true)] {
            let said = resynchronised(&server, capa);
            let at = said.windows(5).position(|w| w == b"REDIS").expect("an RDB");
            seed("replication", &format!("{number}-{name}"), led(mode, &said));
            if !capa {
                seed("rdb", &number, led(16, &said[at..]));
            }
        }
        seed("replication", &format!("{number}-info"), led(0, server.cli(&["INFO", "everything"])));
    }
    let commands =
        b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*3\r\n$8\r\nREPLCONF\r\n$14\r\nlistening-port\r\n$4\r\n6379\r\n\
        *5\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n$4\r\ncapa\r\n$6\r\npsync2\r\n*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n";
    seed("replication", "replica", led(0, commands));
    for (name, text) in [
        ("refused", "+PONG\r\n-NOPERM no\r\n"),
        ("loading", "+PONG\r\n+OK\r\n-LOADING Redis is loading\r\n"),
        ("no-rdb", "+PONG\r\n+OK\r\n+FULLRESYNC x 0\r\n\n\n-ERR BGSAVE failed\r\n"),
    ] {
        seed("replication", name, led(0, text));
    }
}

/// All that a server says to a replica, up to the end of its RDB.
fn resynchronised(server: &Redis, diskless: bool) -> Vec<u8> {
    server.cli(&["CONFIG", "SET", "repl-diskless-sync", if diskless { "yes" } else { "no" }]);
    server.cli(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connected");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("set");
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    let before: &[&str] = if diskless { &["PING", "REPLCONF capa eof", "REPLCONF rdb-only 1"] } else { &["PING", "REPLCONF rdb-only 1"] };
    for command in before {
        stream.write_all(format!("{command}\r\n").as_bytes()).expect("sent");
        let n = stream.read(&mut buffer).expect("answered");
        said.extend_from_slice(&buffer[..n]);
    }
    stream.write_all(b"PSYNC ? -1\r\n").expect("sent");
    loop {
        let n = stream.read(&mut buffer).expect("read");
        said.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&said);
        let whole = if diskless {
            text.split_once("$EOF:").and_then(|(_, rest)| rest.get(..40)).is_some_and(|mark| text.matches(mark).count() == 2)
        } else {
            let header = said.windows(2).position(|w| w[0] == b'\n' && w[1] == b'$').map(|at| at + 2);
            header.is_some_and(|at| {
                let end = said[at..].iter().position(|b| *b == b'\n').map(|end| at + end);
                end.is_some_and(|end| {
                    let length: usize = String::from_utf8_lossy(&said[at..end]).trim().parse().expect("a length");
                    said.len() > end + length
                })
            })
        };
        if whole || n == 0 {
            return said;
        }
    }
}

fn trees() {
    let scratch = Scratch::new();
    let root = scratch.join("tree");
    let path = |name: &str| root.join(name);
    std::fs::create_dir_all(path("d/e")).expect("created");
    for (name, content) in [("a", "hello\n"), ("empty", ""), ("d/e/ü", "x"), ("d/new\nline", "y")] {
        std::fs::write(path(name), content).expect("written");
    }
    std::fs::write(path(&"n".repeat(200)), "long").expect("written");
    std::fs::hard_link(path("a"), path("hard")).expect("linked");
    std::os::unix::fs::symlink("a", path("soft")).expect("linked");
    std::os::unix::fs::symlink("/nowhere/".repeat(30), path("far")).expect("linked");
    rustix::fs::lsetxattr(path("a"), "user.x", b"\0=\n", rustix::fs::XattrFlags::empty()).expect("set");
    let sparse = std::fs::File::create(path("sparse")).expect("created");
    sparse.set_len(1 << 20).expect("grown");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 512 << 10).expect("written");
    let tar = |args: &[&str]| {
        let mut command = Command::new("tar");
        command.args(args).args(["--sparse", "--xattrs", "--xattrs-include=user.*", "-b1", "-c", "-C"]).arg(&root).arg(".");
        run(&mut command)
    };
    seed("tar", "gnu-pax", tar(&["--format=pax"]));
    seed("tar", "gnu", tar(&["--format=gnu"]).as_slice());
    seed("tar", "bsd", run(Command::new("bsdtar").args(["--format=pax", "-b1", "-c", "-f", "-", "-C"]).arg(&root).arg(".")));
    seed("tar", "ours", ours(&root));
    for (what, bytes) in directory::hostile::archives(functions::ELSEWHERE.as_bytes()) {
        seed("tar", &format!("hostile-{}", what.replace([' ', ','], "-")), bytes);
    }
    seed("unpack", "ours", ours(&root));
}

fn ours(root: &Path) -> Vec<u8> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(directory::tar_of(root))
}

fn words() {
    for (at, name) in [
        "default",
        "default-2026-01-02-030405",
        "a-1-2021-10-03-115557",
        "postgres/app.dump.gz",
        "postgres/a%20b.data-1.dump.zst",
        "0a1b2c3d",
        "2026-01-31T030405Z_sound",
        "2026-01-31T030405Z_drilled-42s",
        "default-worker-1-2020-10-03-115557.psql.gz",
        "authentik-backup-2021.5.1-2021-05-12-000000.sql",
        "../../etc/passwd",
        "ü/\"x\"",
    ]
    .iter()
    .enumerate()
    {
        seed("names", &format!("{at:02}"), name);
    }
    for (at, text) in [
        "UTC\n0 0 * * *",
        "Europe/Berlin\n*/20 1-5 1,15 */2 MON-FRI",
        "America/New_York\n30 2 L * *",
        "Asia/Kolkata\n@weekly",
        "Lord_Howe\n@daily",
        "Australia/Lord_Howe\n59 59 23 31 12 7",
        "UTC\n0 0 29 2 *",
        "UTC\n0 0 * * 5#3",
        "UTC\n0 12 15W * ?",
        "UTC\n0 0 30 2 *",
        "UTC\n0-59/7 0 1-31 JAN-DEC SUN",
    ]
    .iter()
    .enumerate()
    {
        seed("cron", &format!("{at:02}"), text);
    }
}
