"""a rehearsal beside a run, with all paths and --light, and beside strace -f; six jobs of the Python image

What a rehearsal takes at its begin and its end is a part of each: ten times the same shows what is left of it in a job that is longer.
Each job has a floor of its own: `chroot` for strace, `ces run` for the rehearsals. Exit 1 of a rehearsal is a verdict, not a failure.
"""

import os
import statistics

from common import CES, FIXTURES, REPO, Workplace, blob, fixtures_can_be_made, machine, manifest_of, run, say
from start import ces_environment, tidy_outputs

NAME = "rehearse"
JOBS = {
    "true": ["/bin/true"],
    "import numpy": ["python3", "-c", "import numpy"],
    "300 forks": ["sh", "-c", "n=0; while [ $n -lt 300 ]; do /bin/true; n=$((n+1)); done"],
    "find /usr": ["sh", "-c", "find /usr > /dev/null"],
    "find /usr, 10 times": ["sh", "-c", "for n in 0 1 2 3 4 5 6 7 8 9; do find /usr > /dev/null; done"],
    "CPU-bound": ["python3", "-c", "sum(i * i for i in range(4_000_000))"],
}
WAYS = ["chroot", "strace -f", "ces run", "rehearse --light", "rehearse"]


def options(command):
    command.add_argument("--rounds", type=int, default=9, metavar="N")


def measure(options):
    if fixtures_can_be_made():
        run(REPO / "scripts/python-image", FIXTURES / "python")
    with Workplace() as work:
        here = work.path
        root = here / "root"
        root.mkdir()
        for layer in manifest_of(FIXTURES / "python", "python")["layers"]:
            run("tar", "-C", root, "--no-same-owner", "-xzf", blob(FIXTURES / "python", layer))
        env = ces_environment(here)
        run(CES, "pull", f"oci:{FIXTURES}/python:python", env={**work.environment(), **env})
        verdict = ["sh", "-c", "\"$@\"; [ $? -le 1 ]", "sh"]
        image = "localhost/python"
        peers = []
        for job, argv in JOBS.items():
            ways = {
                "chroot": ["chroot", str(root), *argv],
                "strace -f": ["strace", "-f", "-qq", "-o", "/dev/null", "chroot", str(root), *argv],
                "ces run": [str(CES), "run", "--quiet", "--project", "bench", image, *argv],
                "rehearse --light": [str(CES), "rehearse", "--quiet", "--light", image, *argv],
                "rehearse": [str(CES), "rehearse", "--quiet", image, *argv],
            }
            peers += [{"name": f"{job}: {way}", "argv": [[*verdict, *words]]} for way, words in ways.items()]
        say(f"measuring: {len(JOBS)} jobs in {len(WAYS)} ways, {options.rounds} rounds")
        where = machine()
        results = work.measure({"rounds": options.rounds, "warm_up": 1, "env": env, "peers": peers})
        tidy_outputs(work, here)
        show(results, where, options.rounds)
        return results


def show(results, where, rounds):
    print(f"start to exit, ms; medians of {rounds} rounds\n{where}\n")
    print("| job | " + " | ".join(WAYS) + " | light ÷ run | rehearse ÷ run | strace ÷ chroot |")
    print("| --- |" + " ---: |" * (len(WAYS) + 3))
    for job in JOBS:
        seen = {}
        for way in WAYS:
            result = results[f"{job}: {way}"]
            if result.get("failed"):
                print(f"|   {job}: {way} failed: {result['failed']}")
            if result["wall"]:
                seen[way] = statistics.median(result["wall"]) * 1e3
        cells = [f"{seen[way]:.0f}" if way in seen else "–" for way in WAYS]
        pairs = [("rehearse --light", "ces run"), ("rehearse", "ces run"), ("strace -f", "chroot")]
        ratios = [f"{seen[a] / seen[b]:.2f}" if a in seen and b in seen else "–" for a, b in pairs]
        print(f"| {job} | " + " | ".join(cells + ratios) + " |")
