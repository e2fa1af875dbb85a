"""Makes an environment of conda's with rattler, from a channel of its own, and files of models with their own writers.

    conda.py DIR    DIR/opt/conda, DIR/models; prints what rattler says is installed: NAME VERSION LICENCE, a line each
"""

import asyncio
import hashlib
import io
import json
import pathlib
import sys
import tarfile
import tempfile

import gguf
import numpy
import rattler
from rattler.index import index_fs
from safetensors.numpy import save_file

PACKAGES = [
    ("linux-64", "libzed", "1.2.13", [], "Zlib", {"lib/libzed.so.1.2.13": b"\x7fELF", "include/zed.h": b"//\n"}),
    ("linux-64", "tool", "2.0", ["libzed >=1.2"], "BSD-3-Clause", {"bin/tool": b"#!/bin/sh\n"}),
    ("noarch", "data-tables", "2024.5", [], "CC0-1.0", {"share/data.csv": b"a,b\n"}),
]


def package(channel, subdir, name, version, depends, licence, files):
    """Writes one package as conda-build does."""
    index = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": depends, "subdir": subdir, "license": licence}
    index |= {"noarch": "generic"} if subdir == "noarch" else {"arch": "x86_64", "platform": "linux"}
    paths = [{"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}
             for path, data in files.items()]
    info = {
        "info/index.json": json.dumps(index).encode(),
        "info/files": "".join(f"{path}\n" for path in files).encode(),
        "info/paths.json": json.dumps({"paths_version": 1, "paths": paths}).encode(),
    }
    directory = channel / subdir
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(directory / f"{name}-{version}-0.tar.bz2", "w:bz2") as archive:
        for path, data in (files | info).items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755 if path.startswith("bin/") else 0o644
            archive.addfile(entry, io.BytesIO(data))


async def install(top, work):
    channel = work / "channel"
    for one in PACKAGES:
        package(channel, *one)
    await index_fs(str(channel))
    wanted = await rattler.solve(
        [rattler.Channel(channel.as_uri())], ["tool", "data-tables"], platforms=["linux-64", "noarch"],
        gateway=rattler.Gateway(cache_dir=work / "cache"))
    prefix = top / "opt/conda"
    await rattler.install(wanted, target_prefix=prefix, cache_dir=work / "packages", show_progress=False)
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        record = rattler.PrefixRecord.from_path(path)
        print(record.name.normalized, record.version, record.license)


def models(top):
    top.mkdir()
    save_file({"weights": numpy.zeros((8, 8), numpy.float32)}, top / "model.safetensors", metadata={"format": "pt"})
    writer = gguf.GGUFWriter(top / "tiny.gguf", "llama")
    writer.add_tensor("weights", numpy.zeros((32, 32), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    top = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        asyncio.run(install(top, pathlib.Path(work)))
    models(top / "models")
