"""Makes the sample images: Debian's packages and Python's, on one shared base, as one OCI layout with a tag for each.

A tree is what one layer adds: an overlay over its parents, in which apt runs in a chroot. Only this process and its children
see the mounts. Trees that others build on are kept, so that the next image is made of what is new in it alone.
"""

import hashlib
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tarfile

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
HERE = pathlib.Path(__file__).resolve().parent
PLACE = REPO / "target/fixtures/workloads"
LAYOUT = PLACE / "layout"
OCI = "application/vnd.oci.image"
ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]


MAKING = 2  # raised when the way a tree with pip's packages is made changes


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


class Tree:
    """One layer to be: its parent's name, packages, files of `tests/workloads/files/NAME` and commands run in it."""

    def __init__(self, parent=None, apt=(), pip=(), run=(), keep=False):
        self.parent, self.apt, self.pip, self.run, self.keep = parent, apt, pip, run, keep


USER_1000 = "useradd --create-home --uid 1000 --shell /bin/bash analyst"
TREES = {
    "base": Tree(keep=True),
    "python": Tree("base", apt=["python3", "python3-numpy"], keep=True),
    "plain": Tree("base"),
    "figure": Tree("python", apt=["python3-matplotlib"], keep=True),
    "r": Tree("base", apt=["r-base-core"]),
    "octave": Tree("base", apt=["octave", "gnuplot-nox", "fonts-freefont-otf", "ghostscript"]),
    "postgres": Tree("base", apt=["postgresql-15", "gosu"], run=[
        "rm -rf /var/lib/postgresql/15 /etc/postgresql", "mkdir -p /var/lib/postgresql/data /var/run/postgresql",
        "chown -R postgres:postgres /var/lib/postgresql /var/run/postgresql", "chmod 3777 /var/run/postgresql"]),
    "jupyter": Tree("python", pip=["jupyterlab", "nbconvert", "ipykernel", "matplotlib"], run=[USER_1000]),
    "rocker": Tree("python", apt=["gosu"], run=["useradd --create-home --uid 1000 --shell /bin/bash rstudio",
                                                "mkdir -p /var/lib/rstudio-server"]),
    "accounts": Tree("python", apt=["sudo", "adduser", "gosu", "pamtester"], run=[
        "useradd --create-home --uid 1000 --shell /bin/bash rstudio", "useradd --create-home --uid 1001 --gid 100 jovyan",
        "echo kept > /home/jovyan/settings"]),
    "java": Tree("base", apt=["openjdk-17-jdk-headless"]),
    "node": Tree("base", apt=["nodejs"]),
    # PyPI's own wheel, with all that it brings for GPUs: what `pip install torch` gives.
    "torch": Tree("python", pip=["torch", "numpy"]),
}
# tag: the tree, and the image's configuration
IMAGES = {
    "figure": ("figure", {"Cmd": ["python3"]}),
    "r": ("r", {"Cmd": ["R"]}),
    "octave": ("octave", {"Cmd": ["octave-cli"]}),
    "postgres": ("postgres", {
        "Env": ["PGDATA=/var/lib/postgresql/data", "PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8"],
        "Entrypoint": ["entrypoint.sh"], "Cmd": ["postgres"], "Volumes": {"/var/lib/postgresql/data": {}},
        "ExposedPorts": {"5432/tcp": {}}, "StopSignal": "SIGINT"}),
    "jupyter": ("jupyter", {"User": "1000", "WorkingDir": "/home/analyst", "Env": [*ENV, "HOME=/home/analyst"],
                            "Cmd": ["jupyter", "lab", "--ip=127.0.0.1", "--port=8888", "--no-browser"],
                            "ExposedPorts": {"8888/tcp": {}}}),
    "rocker": ("rocker", {"Cmd": ["/init"], "ExposedPorts": {"8787/tcp": {}}}),
    "rocker-init": ("accounts", {"Cmd": ["/init"], "ExposedPorts": {"8787/tcp": {}}}),
    "jupyter-start": ("accounts", {"Entrypoint": ["start.sh"], "User": "jovyan", "WorkingDir": "/home/jovyan"}),
    "java": ("java", {"Cmd": ["java", "-version"]}),
    "node": ("node", {"Cmd": ["node"]}),
    "torch": ("torch", {"Cmd": ["python3"], "Env": [*ENV, "HF_HUB_OFFLINE=1"]}),
    "script": ("plain", {"WorkingDir": "/opt/tool", "Entrypoint": ["./run.sh"], "Cmd": ["default"]}),
    "hints": ("plain", {"Volumes": {"/var/cache/tool": {}, "/scratch": {}}, "OnBuild": ["RUN false"],
                        "Healthcheck": {"Test": ["CMD-SHELL", "touch /safe_outputs/healthcheck"], "Interval": 1000000000},
                        "Cmd": ["/bin/sh", "-c", "echo x > /var/cache/tool/file && ls /var/cache/tool && ls /safe_outputs"]}),
}


