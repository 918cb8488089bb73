#!/usr/bin/env python3
"""Measures and prints the table of bench/run, which starts the servers, makes the data and says where they are.

docs/performance.md explains the rows.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import statistics
import sys

import catalog
import worker
from measuring import Meter, machine, median


@dataclasses.dataclass
class Row:
    name: str
    script: str
    before: str = "true"
    """Run before each measurement, not measured."""
    samples: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Ratio:
    """Of a row to the best of some others, round by round."""

    name: str
    field: str
    row: str
    others: list
    must: float


S3_TARGET = """
url = "s3://backups"
endpoint = "http://127.0.0.1:{port}"
region = "us-east-1"
addressing = "path"
allow_http = true
access_key_id = "quickstart"
secret_access_key = "quick+start/secret"
"""


class Setting:
    """Where everything is, and the commands that every row is made of."""

    def __init__(self, arguments, environment):
        self.work, self.program = arguments.work, arguments.program
        self.out, self.tree = f"{self.work}/out", f"{self.work}/tree"
        self.pg_bin, self.pg_port, self.redis_port = environment["PG_BIN"], environment["PG_PORT"], environment["REDIS_PORT"]
        self.pids = {"postgres": int(environment["PG_PID"]), "redis": int(environment["REDIS_PID"])}
        self.login = f"-h 127.0.0.1 -p {self.pg_port} -U postgres"
        self.sources = {
            "app.dump": f"{self.pg_bin}/pg_dump -Fc -Z0 {self.login} authentik",
            "dump.rdb": f"redis-cli -p {self.redis_port} --rdb -",
            "media.tar": f"tar -C {self.tree} -cf - .",
        }
        # nothing of the caller's environment configures anything
        self.env = {
            "PATH": environment["PATH"], "HOME": self.work, "PGPASSWORD": "postgres", "REDISCLI_AUTH": "redis",
            "RESTIC_PASSWORD": "restic", "RESTIC_REPOSITORY": self.out, "RESTIC_PROGRESS_FPS": "0.01", "NO_PROXY": "*",
        }

    def kept(self, compression):
        return f"{self.work}/kept-{compression}"

    def at_once(self, sink):
        """The three sources side by side, each into `sink`, which finds its file's name in $file."""
        jobs = [f"( file={file}; {source} | {sink} ) & pids+=($!)" for file, source in self.sources.items()]
        return "\n".join(["pids=()", *jobs, 'for pid in "${pids[@]}"; do wait "$pid"; done'])

    def by_turns(self, sink):
        return "\n".join(f"file={file}; {source} | {sink}" for file, source in self.sources.items())

    def backstay(self, compression, level, target, arguments, fingerprint="full"):
        """A command with a configuration of its own, which is written here. `target` is a directory, or the text of an S3 target."""
        name = os.path.basename(target) if target.startswith("/") else "s3"
        section = f'url = "file://{target}"' if target.startswith("/") else target
        config = f"{self.work}/{name}-{compression}-{level}-{fingerprint}.toml"
        pathlib.Path(config).write_text(f"""
[jobs.default]
components = ["postgres", "redis", "media"]
compression = "{compression}"
level = {level}
schedule = ""
[targets.measured]
{section}
[postgres.postgres]
host = "127.0.0.1"
port = {self.pg_port}
user = "postgres"
password = "env://PGPASSWORD"
database = "authentik"
fingerprint = "{fingerprint}"
[redis.redis]
host = "127.0.0.1"
port = {self.redis_port}
password = "env://REDISCLI_AUTH"
fingerprint = "{fingerprint}"
[directory.media]
path = "{self.tree}"
fingerprint = "{fingerprint}"
""")
        return [self.program, "--quiet", "--no-progress", "--config", config, *arguments.split()]


def backup_rows(s):
    empty = f"rm -rf {s.out} && mkdir {s.out}"
    restic = "\n".join([
        *(f"{s.sources[file]} | restic -q backup --stdin --stdin-filename {file}" for file in ("app.dump", "dump.rdb")),
        f"restic -q backup {s.tree}",
    ])
    return [
        Row("limit: all into cat", s.at_once("cat >/dev/null"), empty),
        Row("gzip -6, by turns", s.by_turns(f"gzip -6 >{s.out}/$file.gz"), empty),
        Row("pigz -6, at once", s.at_once(f"pigz -6 >{s.out}/$file.gz"), empty),
        Row("zstd -3 -T0, by turns", s.by_turns(f"zstd -q -3 -T0 >{s.out}/$file.zst"), empty),
        Row("zstd -3 -T0, at once", s.at_once(f"zstd -q -3 -T0 >{s.out}/$file.zst"), empty),
        Row("restic, first run", restic, f"rm -rf {s.out} && restic -q init"),
        Row("backstay gzip", shlex.join(s.backstay("gzip", 0, s.out, "backup")), empty),
        Row("backstay zstd 1", shlex.join(s.backstay("zstd", 1, s.out, "backup")), empty),
        Row("backstay zstd 3", shlex.join(s.backstay("zstd", 3, s.out, "backup")), empty),
        Row("zstd 3, no fingerprint", shlex.join(s.backstay("zstd", 3, s.out, "backup", "off")), empty),
    ]


