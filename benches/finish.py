"""the end of a run: a large file and many files in the outputs, many files in scratch; and verify

The payload waits and does nothing. Meanwhile its outputs, or its scratch, are filled from outside, with files of the payload's own
id; then it ends, and what is measured is from there to the end of `ces`: wall time, processor time of `ces` and its processes, and
the most memory that one of them held. What a run with nothing in it takes comes off. Beside it, on the same file systems: `openssl
dgst -sha256` of the same file, `find | xargs openssl` of the same files, `rm -rf` of as many.
"""

import json
import os
import pathlib
import pwd
import resource
import shutil
import subprocess
import time

from common import CES, FIXTURES, REPO, Workplace, die, machine, median, run, say
from start import ces_environment

NAME = "finish"
BLOCK = 1 << 20
IMAGE = "localhost/root"


def options(command):
    command.add_argument("--rounds", type=int, default=3, metavar="N")
    command.add_argument("--size", type=int, default=5 << 30, metavar="BYTES", help="of the one file (default 5 GiB)")
    command.add_argument("--files", type=int, default=100_000, metavar="N", help="in the outputs (default 100,000)")
    command.add_argument("--scratch", type=int, default=1_000_000, metavar="N", help="files in scratch (default 1,000,000)")


def one_file(size):
    def fill(directory, owner):
        path = directory / "large"
        with path.open("wb") as file:
            for at in range(0, size, BLOCK):
                file.write(os.urandom(64) * (min(BLOCK, size - at) // 64))
        os.chown(path, *owner)
    return fill


def many_files(count, text=b"a,b\n1,2\n"):
    def fill(directory, owner):
        for at in range(count):
            if at % 1000 == 0:
                below = directory / f"d{at // 1000:04}"
                below.mkdir()
                os.chown(below, *owner)
            path = below / f"f{at:07}"
            with path.open("wb") as file:
                file.write(text)
            os.chown(path, *owner)
    return fill


class Ended:
    """What the end of a run took."""

    def __init__(self, work, env, fill=None, where="outputs"):
        home = pathlib.Path(pwd.getpwuid(os.geteuid()).pw_dir)
        before = set(home.glob(f"{where}_*"))
        argv = [str(CES), "-q", "run", "-i", "--project", "bench", IMAGE, "/bin/busybox", "sh", "-c", "echo ready; cat"]
        # Whatever ends the bench ends the run, before what it was given is removed.
        with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"ready\n"
            self.directory, = set(home.glob(f"{where}_*")) - before
            try:
                self.end(child, fill)
            except BaseException:
                child.stdin.close()
                child.wait()
                shutil.rmtree(self.directory, ignore_errors=True)
                raise
        self.id = self.directory.name.split("_")[1]

    def end(self, child, fill):
        owner = self.directory.stat()
        if fill:
            fill(self.directory, (owner.st_uid, owner.st_gid))
        os.sync()
        used = processor_time(child.pid)
        began = time.perf_counter()
        child.stdin.close()
        _, status, usage = os.wait4(child.pid, 0)
        self.wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        self.cpu = usage.ru_utime + usage.ru_stime - used
        self.memory = usage.ru_maxrss << 10
        if child.returncode:
            raise RuntimeError(f"the run ended with {child.returncode}")


def processor_time(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def took(*argv, **more):
    """Wall and processor time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([str(a) for a in argv], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **more)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(options):
    if os.geteuid() != 0:
        die("the end of a run is measured as root", "sudo ./scripts/bench finish")
    run(REPO / "scripts/demo-image", FIXTURES / "demo", "--variants")
    results = {}
    with Workplace() as work:
        env = {**work.environment(), **ces_environment(work.path)}
        run(str(CES), "pull", f"oci:{FIXTURES}/demo:root", env=env)
        where = machine()
        nothing = [Ended(work, env) for _ in range(max(3, options.rounds))]
        base = (median([e.wall for e in nothing]), median([e.cpu for e in nothing]))

        def note(what, ended, floor, floor_name):
            row = results.setdefault(what, {"wall": [], "cpu": [], "memory": [], "floor": [], "floor_cpu": [], "beside": floor_name})
            row["wall"].append(ended[0])
            row["cpu"].append(ended[1])
            row["memory"].append(ended[2])
            row["floor"].append(floor[0])
            row["floor_cpu"].append(floor[1])

        def outputs(what, fill, floor, floor_name):
            ended = Ended(work, env, fill)
            try:
                beside = floor(ended.directory)
                note(what, (ended.wall - base[0], ended.cpu - base[1], ended.memory), beside, floor_name)
                wall, cpu = took(CES, "-q", "verify", ended.id, env=env)
                note(f"{what}: ces verify", (wall, cpu, 0), beside, floor_name)
            finally:
                shutil.rmtree(ended.directory, ignore_errors=True)

        for at in range(options.rounds):
            say(f"round {at + 1} of {options.rounds}")
            outputs(f"one file of {options.size >> 20} MiB", one_file(options.size),
                    lambda d: took("openssl", "dgst", "-sha256", d / "large"), "openssl dgst")
            script = 'find "$1" -type f -print0 | xargs -0 openssl dgst -sha256'
            outputs(f"{options.files} files", many_files(options.files), lambda d: took("sh", "-c", script, "sh", d), "find, openssl")
            fill = many_files(options.scratch, b"")
            ended = Ended(work, env, fill, "scratch")
            if ended.directory.exists():
                raise RuntimeError(f"{ended.directory} is still there")
            ended.directory.mkdir()
            fill(ended.directory, (0, 0))
            os.sync()
            beside = took("rm", "-rf", ended.directory)
            note(f"{options.scratch} files in scratch", (ended.wall - base[0], ended.cpu - base[1], ended.memory), beside, "rm -rf")
            deletion = json.loads((pathlib.Path(env["CES_ROOT"]) / f"log/runs/{ended.id}.deletion.json").read_text())
            entries = deletion["items"][0]["entries"]
            expected = options.scratch + -(-options.scratch // 1000) + 1
            if entries != expected:
                raise RuntimeError(f"the certificate tells of {entries} entries, and there were {expected}")
    report(results, where, base)
    return results


def report(results, where, base):
    print(f"\nthe end of a run, less that of a run with nothing in it ({base[0] * 1000:.1f} ms); medians\n{where}\n")
    print("| what | wall, s | CPU, s | most memory, MiB | beside | wall, s | CPU, s | wall ÷ | CPU ÷ |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for what, row in results.items():
        wall, cpu, floor, floor_cpu = (median(row[key]) for key in ("wall", "cpu", "floor", "floor_cpu"))
        memory = max(row["memory"]) / BLOCK
        memory = f"{memory:.0f}" if memory else "–"
        print(f"| {what} | {wall:.2f} | {cpu:.2f} | {memory} | {row['beside']} | {floor:.2f} | {floor_cpu:.2f} | "
              f"{wall / floor:.2f} | {cpu / floor_cpu:.2f} |")
