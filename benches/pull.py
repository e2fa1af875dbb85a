"""pull and unpack from a registry on loopback into an empty store

The floor fetches layer by layer with curl, decompresses and unpacks with tar, and checks nothing; podman, and skopeo with
umoci, do the whole work. Every round starts from an empty store.
"""

import contextlib
import os
import socket
import subprocess
import time

from common import CES, FIXTURES, REPO, Workplace, die, machine, manifest_of, median, run, say, table

NAME = "pull"


def options(command):
    command.add_argument("--image", choices=["python", "big"], default="python", help="which fixture (default python)")
    command.add_argument("--compression", choices=["gzip", "zstd", "both"], default="both")
    command.add_argument("--rounds", type=int, default=5, metavar="N")
    command.add_argument("--keep", action="store_true",
                         help="delete nothing before the end (each round then takes the disk of all peers): for minutes ext4 "
                              "looks for other inodes than those just deleted, which costs every peer as much as unpacking")
    command.add_argument("--only", metavar="PEER,…", help="these peers and the floor alone")


@contextlib.contextmanager
def registry(directory):
    """Debian's docker-registry on a free port of loopback; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = directory / "registry.yml"
    config.write_text(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
                      f"storage: {{filesystem: {{rootdirectory: {directory}/registry}}}}\nhttp: {{addr: '{address}'}}\n")
    env = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
    server = subprocess.Popen(["docker-registry", "serve", str(config)], env=env, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        host, port = address.split(":")
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                break
            time.sleep(0.05)
        else:
            die("docker-registry did not start", f"run it by hand: docker-registry serve {config}")
        yield address
    finally:
        server.terminate()
        server.wait()


def on_disk(*paths):
    """Bytes on disk of these trees: blocks, each file once."""
    seen, total = set(), 0
    for path in paths:
        for directory, names, files in os.walk(path):
            for name in ["", *files, *(name for name in names if os.path.islink(os.path.join(directory, name)))]:
                found = os.lstat(os.path.join(directory, name))
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * 512
    return total


def floor_script(address, manifest, compression):
    """curl | decompress | tar, layer by layer, into one tree."""
    unzip = {"gzip": "igzip -dc", "zstd": "zstd -dcq"}[compression]
    lines = ["set -eu", "mkdir -p \"$1\""]
    for layer in manifest["layers"]:
        url = f"http://{address}/v2/bench/image/blobs/{layer['digest']}"
        lines.append(f"curl -sSf {url} | {unzip} | tar -C \"$1\" --numeric-owner -xpf -")
    return "\n".join(lines), unzip.split()[0]


def records(root, layers):
    """What the store keeps beside the trees themselves, in words."""
    trees = list((root / "store/layers/sha256").glob("*/fs"))
    entries = sum(len(names) + len(files) for tree in trees for _, names, files in os.walk(tree))
    listings = sum(path.stat().st_blocks * 512 for path in root.glob("store/layers/sha256/*/tree.zst"))
    rest = on_disk(root) - on_disk(*trees) - listings
    return (f"{listings / 1e3:.0f} kB are the listings of {entries} entries (digest, mode, owner, time, attributes; "
            f"{listings / entries:.0f} bytes an entry), {rest / 1e3:.0f} kB documents and directories of {layers} layers")


def peers_for(work, address, tag, compression, manifest):
    here = work.path
    reference = f"{address}/bench/image:{tag}"
    script, unzip = floor_script(address, manifest, compression)
    peers = [
        {"name": "floor", "label": f"curl, {unzip}, tar (floor)", "argv": [["bash", "-c", script, "bash", f"{here}/floor"]],
         "clear": [f"{here}/floor"]},
        {"name": "podman", "label": "podman pull", "argv": [work.podman("pull", "--tls-verify=false", "--quiet", reference)],
         "clear": [f"{here}/podman"]},
        {"name": "skopeo", "label": "skopeo + umoci unpack", "argv": [
            ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{reference}", f"oci:{here}/oci:{tag}"],
            ["umoci", "unpack", "--image", f"{here}/oci:{tag}", f"{here}/unpacked"],
        ], "clear": [f"{here}/oci", f"{here}/unpacked"]},
    ]
    if CES.exists():
        peers.append({"name": "ces", "label": "ces pull", "argv": [[str(CES), "pull", reference]], "clear": [f"{here}/ces"]})
        # Not cleared: what a second pull of the same image costs.
        peers.append({"name": "ces again", "label": "ces pull, image already there", "argv": [[str(CES), "pull", reference]]})
    return peers


def measure(options):
    tag = options.image
    run(REPO / "scripts/python-image", FIXTURES / "python", *(["--big"] if tag == "big" else []))
    kinds = ["gzip", "zstd"] if options.compression == "both" else [options.compression]
    everything = {}
    for kind in kinds:
        # A place and a registry each: no peer finds anything of the other image there.
        with Workplace() as work, registry(work.path) as address:
            name = tag if kind == "gzip" else f"{tag}-zstd"
            manifest = manifest_of(FIXTURES / "python", name)
            say(f"putting {name} into the registry")
            run("skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{FIXTURES}/python:{name}",
                f"docker://{address}/bench/image:{name}")
            peers = peers_for(work, address, name, kind, manifest)
            if options.only:
                peers = [p for p in peers if p["name"] == "floor" or any(w in p["name"] for w in options.only.split(","))]
            where = machine()
            say(f"measuring: {len(peers)} peers in turn, {options.rounds} rounds")
            results = work.measure({"rounds": options.rounds, "memory": True, "keep": options.keep, "peers": peers,
                                    "env": {"CES_ROOT": str(work.path / "ces")}})
            os.sync()  # blocks are given to files when these are written back
            for peer in peers:
                if results[peer["name"]]["wall"] and peer.get("clear"):
                    results[peer["name"]]["disk"] = on_disk(*peer["clear"])
            floor = results["floor"].get("disk")
            size = sum(layer["size"] for layer in manifest["layers"])
            print(f"pull and unpack {name}: {len(manifest['layers'])} layers, {size / 1e6:.0f} MB {kind}; "
                  f"medians of {options.rounds} rounds\n{where}\n")
            labels = {peer["name"]: peer["label"] for peer in peers}
            shown = {name if name == "ces" else labels[name]: result for name, result in results.items()}
            table(shown, [
                ("wall s", lambda r: median(r["wall"]), "{:.2f}"),
                ("cpu s", lambda r: median(r["cpu"]), "{:.2f}"),
                ("peak MiB", lambda r: median(r["rss"]) / 2**20, "{:.0f}"),
                ("disk MB", lambda r: r["disk"] / 1e6 if "disk" in r else None, "{:.1f}"),
                ("÷ the floor's tree", lambda r: r["disk"] / floor if floor and "disk" in r else None, "{:.4f}"),
            ], labels["floor"])
            if results.get("ces", {}).get("wall"):
                print(f"\nof what ces has on disk: {records(work.path / 'ces', len(manifest['layers']))}")
            if "ces" not in results and not CES.exists():
                print(f"| ces | not measured: {CES} is not built (cargo build --release)")
            print()
            everything[name] = results
    return everything