BACKUP_RATIOS = [
    Ratio("wall: gzip / pigz at once", "wall", "backstay gzip", ["pigz -6, at once"], 0.6),
    Ratio("wall: zstd 3 / better zstd -3 -T0", "wall", "backstay zstd 3", ["zstd -3 -T0, by turns", "zstd -3 -T0, at once"], 0.95),
    Ratio("wall: zstd 1 / limit", "wall", "backstay zstd 1", ["limit: all into cat"], 1.4),
    Ratio("wall: zstd 3 / limit", "wall", "backstay zstd 3", ["limit: all into cat"], 1.8),
    Ratio("wall: zstd 3 / restic", "wall", "backstay zstd 3", ["restic, first run"], 0.6),
    Ratio("CPU: zstd 3 / restic", "client_cpu", "backstay zstd 3", ["restic, first run"], 0.6),
    Ratio("wall: zstd 3 / no fingerprint", "wall", "backstay zstd 3", ["zstd 3, no fingerprint"], 1.1),
    Ratio("stored: gzip / gzip -6", "stored", "backstay gzip", ["gzip -6, by turns"], 1.02),
    Ratio("stored: zstd 3 / zstd -3", "stored", "backstay zstd 3", ["zstd -3 -T0, by turns"], 1.02),
]


KEPT = {"gzip": ("gzip", 0), "zstd 3": ("zstd", 3)}
"""Backups that are restored: compression and level by name."""


def restore_rows(s):
    drop = f"{s.pg_bin}/psql -X -q {s.login} -d postgres -c 'DROP DATABASE IF EXISTS restored'"
    # a new directory each time, and nothing removed in between: ext4 searches past the inodes of a tree that was just removed
    fresh = f"mktemp -u -p {s.work} copy.XXXXXXXX"
    rows = [
        Row("pg_restore -j2", f"{s.pg_bin}/createdb {s.login} -T template0 restored\n"
            f"{s.pg_bin}/pg_restore -j2 --exit-on-error {s.login} -d restored {s.work}/plain.dump", drop),
        Row("cp -a of the tree", f"cp -a {s.tree} $({fresh})"),
    ]
    for name, (compression, level) in KEPT.items():
        for compared, fingerprint in COMPARED.items():
            restore = shlex.join(s.backstay(compression, level, s.kept(compression), "restore latest --yes", fingerprint))
            rows += [
                Row(f"database, {name}, {compared}", f"{restore} --only postgres --into postgres=restored", drop),
                Row(f"tree, {name}, {compared}", f"{restore} --only media --into media=$({fresh})"),
            ]
    return rows


COMPARED = {"compared": "full", "trusted": "off"}
"""Whether a restore compares what it made with the backup's fingerprint."""

RESTORE_RATIOS = [
    Ratio(f"wall: {what}, {codec}, {compared} / {than}", "wall", f"{what}, {codec}, {compared}", [than], must)
    for what, than, musts in (("database", "pg_restore -j2", (1.4, 1.25)), ("tree", "cp -a of the tree", (1.15, 1.15)))
    for codec in KEPT
    for compared, must in zip(COMPARED, musts)
]


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)


def measure(meter, rows, rounds, output):
    """By turns, every second round backwards, so that a machine that slows down does so for all."""
    for round_number in range(rounds):
        for row in rows if round_number % 2 == 0 else reversed(rows):
            progress(f"round {round_number + 1} of {rounds}: {row.name}")
            meter.script(row.before)
            row.samples.append(meter.take(row.script, output))
    progress("")


def table(title, rows):
    print(f"\n{title:<26} {'wall s':>8} {'min–max':>13} {'client s':>9} {'server s':>9} {'peak MiB':>9} {'stored MB':>10}")
    for row in rows:
        walls = [s.wall for s in row.samples]
        stored = f"{median(row.samples, 'stored') / 1e6:10.1f}" if median(row.samples, "stored") else " " * 10
        print(f"{row.name:<26} {median(row.samples, 'wall'):8.2f} {min(walls):6.2f}–{max(walls):<6.2f} "
              f"{median(row.samples, 'client_cpu'):9.2f} {median(row.samples, 'server_cpu'):9.2f} "
              f"{median(row.samples, 'peak'):9.0f} {stored}")


def judge(ratios, rows):
    """Median of the rounds' ratios, printed against what must be."""
    by_name = {row.name: row for row in rows}
    judged = []
    print(f"\n{'ratio, median of rounds':<42} {'is':>6} {'must':>7}")
    for ratio in ratios:
        pairs = zip(by_name[ratio.row].samples, zip(*(by_name[name].samples for name in ratio.others)))
        rounds = [getattr(mine, ratio.field) / min(getattr(o, ratio.field) for o in others) for mine, others in pairs]
        value = statistics.median(rounds)
        print(f"{ratio.name:<42} {value:6.2f} {'≤':>3} {ratio.must:<4} {'' if value <= ratio.must else ' missed'}")
        judged.append({"name": ratio.name, "is": value, "must": ratio.must, "rounds": rounds})
    return judged


