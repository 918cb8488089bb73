"""A catalog of many backups, made out of one: what `listbackups` reads, without the artifacts."""

import datetime
import hashlib
import http.client
import json
import pathlib
import re

ZEROS = b"0" * 64


def sealed(text):
    """With its checksum: SHA-256 over the whole file with zeros in the checksum's place (src/manifest.rs)."""
    head, mark, tail = text.encode().rpartition(b'"integrity": "sha256:')
    digest = hashlib.sha256(head + mark + ZEROS + tail[64:]).hexdigest()
    return head + mark + digest.encode() + tail[64:]


def multiply(one, many, count):
    """Writes `count` manifests to the target directory `many`, an hour apart, after the only backup in the target directory `one`."""
    (manifest,) = pathlib.Path(one).glob("*/manifest.json")
    text = manifest.read_text()
    name = json.loads(text)["name"]
    newest = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    for number in range(count):
        created = newest - datetime.timedelta(hours=number)
        copy = text.replace(name, f"default-{created:%Y-%m-%d-%H%M%S}")
        copy = re.sub(r'"(created|finished)": "[^"]*"', rf'"\1": "{created:%Y-%m-%dT%H:%M:%SZ}"', copy)
        folder = pathlib.Path(many, f"default-{created:%Y-%m-%d-%H%M%S}")
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_bytes(sealed(copy))


def upload(many, filer_port, bucket):
    """Puts them into a bucket, through SeaweedFS' own HTTP, which asks for no signature."""
    connection = http.client.HTTPConnection("127.0.0.1", filer_port, timeout=60)
    for manifest in pathlib.Path(many).glob("*/manifest.json"):
        connection.request("PUT", f"/buckets/{bucket}/{manifest.parent.name}/manifest.json", manifest.read_bytes())
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise OSError(f"SeaweedFS answered {answer.status} {answer.reason}")
