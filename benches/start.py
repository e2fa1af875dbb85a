"""start to exit of /bin/true, the image already there; then many at once

The floor is `unshare` + `chroot`; crun and runc run a ready bundle as hardened as ours (the one `ces bundle` writes, when
ces can); podman and ces start from their stores. As root, or with --user as an ordinary user.
"""

import os
import shutil

import bundle
from common import CES, FIXTURES, REPO, Workplace, blob, fixtures_can_be_made, machine, manifest_of, median, run, say, table

NAME = "start"
NAMESPACES = ["--mount", "--uts", "--ipc", "--net", "--pid", "--fork"]


def options(command):
    command.add_argument("--rounds", type=int, default=30, metavar="N")
    command.add_argument("--user", metavar="NAME", help="run everything as this ordinary user")
    command.add_argument("--at-once", default="20,100", metavar="N,…", help="how many together (default 20,100; 0: none)")
    command.add_argument("--before", metavar="PROGRAM", help="another build of ces, measured in the same rounds")
    command.add_argument("--only", metavar="PEER,…", help="these peers alone")


def ces_environment(here):
    """Store, state and policy below the workplace; a policy file is accepted from root and in advisory mode."""
    data = here / "safe_data/bench"
    data.mkdir(parents=True)
    (here / "policy.toml").write_text(f'[data]\nroot = "{here}/safe_data"\naccess = "ro"\n[limits]\nrequired = false\n')
    return {"CES_ROOT": str(here / "ces"), "CES_POLICY": str(here / "policy.toml")}


def prepare_ces(work, env):
    """Pulls the image; gives the command of a run, or why there is none."""
    def ces(*argv):
        work.give()
        run(*work.shell(str(CES), *argv), env={**work.environment(), **env})
    if not CES.exists():
        return f"{CES} is not built (cargo build --release)"
    try:
        ces("pull", f"oci:{FIXTURES}/demo:root")
        ces("run", "--project", "bench", "localhost/root", "/bin/true")
    except RuntimeError as error:
        return str(error)
    return None


def prepare_bundle(work, env, root):
    """A ready bundle for crun and runc: ours if possible, else one as hardened; says which."""
    target = work.path / "bundle"
    try:
        if not CES.exists():
            raise RuntimeError("not built")
        argv = [str(CES), "bundle", "--project", "bench", "--entrypoint", "/bin/true", "localhost/root", str(target)]
        work.give()
        run(*work.shell(*argv), env={**work.environment(), **env})
        if (target / "config.json").exists():
            return target, "from `ces bundle`"
    except RuntimeError:
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copytree(root, target / "rootfs", symlinks=True)
    who = (work.user.pw_uid, work.user.pw_gid) if work.user else (os.getuid(), os.getgid()) if os.getuid() else None
    bundle.write(target, who)
    return target, "written for the benchmark: `ces bundle` gave none"


def measure(options):
    if fixtures_can_be_made():
        run(REPO / "scripts/demo-image", FIXTURES / "demo", "--variants")
    with Workplace(options.user) as work:
        here, env = work.path, {}
        root = here / "root"
        root.mkdir()
        layer = manifest_of(FIXTURES / "demo", "root")["layers"][0]
        run("tar", "-C", root, "--no-same-owner", "-xzf", blob(FIXTURES / "demo", layer))
        env = ces_environment(here)
        why_not = prepare_ces(work, env)
        bundle_dir, origin = prepare_bundle(work, env, root)
        rootless = bool(work.user) or os.geteuid() != 0

        say("loading the image into podman's throw-away store")
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        cgroup = [] if rootless else ["--cgroup-parent", f"/{work.cgroup}"]
        podman = work.podman("run", "--rm", "--network", "none", *limits, *cgroup, "localhost/demo:root", "/bin/true")
        work.give()
        copy = ["skopeo", "copy", f"oci:{FIXTURES}/demo:root", f"oci-archive:{here}/root.tar:localhost/demo:root"]
        run(*work.shell(*copy), env=work.environment())
        try:
            run(*work.shell(*work.podman("load", "-i", f"{here}/root.tar")), env=work.environment())
        except RuntimeError as error:
            say(f"podman cannot load the image: {error}")

        as_root = ["--user", "--map-root-user"] if rootless else []
        no_cgroup = ["--cgroup-manager=disabled"] if rootless else []
        peers = {
            "unshare + chroot (floor)": ["unshare", *as_root, *NAMESPACES, "chroot", str(root), "/bin/true"],
            "bwrap": ["bwrap", "--unshare-all", "--cap-drop", "ALL", "--bind", str(root), "/", "--proc", "/proc",
                      "--dev", "/dev", "/bin/true"],
            "crun, bundle ready": ["crun", "--root", f"{here}/crun", *no_cgroup, "run", "-b", str(bundle_dir), "bench-{n}"],
            "runc, bundle ready": ["runc", "--root", f"{here}/runc", "run", "-b", str(bundle_dir), "bench-{n}"],
            "podman + crun": podman,
        }
        if why_not is None:
            peers["ces"] = [str(CES), "run", "--quiet", "--project", "bench", "localhost/root", "/bin/true"]
        if options.before:
            # Stores of other versions may hold other documents: one of its own.
            before = [os.path.abspath(options.before), "--root", f"{here}/ces-before"]
            work.give()
            run(*work.shell(*before, "pull", f"oci:{FIXTURES}/demo:root"), env={**work.environment(), **env})
            peers["ces, before"] = [*before, "run", "--quiet", "--project", "bench", "localhost/root", "/bin/true"]
        if options.only:
            wanted = [word.strip() for word in options.only.split(",")] + ["(floor)"]
            peers = {name: argv for name, argv in peers.items() if any(word in name for word in wanted)}

        counts = [int(n) for n in options.at_once.split(",") if int(n) > 0]
        say(f"measuring: {len(peers)} peers in turn, {options.rounds} rounds")
        where = machine()
        results = work.measure({
            "rounds": options.rounds, "warm_up": 2, "at_once": counts, "env": env,
            "peers": [{"name": name, "argv": [argv]} for name, argv in peers.items()],
        })
        tidy_outputs(work, here)

        who = f"as the ordinary user {options.user}" if options.user else ("as root" if os.geteuid() == 0 else "as an ordinary user")
        print(f"start to exit of /bin/true, {who}; medians of {options.rounds} rounds\n{where}\nbundle {origin}\n")
        columns = [
            ("ms", lambda r: median(r["wall"]) * 1e3, "{:.1f}"),
            ("cpu ms", lambda r: median(r["cpu"]) * 1e3, "{:.1f}"),
        ]
        for count in counts:
            columns.append((f"{count} at once, ms",
                            lambda r, c=str(count): median(r["at_once"].get(c, [])) and median(r["at_once"][c]) * 1e3, "{:.0f}"))
        table(results, columns, "unshare + chroot (floor)")
        if why_not:
            print(f"| ces | not measured: {why_not}")
        return results


def tidy_outputs(work, here):
    """Removes the empty outputs directories of the measured runs, by the ids in their records."""
    homes = [work.path / "home", os.path.expanduser(f"~{work.user.pw_name}") if work.user else os.path.expanduser("~root")]
    for record in here.glob("ces*/log/runs/*.json"):
        for home in homes:
            try:
                os.rmdir(f"{home}/outputs_{record.stem}")
            except OSError:
                pass
