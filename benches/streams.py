"""bytes through standard output and input: to a pipe, to a file, from a file; beside podman and a plain pipe

The same program (busybox's dd) runs without a container (the floor) and in one. What a run takes without any bytes is measured in
the same round and comes off. CES_OLD names an older ces to compare with. With two processors the floor already uses both:
what moves the bytes in between then comes off the speed in full.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import time

from common import CES, FIXTURES, REPO, Workplace, die, machine, run, say
from start import ces_environment

NAME = "streams"
BLOCK = 1 << 20


def options(command):
    command.add_argument("--rounds", type=int, default=7, metavar="N")
    command.add_argument("--size", type=int, default=2 << 30, metavar="BYTES", help="in each direction (default 2 GiB)")


def take(script, argv, env):
    """Seconds that a shell script with `"$@"` in it takes."""
    began = time.perf_counter()
    subprocess.run(["sh", "-c", script, "sh", *argv], env=env, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(options):
    run(REPO / "scripts/demo-image", FIXTURES / "demo", "--variants")
    blocks = options.size // BLOCK
    busybox = shutil.which("busybox") or die("busybox is not installed", "scripts/setup bench")
    with Workplace() as work:
        env = {**work.environment(), **ces_environment(work.path)}
        memory = pathlib.Path("/dev/shm") / work.path.name
        memory.mkdir()
        try:
            source = memory / "in"
            with source.open("wb") as file:
                for _ in range(blocks):
                    file.write(bytes(BLOCK))
            ways = {"no container (floor)": [busybox]}
            ces = {"ces": CES}
            if os.environ.get("CES_OLD"):
                ces["ces, CES_OLD"] = pathlib.Path(os.environ["CES_OLD"])
            for name, program in ces.items():
                own = {**env, "CES_ROOT": str(work.path / name.replace(", ", "-"))}
                run(str(program), "pull", f"oci:{FIXTURES}/demo:root", env=own)
                ways[name] = ["env", f"CES_ROOT={own['CES_ROOT']}", str(program), "-q", "run", "-i", "--project", "bench",
                              "localhost/root", "/bin/busybox"]
            podman(work, ways)
            # With bytes and without. Of a pipe dd would count what one read gives, however little.
            directions = {"to a pipe": '"$@" dd if=/dev/zero bs=1M count={n} | cat > /dev/null',
                          "to a file": f'"$@" dd if=/dev/zero bs=1M count={{n}} > {memory}/out',
                          "to an appended file": f': > {memory}/out; "$@" dd if=/dev/zero bs=1M count={{n}} >> {memory}/out',
                          "from a file": '"$@" cat < {source} > /dev/null'}
            say(f"measuring: {len(ways)} ways in turn, {options.rounds} rounds of {options.size >> 20} MiB each way")
            where = machine()
            results = {name: {direction: [] for direction in directions} for name in ways}
            for _ in range(options.rounds):
                for direction, script in directions.items():
                    for name, argv in ways.items():
                        nothing = take(script.format(n=0, source="/dev/null"), argv, env)
                        results[name][direction].append(take(script.format(n=blocks, source=source), argv, env) - nothing)
        finally:
            shutil.rmtree(memory, ignore_errors=True)
            for record in work.path.glob("*/log/runs/*.json"):
                try:
                    os.rmdir(os.path.expanduser(f"~root/outputs_{record.stem}"))
                except OSError:
                    pass
    report(results, options.size, where)
    return results


def podman(work, ways):
    """Adds podman, where it is installed and can load the image."""
    if not (shutil.which("podman") and shutil.which("skopeo")):
        say("podman or skopeo is not installed, and is left out")
        return
    archive = work.path / "root.tar"
    try:
        run("skopeo", "copy", f"oci:{FIXTURES}/demo:root", f"oci-archive:{archive}:localhost/demo:root", env=work.environment())
        run(*work.podman("load", "-i", str(archive)), env=work.environment())
    except RuntimeError as error:
        say(f"podman cannot load the image: {error}")
        return
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--cgroup-parent", f"/{work.cgroup}"]
    way = work.shell(*work.podman("run", "--rm", "-i", "--network", "none", *limits, "localhost/demo:root", "/bin/busybox"))
    tried = subprocess.run([*way, "true"], env=work.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if tried.returncode:
        say(f"podman cannot run the image, and is left out: {tried.stderr.strip()}")
        return
    ways["podman"] = way


def report(results, size, where):
    directions = list(next(iter(results.values())))
    print(f"\nbytes through standard streams; medians, GB/s (÷ floor)\n{where}\n")
    print("| way |" + "".join(f" {direction} |" for direction in directions))
    print("| --- |" + " ---: |" * len(directions))
    floor = next(iter(results.values()))
    for name, seconds in results.items():
        cells = []
        for direction in directions:
            took = statistics.median(seconds[direction])
            cells.append(f"{size / took / 1e9:.2f} ({statistics.median(floor[direction]) / took:.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
