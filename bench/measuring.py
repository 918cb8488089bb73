"""One measurement: a command, what it took from the machine, and what others took meanwhile."""

import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import time

TICK = 1 / os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


@dataclasses.dataclass
class Sample:
    wall: float
    """Seconds, from the start of the command to the end of sync(1) after it."""
    client_cpu: float
    """Seconds, user and system, of all processes that the command started."""
    server_cpu: float
    """Seconds of PostgreSQL and Redis."""
    other_cpu: float
    """Seconds of everything else on the machine, the kernel's writing back included."""
    peak: float
    """MiB of the largest process of the command."""
    stored: int
    """Bytes in the output directory."""


def stat_of(pid):
    """Fields of /proc/PID/stat from the third on; None if it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def cpu_of_tree(root):
    """CPU seconds of a server: its own, of its children that live, and of those that ended."""
    stats = {int(p.name): stat_of(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()}
    own = stats.get(root)
    if own is None:
        sys.exit(f"bench: error: the server with process id {root} is gone")
    ticks = sum(map(int, own[11:15]))
    ticks += sum(sum(map(int, s[11:15])) for s in stats.values() if s and int(s[1]) == root)
    return ticks * TICK


def busy_cpu():
    """CPU seconds that all processes of the machine have used, without idle and waiting."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK


def bytes_below(path):
    return sum(f.lstat().st_size for f in pathlib.Path(path).rglob("*") if not f.is_dir())


class Meter:
    def __init__(self, work, server_pids, env):
        self.work, self.server_pids, self.env = work, server_pids, env

    def script(self, text):
        """Runs a script that is no measurement; its answer."""
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], env=self.env, cwd=self.work, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"bench: error: exit code {done.returncode} of: {text}\n{done.stderr[-2000:]}")
        return done.stdout

    def take(self, text, output=None):
        """Measures a script that ends when its data is on disk."""
        subprocess.run(["sync"], check=True)
        servers, busy = self._servers(), busy_cpu()
        with open(f"{self.work}/stderr", "w+") as stderr:
            began = time.monotonic()
            command = ["bash", "-euo", "pipefail", "-c", text]
            process = subprocess.Popen(command, env=self.env, cwd=self.work, stdout=subprocess.DEVNULL, stderr=stderr)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            subprocess.run(["sync"], check=True)
            wall = time.monotonic() - began
            if process.returncode:
                stderr.seek(0)
                sys.exit(f"bench: error: exit code {process.returncode} of: {text}\n{stderr.read()[-2000:]}")
        client, server = usage.ru_utime + usage.ru_stime, self._servers() - servers
        others = max(0.0, busy_cpu() - busy - client - server)
        return Sample(wall, client, server, others, usage.ru_maxrss * 1024 / MIB, bytes_below(output) if output else 0)

    def _servers(self):
        return sum(map(cpu_of_tree, self.server_pids))


def median(samples, field):
    return statistics.median(getattr(s, field) for s in samples)


def machine(work):
    """What it was measured on, as text by name."""

    def first(path, key):
        lines = (line.partition(":") for line in pathlib.Path(path).read_text().splitlines())
        return next((value.strip() for name, _, value in lines if name.strip() == key), "unknown")

    filesystem = subprocess.run(["stat", "-f", "-c", "%T", work], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "cores": os.cpu_count(),
        "cpu": first("/proc/cpuinfo", "model name"),
        "memory": f"{int(first('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB",
        "kernel": os.uname().release,
        "filesystem": filesystem,
    }