def sh(*argv, **options):
    """Runs a preparation; what it says is shown only if it fails."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"error: {argv[0]} failed\n  because: {(done.stdout + done.stderr).strip()[-1500:]}\n"
                         "hint: check the package mirrors with apt-get update and pip download")
    return done.stdout


def recipe(name):
    """What the tree depends on, as a digest: a changed recipe is a new tree."""
    tree, text = TREES[name], hashlib.sha256()
    text.update(json.dumps([tree.parent and recipe(tree.parent), tree.apt, tree.pip, tree.run] + [MAKING] * bool(tree.pip)).encode())
    for path in sorted((HERE / "files" / name).rglob("*")):
        text.update(f"{path.relative_to(HERE)} {path.stat().st_mode}".encode() + (path.read_bytes() if path.is_file() else b""))
    return text.hexdigest()


def note(name):
    return PLACE / f"{name}.json"


def made(name):
    """The digest, size and diff id of a tree's layer, if it is there and as the recipe says."""
    if not note(name).exists():
        return None
    known = json.loads(note(name).read_text())
    kept = not TREES[name].keep or (PLACE / "trees" / name).is_dir()
    return known if known["recipe"] == recipe(name) and kept and blob(known["digest"]).exists() else None


def blob(digest):
    return LAYOUT / "blobs/sha256" / digest.removeprefix("sha256:")


def parents(name):
    parent = TREES[name].parent
    return [] if parent is None else [parent, *parents(parent)]


def build(name):
    for parent in reversed(parents(name)):
        if not made(parent):
            build(parent)
    if made(name):
        return
    say(f"making the layer {name}")
    upper, work, root = PLACE / "trees" / name, PLACE / "work", PLACE / "root"
    for path in (upper, work):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    upper.chmod(0o755)
    if name == "base":
        bootstrap(upper)
        fill(name, upper)
    else:
        root.mkdir(exist_ok=True)
        lower = ":".join(str(PLACE / "trees" / parent) for parent in parents(name))
        sh("mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off,index=off",
           "overlay", root)
        try:
            fill(name, root)
        finally:
            sh("umount", "--recursive", root)
    known = {"recipe": recipe(name), **pack(upper)}
    note(name).write_text(json.dumps(known))
    if not TREES[name].keep:
        shutil.rmtree(upper)


def bootstrap(root):
    suite = sh("sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME").strip()
    targets = sh("apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages").splitlines()
    mirror = next((line.split()[1] for line in targets if line.startswith(f"{suite} ")), None)
    if mirror is None:
        raise SystemExit(f"error: apt knows no mirror of Debian {suite}\nhint: check /etc/apt/sources.list, then apt-get update")
    sh("debootstrap", "--variant=minbase", suite, root, mirror)


def fill(name, root):
    tree = TREES[name]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    shared = PLACE / "apt"
    for kind in ("lists/partial", "archives/partial"):
        (shared / kind).mkdir(parents=True, exist_ok=True)
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")

    def inside(command):
        script = """set -e
            mount -t proc proc "$1/proc"; mount -t tmpfs -o mode=755 tmpfs "$1/dev"
            for device in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "$1/dev/${device%:*}" c 1 "${device#*:}"; done
            ln -s /proc/self/fd "$1/dev/fd"
            mount --bind "$2/lists" "$1/var/lib/apt/lists"; mount --bind "$2/archives" "$1/var/cache/apt/archives"
            exec chroot "$1" sh -c "$3" """
        sh("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", root, shared, command, env=env)
    if name == "postgres":
        # The number that the official image has.
        inside("groupadd --system --gid 999 postgres && useradd --system --uid 999 --gid 999 --home-dir /var/lib/postgresql postgres")
    if tree.apt:
        inside("apt-get update -qq && apt-get install -y -qq --no-install-recommends " + " ".join(tree.apt))
    if tree.pip:
        target = root / "usr/local/lib/python3.11/dist-packages"
        sh(sys.executable, "-m", "pip", "install", "--quiet", "--ignore-installed", "--target", target, "--only-binary", ":all:",
           "--python-version", "3.11", *tree.pip)
        for program in (target / "bin").glob("*"):
            text = program.read_text(errors="replace")
            if text.startswith("#!"):
                program.write_text("#!/usr/bin/python3\n" + text.split("\n", 1)[1])
            shutil.move(program, root / "usr/local/bin" / program.name)
        # What pip would lay beside the programs, had it been told no target.
        for name in ("share", "etc"):
            if (target / name).is_dir():
                shutil.copytree(target / name, root / "usr/local" / name, dirs_exist_ok=True, symlinks=True)
                shutil.rmtree(target / name)
    for command in tree.run:
        inside(command)
    files = HERE / "files" / name
    if files.is_dir():
        shutil.copytree(files, root, dirs_exist_ok=True, symlinks=True)


