"""bytes through a published port, and through a published socket, beside a direct connection on loopback

The same server runs on the host (the floor) and in a container; each round moves --size bytes from it and as many to it, and then
asks and is answered, a byte at a time.
socat, which copies through its own memory, is the peer where it is installed. With two processors the floor already uses both:
what the way in between needs then comes off the speed in full.
"""

import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

from common import CES, FIXTURES, Workplace, die, machine, run, say
from start import ces_environment

NAME = "ports"

SERVER = """
import contextlib, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64)
buffer = memoryview(bytearray(1 << 18))
while True:
    peer, _ = listener.accept()
    with peer, contextlib.suppress(OSError):
        head = peer.recv(9, socket.MSG_WAITALL)
        left = int.from_bytes(head[1:], "big")
        while head[:1] == b"d" and left > 0:
            left -= peer.send(buffer[: min(left, len(buffer))])
        while head[:1] == b"u" and left > 0:
            left -= peer.recv_into(buffer) or left
        if head[:1] == b"u":
            peer.send(b".")
        while head[:1] == b"r" and (asked := peer.recv(1)):
            peer.send(asked)
"""

# Questions a round.
QUESTIONS = 2000


def options(command):
    command.add_argument("--rounds", type=int, default=7, metavar="N")
    command.add_argument("--size", type=int, default=1 << 30, metavar="BYTES", help="in each direction (default 1 GiB)")


def transfer(address, direction, size):
    """Seconds that `size` bytes take from the server (d) or to it (u)."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    buffer = memoryview(bytearray(1 << 18))
    with socket.socket(family) as peer:
        peer.connect(address)
        began = time.perf_counter()
        peer.sendall(direction + size.to_bytes(8, "big"))
        left = size
        while left > 0:
            done = peer.recv_into(buffer) if direction == b"d" else peer.send(buffer[: min(left, len(buffer))])
            if done == 0:
                raise RuntimeError(f"{left} bytes are missing")
            left -= done
        if direction == b"u" and peer.recv(1) != b".":
            raise RuntimeError("the server did not get everything")
        return time.perf_counter() - began


def answer_time(address):
    """Seconds between a question of one byte and its answer."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as peer:
        peer.connect(address)
        if family == socket.AF_INET:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(b"r" + bytes(8))
        began = time.perf_counter()
        for _ in range(QUESTIONS):
            peer.send(b"?")
            if not peer.recv(1):
                raise RuntimeError("no answer")
        return (time.perf_counter() - began) / QUESTIONS


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address):
    for _ in range(200):
        with contextlib.suppress(OSError, RuntimeError):
            transfer(address, b"d", 1)
            return
        time.sleep(0.05)
    die(f"nothing answers at {address}", "run the same by hand: ces run -p …")


def measure(options):
    if not (FIXTURES / "python/index.json").exists():
        die("the image with Python is not there", "scripts/python-image target/fixtures/python")
    processes = []
    with Workplace() as work:
        env = {**work.environment(), **ces_environment(work.path)}
        run(*work.shell(str(CES), "pull", f"oci:{FIXTURES}/python:python"), env=env)
        direct, published, copied, path = free_port(), free_port(), free_port(), str(work.path / "s")

        def start(*argv):
            processes.append(subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL))
        try:
            start(sys.executable, "-c", SERVER, str(direct))
            start(str(CES), "-q", "run", "--project", "bench", "-p", f"{published}:8000", "-p", f"unix:{path}:8000",
                  "localhost/python", "python3", "-c", SERVER, "8000")
            ways = {"direct, on loopback (floor)": ("127.0.0.1", direct), "ces, -p HOST:CONTAINER": ("127.0.0.1", published),
                    "ces, -p unix:PATH:CONTAINER": path}
            if shutil.which("socat"):
                start("socat", "-b", "262144", f"TCP-LISTEN:{copied},bind=127.0.0.1,fork,reuseaddr", f"TCP:127.0.0.1:{direct}")
                ways["socat, 256 KiB at once"] = ("127.0.0.1", copied)
            for address in ways.values():
                answers(address)
            say(f"measuring: {len(ways)} ways in turn, {options.rounds} rounds of {options.size >> 20} MiB each way")
            where = machine()
            results = {name: {"d": [], "u": [], "r": []} for name in ways}
            for _ in range(options.rounds):
                for name, address in ways.items():
                    for direction in ("d", "u"):
                        results[name][direction].append(transfer(address, direction.encode(), options.size))
                    results[name]["r"].append(answer_time(address))
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait()
            for record in (work.path / "ces/log/runs").glob("*.json"):
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.expanduser(f"~root/outputs_{record.stem}"))
    report(results, options.size, where)
    return results


def report(results, size, where):
    print(f"\nbytes through a published port; medians\n{where}\n")
    print("| way | from the container, GB/s | to it, GB/s | ÷ floor, from | ÷ floor, to | answer, µs |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    floor = next(iter(results.values()))
    for name, seconds in results.items():
        speed = {way: size / statistics.median(seconds[way]) / 1e9 for way in "du"}
        share = {way: statistics.median(floor[way]) / statistics.median(seconds[way]) for way in "du"}
        print(f"| {name} | {speed['d']:.2f} | {speed['u']:.2f} | {share['d']:.2f} | {share['u']:.2f} | "
              f"{statistics.median(seconds['r']) * 1e6:.0f} |")
