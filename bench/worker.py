"""The worker at rest: how soon it says that it is ready, and what it holds then."""

import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

IDLE = 2.0
"""Seconds after which it is idle."""


def start(command, env, work):
    """Starts and stops it. Seconds until systemd would be told READY=1, and MiB of resident memory once idle."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{chosen.getsockname()[1]}"
    with tempfile.TemporaryDirectory(dir=work) as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"{folder}/notify")
        notify.settimeout(30)
        env = env | {"NOTIFY_SOCKET": f"{folder}/notify", "BACKSTAY__WORKER__LISTEN": listen}
        began = time.monotonic()
        with subprocess.Popen(command, env=env, cwd=work, stderr=subprocess.PIPE) as process:
            try:
                while b"READY=1" not in notify.recv(4096):
                    pass
                ready = time.monotonic() - began
                time.sleep(IDLE)
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            except (TimeoutError, OSError):
                process.kill()
                sys.exit(f"bench: error: the worker did not become ready: {process.stderr.read().decode()[-2000:]}")
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    return ready, next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))