class Hashed:
    """A stream that remembers the digest of what went through it."""

    def __init__(self, to):
        self.to, self.sum = to, hashlib.sha256()

    def write(self, data):
        self.sum.update(data)
        return self.to.write(data)


def pack(upper):
    """Writes the tree as a layer; gives its digests. What apt leaves and no image needs stays out."""
    out = ("dev", "proc", "sys", "tmp", "var/cache/apt", "var/lib/apt/lists", "etc/resolv.conf", "etc/hostname", "var/log/apt")
    blobs = LAYOUT / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    packed = PLACE / "layer.tar.zst"
    # Nothing is on the disk twice: the tar goes through zstd as it is made.
    zstd = subprocess.Popen(["zstd", "-q", "-3", "-T0", "-f", "-o", packed], stdin=subprocess.PIPE)
    stream = Hashed(zstd.stdin)
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for directory, names, files in os.walk(upper):
            names.sort()
            here = pathlib.Path(directory)
            below = here.relative_to(upper)
            if str(below) in out:
                names.clear()
                if str(below) in ("dev", "proc", "sys", "tmp"):
                    tar.add(here, arcname=str(below), recursive=False)
                continue
            if below.parts:
                tar.add(here, arcname=str(below), recursive=False)
            opaque = "trusted.overlay.opaque" in os.listxattr(here)
            if opaque:
                tar.addfile(tarfile.TarInfo(str(below / ".wh..wh..opq")))
            links = [name for name in names if (here / name).is_symlink()]
            for name in sorted(files + links):
                path = here / name
                found = path.lstat()
                if str(below / name) in out or stat.S_ISSOCK(found.st_mode):
                    continue
                if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                    tar.addfile(tarfile.TarInfo(str(below / f".wh.{name}")))
                else:
                    tar.add(path, arcname=str(below / name), recursive=False)
    zstd.stdin.close()
    if zstd.wait() != 0:
        raise SystemExit("error: zstd failed\nhint: is the disk full? Images of all samples take 20 GB while they are made")
    diff_id = stream.sum.hexdigest()
    digest = hashlib.file_digest(packed.open("rb"), "sha256").hexdigest()
    size = packed.stat().st_size
    packed.rename(blobs / digest)
    return {"digest": f"sha256:{digest}", "diff_id": f"sha256:{diff_id}", "size": size}


def write_layout():
    """The layout's index: every image whose layers are all there."""
    (LAYOUT / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def add(kind, document):
        text = json.dumps(document, sort_keys=True).encode()
        digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
        blob(digest).write_bytes(text)
        return {"mediaType": f"{OCI}.{kind}", "digest": digest, "size": len(text)}
    manifests = []
    for tag, (tree, config) in IMAGES.items():
        layers = [made(name) for name in reversed([tree, *parents(tree)])]
        if None in layers:
            continue
        described = add("config.v1+json", {
            "created": "1970-01-01T00:00:00Z", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "os": "linux", "config": {"Env": ENV, **config},
            "rootfs": {"type": "layers", "diff_ids": [layer["diff_id"] for layer in layers]}})
        manifest = add("manifest.v1+json", {
            "schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": described,
            "layers": [{"mediaType": f"{OCI}.layer.v1.tar+zstd", "digest": layer["digest"], "size": layer["size"]} for layer in layers]})
        manifests.append({**manifest, "annotations": {"org.opencontainers.image.ref.name": tag}})
    (LAYOUT / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))


def make(tags):
    PLACE.mkdir(parents=True, exist_ok=True)
    for tag in tags:
        build(IMAGES[tag][0])
        write_layout()


if __name__ == "__main__":
    make(sys.argv[1:] or list(IMAGES))
