#!/usr/bin/env python3
"""The faults of bench/soak, and what is looked at afterwards. bench/soak starts the servers and says where they are."""

import argparse
import collections
import json
import os
import pathlib
import platform
import random
import signal
import subprocess
import sys
import time

GROWTH = 16
"""MiB by which the smallest resident memory of a worker may grow from the second to the last third of its life."""

FILES = 8
"""Likewise of its open files."""

LONG = 300
"""Samples, two a second, of a life that is long enough to tell."""

FAKETIME = f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketimeMT.so.1"


class Soak:
    def __init__(self, arguments):
        self.program, self.work = arguments.program, pathlib.Path(arguments.work)
        self.chance = random.Random(arguments.seed)
        self.clock = self.work / "clock"
        self.clock.write_text("+0\n")
        self.env = {
            "PATH": os.environ["PATH"], "HOME": str(self.work), "STATE_DIRECTORY": str(self.work), "TMPDIR": str(self.work), "NO_PROXY": "*",
        }
        self.log = open(self.work / "worker.log", "ab")
        self.worker = None
        self.samples = []
        """Of this worker: (resident MiB, open files)."""
        self.lives = []
        self.faults = collections.Counter()

    def start(self):
        fake = {
            "LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(self.clock), "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "TZ": "UTC",
        }
        command = [self.program, "--config", f"{self.work}/backstay.toml", "worker"]
        self.worker = subprocess.Popen(command, env=self.env | fake, stdout=self.log, stderr=self.log, cwd=self.work)
        self.samples = []

    def ended(self):
        self.lives.append(self.samples)
        self.samples = []

    def look(self):
        proc = pathlib.Path(f"/proc/{self.worker.pid}")
        try:
            resident = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS:"))
            self.samples.append((int(resident.split()[1]) / 1024, len(list((proc / "fd").iterdir()))))
        except (OSError, StopIteration):
            sys.exit(f"soak: error: the worker ended by itself:\n{self.tail()}")

    def tail(self):
        return (self.work / "worker.log").read_text(errors="replace")[-3000:]

    def change(self, step):
        """What users do meanwhile."""
        self.sql("app", f"INSERT INTO event (body) SELECT repeat(md5(i::text), 4) FROM generate_series(1, 50) i; DELETE FROM event WHERE id % 97 = {step % 97}")
        self.redis("SET", f"key:{step}", "x" * 1000)
        name = self.chance.randrange(200) + 1
        path = self.work / "media" / f"{name}.jpg"
        if path.exists() and self.chance.random() < 0.3:
            path.unlink()
        else:
            path.write_bytes(self.chance.randbytes(20000))

    def sql(self, database, text):
        psql = [f"{os.environ['PG_BIN']}/psql", "-h", "127.0.0.1", "-p", os.environ["PG_PORT"], "-U", "postgres", "-XqAt", "-d", database, "-c", text]
        subprocess.run(psql, check=False, stdout=subprocess.DEVNULL, stderr=self.log)

    def redis(self, *words):
        subprocess.run(["redis-cli", "-p", os.environ["REDIS_PORT"], *words], check=False, stdout=subprocess.DEVNULL, stderr=self.log)

    def pause(self, pid, seconds):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def fault(self):
        kinds = {
            "worker killed": self.kill,
            "worker stopped for 3 s": lambda: self.pause(self.worker.pid, 3),
            "S3 server stopped for 4 s": lambda: self.pause(int(os.environ["S3_PID"]), 4),
            "PostgreSQL sessions ended": lambda: self.sql(
                "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ),
            "Redis link cut": lambda: self.redis("CLIENT", "KILL", "TYPE", "replica"),
            "clock stepped": lambda: self.clock.write_text(f"{self.chance.choice([-90, -20, 20, 90]):+d}\n"),
        }
        name = self.chance.choice(list(kinds))
        self.faults[name] += 1
        kinds[name]()

    def kill(self):
        self.worker.kill()
        self.worker.wait()
        self.ended()
        self.start()

    def run(self, *words, **more):
        return subprocess.run([self.program, "--config", f"{self.work}/backstay.toml", *words], env=self.env, cwd=self.work, text=True, capture_output=True, **more)

    def must(self, *words):
        done = self.run(*words)
        if done.returncode != 0:
            sys.exit(f"soak: error: `backstay {' '.join(words)}`: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def grown(self):
        """Of the longest life: by how much memory and open files grew."""
        longest = max(self.lives, key=len)
        third = max(1, len(longest) // 3)
        least = lambda part, what: min(sample[what] for sample in part)
        return tuple(least(longest[-third:], what) - least(longest[third : 2 * third], what) for what in (0, 1)), len(longest)


def main():
    parser = argparse.ArgumentParser()
    for name in ("program", "work"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("seconds", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    soak = Soak(arguments)
    soak.start()
    end = time.monotonic() + arguments.seconds
    next_fault, step = time.monotonic() + 8, 0
    while time.monotonic() < end:
        soak.change(step)
        step += 1
        if time.monotonic() > next_fault:
            soak.fault()
            next_fault = time.monotonic() + soak.chance.uniform(3, 12)
        soak.look()
        time.sleep(0.5)
    soak.worker.terminate()
    code = soak.worker.wait(90)
    soak.ended()
    if code != 0:
        sys.exit(f"soak: error: the worker ended with exit code {code}\n{soak.tail()}")
    # whoever comes after all that finds it in order
    soak.clock.write_text("+0\n")
    deadline = time.monotonic() + 150
    while (done := soak.run("backup")).returncode == 11 and time.monotonic() < deadline:
        time.sleep(2)
    if done.returncode != 0:
        sys.exit(f"soak: error: a backup afterwards: exit code {done.returncode}\n{done.stderr[-4000:]}")
    listed = json.loads(soak.must("listbackups", "--json"))
    by_status = collections.Counter(row["status"] for row in listed)
    if set(by_status) - {"complete", "partial"} or by_status["complete"] < 2:
        sys.exit(f"soak: error: the list: {dict(by_status)}")
    soak.must("verify", "--all")
    newest = max((row for row in listed if row["status"] == "complete"), key=lambda row: row["name"])["name"]
    soak.must("verify", newest, "--drill")
    (memory, files), seen = soak.grown()
    log = (soak.work / "worker.log").read_text(errors="replace")
    runs = log.count("run begins")
    print(f"{arguments.seconds} s, {runs} runs, {sum(soak.faults.values())} faults: " + ", ".join(f"{n} x {what}" for what, n in sorted(soak.faults.items())))
    print(f"listed: {dict(by_status)}, each verified in both targets; {newest} passed a drill; data lost: 0")
    print(f"longest life of a worker, {seen} samples: memory {memory:+.1f} MiB, open files {files:+d}")
    if seen >= LONG and (memory > GROWTH or files > FILES):
        sys.exit("soak: error: memory or open files have grown")


main()