def figure(name, value, unit, must):
    print(f"{name:<42} {value:6.2f} {'≤':>3} {must:<4} {unit} {'' if value <= must else ' missed'}")
    return {"name": name, "is": value, "must": must, "unit": unit}


def parse():
    parser = argparse.ArgumentParser(description="Started by bench/run.")
    parser.add_argument("--work", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--manifests", type=int, required=True)
    parser.add_argument("--json")
    return parser.parse_args()


def main():
    arguments = parse()
    s = Setting(arguments, os.environ)
    meter = Meter(s.work, list(s.pids.values()), s.env)
    load = os.getloadavg()
    here = machine(s.work) | {"program": meter.script(f"{s.program} --version").strip(), "commit": os.environ["COMMIT"]}

    backups = backup_rows(s)
    meter.script(f"{s.sources['app.dump']} >plain.dump; {s.sources['dump.rdb']} >plain.rdb; tar -C tree -cf plain.tar .")
    sizes = {name: os.path.getsize(f"{s.work}/{name}") for name in ("plain.dump", "plain.rdb", "plain.tar")}
    pathlib.Path(f"{s.work}/plain.rdb").unlink()
    pathlib.Path(f"{s.work}/plain.tar").unlink()

    print(", ".join(f"{key} {value}" for key, value in here.items()))
    print(f"scale {arguments.scale:g}: dump {sizes['plain.dump'] / 1e6:.0f} MB, RDB {sizes['plain.rdb'] / 1e6:.0f} MB, "
          f"tree {sizes['plain.tar'] / 1e6:.0f} MB as tar; {arguments.rounds} rounds; sync(1) in every wall time")

    measure(meter, backups, arguments.rounds, s.out)
    for compression, level in KEPT.values():
        meter.script(shlex.join(s.backstay(compression, level, s.kept(compression), "backup")))
    restores = restore_rows(s)
    measure(meter, restores, arguments.rounds, None)
    meter.script(f"{restores[0].before}; rm -rf copy.*")

    table("backup", backups)
    table("restore", restores)
    ratios = judge(BACKUP_RATIOS, backups) + judge(RESTORE_RATIOS, restores)

    print(f"\n{'figure':<42} {'is':>6} {'must':>7}")
    peak = max(median(row.samples, "peak") for row in backups if row.name.startswith("backstay"))
    figures = [figure("peak RSS of a backup", peak, "MiB", 128)]
    many = f"{s.work}/many"
    catalog.multiply(s.kept("zstd"), many, arguments.manifests)
    listings = [Row("a directory", shlex.join(s.backstay("zstd", 3, many, "listbackups")))]
    if os.environ.get("S3_PORT"):
        catalog.upload(many, int(os.environ["FILER_PORT"]), "backups")
        listings.append(Row("S3", shlex.join(s.backstay("zstd", 3, S3_TARGET.format(port=os.environ["S3_PORT"]), "listbackups"))))
    measure(meter, listings, arguments.rounds, None)
    for row in listings:
        figures.append(figure(f"listbackups, {arguments.manifests} in {row.name}", median(row.samples, "wall"), "s", 2))
        figures.append(figure(f"peak RSS, {arguments.manifests} in {row.name}", median(row.samples, "peak"), "MiB", 128))
    starts = [worker.start(s.backstay("zstd", 3, many, "worker"), s.env, s.work) for _ in range(max(3, arguments.rounds))]
    figures.append(figure("worker: start to ready", statistics.median(ready for ready, _ in starts), "s", 0.3))
    figures.append(figure("worker: idle RSS", statistics.median(rss for _, rss in starts), "MiB", 20))

    samples = [sample for row in backups + restores for sample in row.samples]
    others = sum(sample.other_cpu for sample in samples) / sum(sample.wall for sample in samples) / os.cpu_count()
    print(f"\nnoise: while it was measured, all else on the machine used {others:.0%} of its CPU (the kernel's own work for the rows is in "
          f"that); load average before {load[0]:.2f}, after {os.getloadavg()[0]:.2f}")

    if arguments.json:
        rows = [{"group": group, "name": row.name, "runs": [dataclasses.asdict(sample) for sample in row.samples]}
                for group, of in (("backup", backups), ("restore", restores), ("listbackups", listings)) for row in of]
        answer = {"machine": here, "scale": arguments.scale, "rounds": arguments.rounds, "raw_bytes": sizes, "rows": rows, "ratios": ratios,
                  "figures": figures, "noise": {"others": others, "load_before": load[0], "load_after": os.getloadavg()[0]}}
        pathlib.Path(arguments.json).write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
