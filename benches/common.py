"""What both benchmarks share: where things are, how to run the measuring process, how to print ratios."""

import contextlib
import json
import os
import pathlib
import pwd
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

REPO = pathlib.Path(__file__).resolve().parent.parent
CES = pathlib.Path(os.environ.get("CES_BIN", REPO / "target/release/ces"))
FIXTURES = REPO / "target/fixtures"


def say(text):
    print(f"==> {text}", file=sys.stderr)


def die(text, hint):
    sys.exit(f"error: {text}\nhint: {hint}")


def run(*argv, **options):
    """Runs a preparation; its output goes nowhere unless it fails."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} {argv[1] if len(argv) > 1 else ''}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def fixtures_can_be_made():
    """Whether they are to be made, on a clean clone too; on a read-only disk they are there already."""
    there = next(path for path in (FIXTURES, *FIXTURES.parents) if path.exists())
    return os.access(there, os.W_OK)


def manifest_of(layout, tag):
    """The manifest of a tag in an OCI layout."""
    index = json.loads((layout / "index.json").read_text())
    for entry in index["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
            return json.loads(blob(layout, entry).read_text())
    raise KeyError(f"{layout} has no tag {tag}")


def blob(layout, descriptor):
    return layout / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")


class Workplace:
    """A throw-away directory, and the control groups made for the peers; both are gone afterwards."""

    def __init__(self, user=None):
        self.user = pwd.getpwnam(user) if user else None
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="ces-bench."))
        self.path.chmod(0o755)
        (self.path / "home").mkdir()
        (self.path / "runtime").mkdir(mode=0o700)
        self.cgroup = self.path.name  # podman's containers go below /sys/fs/cgroup/*/ces-bench.…

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # An ordinary user's podman leaves a process that holds its namespaces, and its number in a file.
        for number in self.path.rglob("pause.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(number.read_text()), signal.SIGKILL)
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in pathlib.Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}"):
            for directory, _, _ in os.walk(parent, topdown=False):
                os.rmdir(directory)

    def give(self):
        """Hands the directory to the user who will run the peers."""
        if self.user:
            run("chown", "-R", f"{self.user.pw_uid}:{self.user.pw_gid}", self.path)

    def shell(self, *argv):
        """The command line that runs `argv` as the user, in a mount namespace of its own.

        There the version 2 hierarchy of a hybrid host is taken out of sight: crun refuses to run beside one that has
        controllers. Whatever a peer mounts vanishes with the namespace.
        """
        inner = list(argv)
        if self.user:
            ids = [f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--init-groups"]
            inner = ["setpriv", *ids, *inner]
        hide = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\""
        return ["unshare", "--mount", "sh", "-c", hide, "sh", *inner] if os.geteuid() == 0 else inner

    def environment(self):
        home, runtime = self.path / "home", self.path / "runtime"
        # Only what a login would set: nothing of ours should steer a peer.
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home),
                "XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(self.path), "LC_ALL": "C"}

    def measure(self, plan):
        self.give()
        argv = self.shell(sys.executable, "-I", str(REPO / "benches/measure.py"))
        done = subprocess.run(argv, input=json.dumps(plan), stdout=subprocess.PIPE, text=True, env=self.environment(),
                              cwd=self.path)
        if done.returncode != 0:
            raise RuntimeError("the measuring process failed")
        return json.loads(done.stdout)

    def podman(self, *argv):
        """podman with all its state here, without a network and without systemd."""
        here = self.path / "podman"
        return ["podman", "--root", f"{here}/store", "--runroot", f"{here}/run", "--tmpdir", f"{here}/tmp",
                "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none", *argv]


def median(values):
    return statistics.median(values) if values else None


def table(results, columns, floor):
    """Prints one line a peer; a column is (title, value of a result or None, format)."""
    print(f"| {'':34} |" + "".join(f" {title} |" for title, _, _ in columns) + " × floor | ces ÷ it |")
    print("| --- |" + " ---: |" * (len(columns) + 2))
    base = median(results[floor]["wall"])
    ours = median(results.get("ces", {}).get("wall", []))
    for name, result in results.items():
        wall = median(result["wall"])
        if wall is None or "failed" in result and not result["wall"]:
            print(f"| {name:34} | not measured: {result.get('failed', 'no rounds')}")
            continue
        cells = []
        for _, value, form in columns:
            seen = value(result)
            cells.append("–" if seen is None else form.format(seen))
        ratio = f"{wall / base:.2f}" if base else "–"
        against = f"{ours / wall:.2f}" if ours else "–"
        print(f"| {name:34} | " + " | ".join(cells) + f" | {ratio} | {against} |")
        if "failed" in result:
            print(f"|   {name} then failed: {result['failed']}")


def machine():
    """One line that says where this was measured; only ratios travel."""
    cpus = os.cpu_count()
    load = os.getloadavg()[0]
    return f"Linux {os.uname().release}, {os.uname().machine}, {cpus} CPUs, load {load:.1f} at the start"
