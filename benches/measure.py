"""Runs peers in turn and times whole commands, from start to exit.

Every round has each peer once, in an order of its own: what a peer leaves behind (namespaces that the kernel still takes
apart, blocks to be freed) is paid by whoever comes next, and in one fixed order that would always be the same one.

Reads a plan on stdin and writes what it measured to stdout, both JSON. Standard library only, so that it can run as any
user. In every argument `{n}` becomes a number that is never used twice.

plan   {"rounds": 20, "memory": false, "at_once": [20, 100], "at_once_rounds": 3, "env": {…},
        "peers": [{"name": "crun", "argv": [[…], …], "clear": ["/path", …]}, …]}
       `argv` lists commands run one after the other and timed together; `clear` is deleted before each round, untimed (with
       `"keep": true` put aside).
       With `memory` every command runs under time(1), which knows the peak of the largest process: what wait4 says here
       would include this interpreter, whose memory a child shares until it execs.
result {"crun": {"wall": [s, …], "cpu": [s, …], "rss": [bytes, …], "at_once": {"20": [s, …]}, "failed": "why"}, …}
"""

import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time

numbers = itertools.count(os.getpid() * 100_000)


def spawn(argv, env, errors):
    """Starts one command without a shell; its own output is dropped, its errors are kept."""
    number = str(next(numbers))
    argv = [word.replace("{n}", number) for word in argv]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
    ]
    return os.posix_spawnp(argv[0], argv, env, file_actions=actions)


def last_words(errors):
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    errors.seek(0)
    errors.truncate()
    return next((line for line in lines if "rror" in line), lines[-1] if lines else "no message")


def once(peer, env, errors, memory, keep):
    """One round of one peer: wall seconds, cpu seconds, peak resident bytes; raises if a command fails."""
    for path in peer.get("clear", []):
        if keep and os.path.exists(path):
            os.rename(path, f"{path}.{time.monotonic_ns()}")
        shutil.rmtree(path, ignore_errors=True)
    if peer.get("clear"):
        os.sync()  # the writes of the round before are not this one's
    cpu, rss = 0.0, 0
    begin = time.perf_counter()
    for argv in peer["argv"]:
        if memory:
            argv = ["/usr/bin/time", "--quiet", "--format=%M", f"--output={memory}", *argv]
        _, status, usage = os.wait4(spawn(argv, env, errors), 0)
        cpu += usage.ru_utime + usage.ru_stime
        if memory and status == 0:
            with open(memory, encoding="ascii") as said:
                rss = max(rss, int(said.read()) * 1024)
        if status != 0:
            raise RuntimeError(f"exit {os.waitstatus_to_exitcode(status)}: {last_words(errors)}")
    return time.perf_counter() - begin, cpu, rss


def together(peer, count, env, errors):
    """`count` of them at once: seconds until the last has ended."""
    begin = time.perf_counter()
    waiting = {spawn(peer["argv"][0], env, errors) for _ in range(count)}
    failed = 0
    while waiting:
        pid, status = os.wait()
        waiting.discard(pid)
        failed += status != 0
    wall = time.perf_counter() - begin
    if failed:
        raise RuntimeError(f"{failed} of {count} at once failed: {last_words(errors)}")
    return wall


def attempt(result, action):
    """What a peer cannot do is reported once, and the peer left out from there on."""
    if "failed" in result:
        return None
    try:
        return action()
    except (OSError, RuntimeError) as error:
        result["failed"] = str(error)
        return None


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:20}", end="", file=sys.stderr, flush=True)


def main():
    plan = json.load(sys.stdin)
    env = {**os.environ, **plan.get("env", {})}
    peers = plan["peers"]
    results = {peer["name"]: {"wall": [], "cpu": [], "rss": [], "at_once": {}} for peer in peers}
    with tempfile.TemporaryFile() as errors, tempfile.NamedTemporaryFile() as memory_file:
        memory = memory_file.name if plan.get("memory") else None
        for turn in range(-plan.get("warm_up", 1), plan["rounds"]):
            for peer in random.Random(turn).sample(peers, len(peers)):  # the same orders in every measurement
                result = results[peer["name"]]
                seen = attempt(result, lambda: once(peer, env, errors, memory, plan.get("keep")))
                if seen and turn >= 0:
                    for key, value in zip(("wall", "cpu", "rss"), seen):
                        result[key].append(value)
            progress(f"round {max(turn + 1, 0)} of {plan['rounds']}")
        for count in plan.get("at_once", []):
            for _ in range(plan.get("at_once_rounds", 3)):
                for peer in peers:
                    result = results[peer["name"]]
                    wall = attempt(result, lambda: together(peer, count, env, errors))
                    if wall is not None:
                        result["at_once"].setdefault(str(count), []).append(wall)
            progress(f"{count} at once: done")
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
