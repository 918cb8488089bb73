#!/usr/bin/env python3
"""Data of the benchmarks, the same at every run.

    bench/data.py redis SCALE       commands for `redis-cli --pipe`; at scale 1 about 42 MB of RDB: sessions and cached answers
    bench/data.py tree SCALE PATH   a media folder; at scale 1 about 300 MB, six tenths of it compressed already, most files small

The database is bench/database.sql.
"""

import base64
import itertools
import os
import random
import sys

KIB = 1 << 10
MIB = 1 << 20


def vocabulary(rng):
    letters = "etaoinshrdlucmfwypvbg"
    return ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(3000)]


def text(rng, words, size):
    """Lines that compress about as HTML, CSS and scripts do."""
    lines = []
    length = 0
    while length < size:
        line = '  <div class="' + " ".join(rng.choices(words, k=12)) + '"></div>\n'
        lines.append(line)
        length += len(line)
    return "".join(lines)[:size].encode()


def redis(scale):
    rng = random.Random(1)
    out = sys.stdout.buffer
    words = vocabulary(rng)

    def send(*arguments):
        parts = [a if isinstance(a, bytes) else str(a).encode() for a in arguments]
        out.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))

    for i in range(int(26_500 * scale)):
        session = base64.b64encode(rng.randbytes(rng.randint(300, 1200)))
        send("SET", f":1:django.contrib.sessions.cache{rng.getrandbits(128):032x}", session, "EX", 10_000_000)
    for i in range(int(12_000 * scale)):
        send("SET", f":1:goauthentik.io/policies/{rng.getrandbits(128):032x}", text(rng, words, rng.randint(200, 2000)))
    for i in range(int(4_000 * scale)):
        send("HSET", f":1:goauthentik.io/users/{i}", "name", f"user{i}", "mail", f"user{i}@example.com", "seen", rng.getrandbits(32))
    for i in range(int(50_000 * scale)):
        send("ZADD", ":1:goauthentik.io/events", i, f"{rng.getrandbits(64):016x}")


def tree(scale, root):
    rng = random.Random(2)
    words = vocabulary(rng)
    numbers = itertools.count()

    def fill(kind, suffix, total, smallest, largest, content):
        done = 0
        while done < total:
            # sizes spread evenly over the orders of magnitude, as in real trees
            size = int(smallest * (largest / smallest) ** rng.random())
            number = next(numbers)
            folder = os.path.join(root, kind, f"{number % 97:02d}")
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, f"{number}.{suffix}"), "wb") as file:
                file.write(content(size))
            done += size

    def words_of(size):
        return text(rng, words, size)

    fill("photos", "jpg", 155 * MIB * scale, 40 * KIB, 3 * MIB, rng.randbytes)
    fill("icons", "png", 17 * MIB * scale, KIB // 2, 12 * KIB, rng.randbytes)
    fill("pages", "html", 40 * MIB * scale, KIB // 4, 16 * KIB, words_of)
    fill("exports", "svg", 74 * MIB * scale, 20 * KIB, 2 * MIB, words_of)


def main():
    match sys.argv[1:]:
        case ["redis", scale]:
            redis(float(scale))
        case ["tree", scale, root]:
            tree(float(scale), root)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
