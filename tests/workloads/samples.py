"""The samples: what a researcher does with each image, and what must come of it. One function a sample."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import clients
import images

FIGURE = """
import csv, matplotlib, numpy
matplotlib.use("Agg")
import matplotlib.pyplot as plt
nights = numpy.array([int(row["nights"]) for row in csv.DictReader(open("/safe_data/ward.csv"))])
plt.plot(nights); plt.title(f"mean {nights.mean():.1f}"); plt.savefig("/safe_outputs/figure.png"); print(nights.mean())
"""
CELL = """%matplotlib inline
import csv, matplotlib.pyplot as plt
plt.plot([int(row['nights']) for row in csv.DictReader(open('/safe_data/ward.csv'))])"""
NOTEBOOK = json.dumps({
    "cells": [{"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": CELL}],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}}, "nbformat": 4, "nbformat_minor": 4})
PNG = b"\x89PNG\r\n\x1a\n"


class Failed(Exception):
    """It did not work; the text is for the table."""


class Session:
    """One caller on this host (root through sudo, or the ordinary user), with a home and safe data."""

    def __init__(self, who, ces, user, root):
        self.who, self.ces, self.user, self.root = who, ces, user, root
        self.home = pathlib.Path(user.pw_dir)
        self.data = self.home / "safe_data"
        self.said = ""

    def command(self, *words):
        """How this caller calls `ces`."""
        env = ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C.UTF-8"]
        if self.who == "root":
            env += ["HOME=/root", f"SUDO_UID={self.user.pw_uid}", f"SUDO_GID={self.user.pw_gid}",
                    f"SUDO_USER={self.user.pw_name}", "SUDO_COMMAND=ces"]
            return [*env, self.ces, *words]
        ids = ["setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--init-groups"]
        return [*ids, *env, f"HOME={self.user.pw_dir}", f"CES_ROOT={self.root}", self.ces, *words]

    def call(self, *words, timeout=600):
        """`ces` to its end; gives what it said on standard output."""
        done = subprocess.run(self.command(*words), cwd=self.home, capture_output=True, text=True, timeout=timeout,
                              stdin=subprocess.DEVNULL)
        self.said = done.stderr
        if done.returncode != 0:
            raise Failed(self.reason(done.returncode, done.stdout + done.stderr))
        return done.stdout

    @staticmethod
    def reason(code, text):
        """The first error of ces, else the payload's last line."""
        errors = re.findall(r"^error: (.*)$", text, re.M)
        plain = re.sub("\x1b\\[[0-9;]*m", "", text)
        lines = [line for line in plain.splitlines() if line and not line.startswith(("ces: ", "warning: ", "note: "))]
        return errors[0] if errors else f"exit {code}: {lines[-1] if lines else 'no word'}"

    def run(self, image, *words, options=(), timeout=600):
        return self.call("run", *options, f"localhost/{image}", *words, timeout=timeout)

    def put(self, name, text):
        """A file of the researcher's safe data; gives its place in the container."""
        path = self.data / name
        path.write_text(text)
        os.chown(path, self.user.pw_uid, self.user.pw_gid)
        return f"/safe_data/{name}"

    def outputs(self):
        """The outputs directory of the last run, which was given to its owner last: names of one second are in any order."""
        return max(self.home.glob("outputs_*"), key=lambda path: path.stat().st_ctime_ns)

    def output(self, name, begins=b""):
        path = self.outputs() / name
        if not path.is_file():
            raise Failed(f"no {name} in the outputs")
        found = path.stat()
        if found.st_uid != self.user.pw_uid:
            raise Failed(f"{name} belongs to {found.st_uid}")
        text = path.read_bytes()
        if not text.startswith(begins) or not text:
            raise Failed(f"{name} is not what it should be")
        return text

    def note(self, text):
        """Something for the maintainers to know, not for the table."""
        print(f"note: {self.who}: {text}", file=sys.stderr)

    @contextlib.contextmanager
    def service(self, image, *words, options=()):
        """A run that stays until it is stopped."""
        log = open(self.root.parent / f"{self.who}-{image}.log", "w+", encoding="utf-8")
        argv = self.command("run", *options, f"localhost/{image}", *words)
        running = subprocess.Popen(argv, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

        def said():
            log.seek(0)
            return log.read()
        try:
            yield running
        except (RuntimeError, OSError) as error:
            code = running.poll()
            print(f"--- what {image} said\n{said()}---", file=sys.stderr)
            raise Failed(self.reason(code, said()) if code not in (None, 0) else str(error).splitlines()[-1]) from error
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
            log.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def expect(condition, otherwise):
    if not condition:
        raise Failed(otherwise)


def python_figure(session):
    """Python, numpy and matplotlib: a figure of the safe data"""
    script = session.put("figure.py", FIGURE)
    expect(session.run("figure", "python3", script).strip() == "3.0", "another mean")
    session.output("figure.png", PNG)


def r_plot(session):
    """R: a plot of the safe data"""
    script = session.put("plot.R", """
d <- read.csv("/safe_data/ward.csv")
pdf("/safe_outputs/plot.pdf"); boxplot(nights ~ ward, data = d); invisible(dev.off())
library(parallel); cat(sum(unlist(mclapply(1:4, function(x) x * x, mc.cores = 2))), mean(d$nights), "\\n")
""")
    expect(session.run("r", "Rscript", script).split() == ["30", "3"], "another mean")
    session.output("plot.pdf", b"%PDF")


def r_prompt(session):
    """R at its prompt, at a terminal (`-it`): a line recalled, Ctrl-C, a plot, `q()`"""
    terminal = clients.Terminal(session.command("-q", "run", "-it", "localhost/r", "R", "--quiet", "--no-save"), session.home)
    try:
        terminal.shows("> ")
        terminal.types("cat('total', sum(1:10), '\\n')\r")
        terminal.shows("total 55")
        terminal.shows("> ")
        terminal.types("\x1b[A\r")
        terminal.shows("total 55")
        terminal.shows("> ")
        terminal.types("cat('beg', 'un\\n', sep = ''); Sys.sleep(300)\r")
        terminal.shows("begun")
        terminal.types("\x03")
        terminal.shows("> ")
        terminal.types("cat(options()$width, '\\n'); png('/safe_outputs/p.png', type = 'cairo'); plot(1:3); invisible(dev.off())\r")
        terminal.shows("80")
        terminal.shows("> ")
        terminal.types("q(status = 3)\r")
        status = terminal.ends()
        expect(status == 3, f"it ended with {status}")
    finally:
        terminal.program.kill()
    session.output("p.png", PNG)


def octave(session):
    """Octave: linear algebra, and a plot by gnuplot"""
    script = session.put("solve.m", """
A = [4 1; 1 3]; x = A \\ [1; 2]; printf("%.4f %.4f\\n", x);
graphics_toolkit("gnuplot"); f = figure("visible", "off"); plot(1:10, (1:10).^2); print(f, "/safe_outputs/plot.png", "-dpng");
""")
    expect(session.run("octave", "octave-cli", "--no-window-system", script).split() == ["0.0909", "0.6364"], "another solution")
    session.output("plot.png", PNG)


def query(port, text):
    env = {"PATH": os.environ["PATH"], "PGPASSWORD": "test", "PGCONNECT_TIMEOUT": "5"}
    done = subprocess.run(["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-Atc", text], env=env,
                          capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "psql failed")
    return done.stdout.strip()


def postgres(session, options):
    place = session.home / f"pgdata{options[0]}"
    place.mkdir()
    os.chown(place, session.user.pw_uid, session.user.pw_gid)
    options = [*options, "-v", f"./{place.name}:/var/lib/postgresql/data", "-e", "POSTGRES_PASSWORD=test"]
    for attempt in ("create", "find again"):
        port = free_port()
        with session.service("postgres", options=[*options, "-p", f"{port}:5432"]) as running:
            if attempt == "create":
                clients.patiently(running, lambda: query(port, "create table t as select generate_series(1, 1000) as n"))
            total = clients.patiently(running, lambda: query(port, "select sum(n) from t"))
            expect(total == "500500", f"the sum is {total}")
    return place


def postgres_root(session):
    """PostgreSQL, root entry point that drops to uid 999 (`--profile service`), data in `-v`, psql through `-p`"""
    place = postgres(session, ["--profile", "service"])
    session.note(f"data of uid {place.stat().st_uid}")


def postgres_user(session):
    """PostgreSQL, the same image with `--user postgres`: no capability, and the data stays yours"""
    place = postgres(session, ["--user", "postgres"])
    owners = {path.stat().st_uid for path in place.rglob("*")}
    expect(owners == {session.user.pw_uid}, f"the data belongs to {sorted(owners)}")


def jupyter(session):
    """JupyterLab as uid 1000 through `-p`: HTTP, and a kernel by WebSocket that makes a figure"""
    port, token = free_port(), "a-password"
    with session.service("jupyter", options=["-p", f"{port}:8888", "-e", f"JUPYTER_TOKEN={token}"]) as running:
        status, text = clients.patiently(running, lambda: clients.ask(port, "GET", f"/lab?token={token}"))
        expect(status == 200 and "JupyterLab" in text, f"the page is {status}")
        status, _ = clients.ask(port, "GET", "/api/contents", None, "another")
        expect(status == 403, f"without the password the answer is {status}")
        code = ("import os, matplotlib; matplotlib.use('Agg'); import matplotlib.pyplot as plt; plt.plot([1, 2]);"
                "plt.savefig('/safe_outputs/figure.png'); print(os.getuid(), 6 * 7)")
        printed = clients.execute(port, token, code)
        expect(printed.split() == ["1000", "42"], f"the kernel said {printed}")
    session.output("figure.png", PNG)


def browser(session):
    """JupyterLab's page in headless Chromium, its scripts run"""
    if not clients.browser():
        raise Failed("not tried: this host has no Chromium")
    port, token = free_port(), "a-password"
    with session.service("jupyter", options=["-p", f"{port}:8888", "-e", f"JUPYTER_TOKEN={token}"]) as running:
        clients.patiently(running, lambda: clients.ask(port, "GET", "/api"))
        page = clients.page(f"http://127.0.0.1:{port}/lab?token={token}", session.root.parent / f"browser-{session.who}")
        expect("jp-Launcher" in page or "jp-LabShell" in page, f"JupyterLab's shell is not on the page: {' '.join(page.split())[:200]}")


def notebook(session):
    """A notebook executed as a batch job (nbconvert), its figure in the result"""
    session.put("analysis.ipynb", NOTEBOOK)
    session.run("jupyter", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--output-dir", "/safe_outputs",
                "/safe_data/analysis.ipynb")
    expect(b"image/png" in session.output("analysis.ipynb"), "no figure in the notebook")


def rocker(session):
    """A server that must start as root and drops to another user (`--profile service`), as Rocker's images do"""
    port = free_port()
    with session.service("rocker", options=["--profile", "service", "-p", f"{port}:8787",
                                            "--mount", "type=tmpfs,destination=/var/lib/rstudio-server"]) as running:
        status, text = clients.patiently(running, lambda: clients.ask(port, "GET", "/"))
        expect(status == 200 and "uid 1000" in text, f"the page is {status}: {text[:80]}")


def rocker_init(session):
    """Rocker's root entry point, command for command (`--profile service`): `usermod`, `groupmod`, `chpasswd`, `adduser`, a log-in through PAM, `su`, `runuser`, `sudo`, `gosu`"""
    port, asked = free_port(), {"USER": "ann", "PASSWORD": "a-password", "USERID": "1234", "GROUPID": "1235"}
    options = [word for name, value in asked.items() for word in ("-e", f"{name}={value}")]
    with session.service("rocker-init", options=["--profile", "service", "-p", f"{port}:8787", *options]) as running:
        status, text = clients.patiently(running, lambda: clients.ask(port, "GET", "/"))
    expect(status == 200 and "uid 1234 gid 1235, ann sudo staff, ann ann ann ann, ann:ann" in text, f"the page is {status}: {text[:120]}")


def jupyter_start(session):
    """Jupyter's root entry point, command for command (`--profile service --user root`): `userdel`, `useradd`, `usermod`, `sudoers`, and `sudo` starts the command"""
    options = ["--profile", "service", "--user", "root", "-e", "CHOWN_HOME=yes", "-e", "NB_USER=ann",
               "-e", "CHOWN_EXTRA=/safe_outputs"]
    say = "echo $(id -un) $(id -u) $(id -g) $HOME $(cat settings) > /safe_outputs/who; cat /safe_outputs/who"
    session.run("jupyter-start", "sh", "-c", say, options=[*options, "-e", "NB_UID=1234"])
    expect(session.output("who").split() == b"ann 1234 100 /home/ann kept".split(), f"it said {session.output('who')}")
    session.run("jupyter-start", "sh", "-c", say, options=options)
    expect(session.output("who").split() == b"ann 1001 100 /home/ann kept".split(), f"it said {session.output('who')}")
    # Without root it is the image's own user, as on every host.
    session.run("jupyter-start", "sh", "-c", "id -un > /safe_outputs/who")
    expect(session.output("who") == b"jovyan\n", f"it said {session.output('who')}")


def java(session):
    """Java: compile and run, threads, a sub-process, a heap told by JAVA_TOOL_OPTIONS (it does not see the limit itself)"""
    source = session.put("Job.java", """
import java.util.stream.*;
public class Job {
    public static void main(String[] a) throws Exception {
        long sum = LongStream.range(0, 1_000_000).parallel().filter(n -> n % 3 == 0).sum();
        int code = new ProcessBuilder("true").start().waitFor();
        System.out.println(sum + " " + code + " " + (Runtime.getRuntime().maxMemory() <= 300L << 20));
    }
}
""")
    told = ["--memory", "1g", "-e", "JAVA_TOOL_OPTIONS=-XX:MaxRAM=1g"]
    expect(session.run("java", "java", source, options=told).split() == ["166666833333", "0", "true"], "another sum")
    # What it takes for itself when it is told nothing: a quarter of the host, whatever the run may have.
    flags = session.run("java", "java", "-XX:+PrintFlagsFinal", "-version", options=["--memory", "1g"])
    heap = int(re.search(r"\bMaxHeapSize\s*=\s*(\d+)", flags).group(1))
    session.note(f"with --memory 1g and without that variable the heap may grow to {heap >> 20} MiB")


def node(session):
    """Node: files, worker threads, a server and its client on loopback, a heap told by NODE_OPTIONS"""
    script = session.put("job.js", """
const { Worker } = require('worker_threads'), http = require('http'), fs = require('fs');
const rows = fs.readFileSync('/safe_data/ward.csv', 'utf8').trim().split('\\n').length;
new Worker('require("worker_threads").parentPort.postMessage(6 * 7)', { eval: true }).on('message', n => {
  const server = http.createServer((_, res) => res.end(String(n))).listen(0, '127.0.0.1', () =>
    http.get(`http://127.0.0.1:${server.address().port}`, res => { let t = ''; res.on('data', d => t += d);
      res.on('end', () => { fs.writeFileSync('/safe_outputs/n', t); console.log(rows, t); server.close(); }); }));
});
""")
    expect(session.run("node", "node", script).split() == ["4", "42"], "another answer")
    session.output("n", b"42")
    size = "console.log(v8.getHeapStatistics().heap_size_limit / 2 ** 20)"
    told = ["--memory", "1g", "-e", "NODE_OPTIONS=--max-old-space-size=512"]
    expect(float(session.run("node", "node", "-e", size, options=told)) < 700, "a larger heap than it was told")
    session.note(f"with --memory 1g and without that variable the heap may grow to {session.run('node', 'node', '-e', size, options=['--memory', '1g']).strip()} MiB")


def torch_loader(session):
    """PyTorch from pip: training with DataLoader workers, which pass tensors through /dev/shm"""
    script = session.put("train.py", """
import torch
from torch.utils.data import DataLoader, TensorDataset
x = torch.randn(2000, 3, 64, 64); y = x.mean(dim=(1, 2, 3))
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 1)); step = torch.optim.SGD(model.parameters(), lr=1e-4)
for a, b in DataLoader(TensorDataset(x, y), batch_size=500, num_workers=2):
    loss = ((model(a)[:, 0] - b) ** 2).mean(); step.zero_grad(); loss.backward(); step.step()
torch.save(model.state_dict(), "/safe_outputs/model.pt"); print("trained")
""")
    expect("trained" in session.run("torch", "python3", script, options=["--memory", "2g"]), "not trained")
    session.output("model.pt")


def torch_distributed(session):
    """PyTorch from pip: two processes reduce over loopback (torch.distributed, gloo)"""
    script = session.put("reduce.py", """
import os, torch, torch.distributed as dist, torch.multiprocessing as mp
def work(rank):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    dist.init_process_group("gloo", rank=rank, world_size=2)
    t = torch.ones(1000) * (rank + 1); dist.all_reduce(t)
    if rank == 0: print("sum", int(t.sum()))
    dist.destroy_process_group()
if __name__ == "__main__": mp.spawn(work, nprocs=2)
""")
    expect("sum 3000" in session.run("torch", "python3", script), "another sum")


def torch_model(session):
    """A model of the safe data loaded offline (`HF_HUB_OFFLINE=1`)"""
    maker = session.put("make.py", "import torch; torch.save(torch.nn.Linear(4, 1).state_dict(), '/safe_outputs/model.pt')")
    session.run("torch", "python3", maker)
    (session.data / "model.pt").write_bytes(session.output("model.pt"))
    script = session.put("load.py", """
import os, torch
model = torch.nn.Linear(4, 1); model.load_state_dict(torch.load("/safe_data/model.pt"))
print(os.environ["HF_HUB_OFFLINE"], model(torch.ones(2, 4)).shape[0])
""")
    expect(session.run("torch", "python3", script).split() == ["1", "2"], "another answer")


def script(session):
    """A shell script as entry point, by a path relative to the working directory"""
    expect(session.run("script").split("\n")[:2] == ["tool in /opt/tool with default", "library beside it"], "another text")
    arguments = session.home / "arguments"
    arguments.write_text("one argument\nanother\n")
    expect("with one argument another" in session.call("run", "--arg-file", str(arguments), "localhost/script"), "other arguments")


def hints(session):
    """An image with VOLUME (one over /scratch), HEALTHCHECK and ONBUILD"""
    options = [] if session.who == "root" else []
    expect(session.run("hints", options=options).split() == ["file"], "the volume cannot be written, or a health check ran")


GUIDE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs/researchers.md"


@contextlib.contextmanager
def registry(place, layout):
    """Debian's docker-registry on loopback with the guide's image, as the mirror that a site names in its policy."""
    port, place = free_port(), place / f"registry-{free_port()}"
    place.mkdir()
    (place / "config.yml").write_text(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
                                      f"storage: {{filesystem: {{rootdirectory: {place}/store}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n")
    env = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
    server = subprocess.Popen(["docker-registry", "serve", place / "config.yml"], env=env, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        clients.patiently(server, lambda: clients.ask(port, "GET", "/v2/"))
        subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:jupyter",
                        f"docker://127.0.0.1:{port}/lab/notebook:1.0"], check=True)
        os.makedirs("/etc/ces", exist_ok=True)
        pathlib.Path("/etc/ces/policy.toml").write_text(
            f'contact = "Information Governance, ext. 1234"\n[registries]\nallow = ["ghcr.io", "localhost"]\n'
            f'[registries."ghcr.io"]\nmirror = "http://127.0.0.1:{port}"\n')
        yield
    finally:
        pathlib.Path("/etc/ces/policy.toml").unlink(missing_ok=True)
        server.terminate()
        server.wait()


def guide(session):
    """Every command of docs/researchers.md, in order: a figure out of a notebook"""
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    expect(len(blocks) > 8, f"{len(blocks)} blocks of commands were found")
    session.put("figure.py", FIGURE)
    session.put("analysis.ipynb", NOTEBOOK)
    (session.home / "token").write_text("a-token")
    # `ces` as this caller has it: through sudo, or directly.
    programs = session.root.parent / "bin"
    programs.mkdir(exist_ok=True)
    words = " ".join(f"'{word}'" for word in session.command() if word != session.ces)
    for name in ("ces", "ces-run", "ces-pull"):
        link = programs / "real" / name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(session.ces)
        (programs / name).write_text(f"#!/bin/sh\nexec {words} {link} \"$@\"\n")
        (programs / name).chmod(0o755)
    script = "set -eu\ncd ~\n" + "\n".join(f"echo 'block {at}'\n{block}" for at, block in enumerate(blocks, 1)) + "\nwait\n"
    env = {"PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": session.user.pw_dir, "LC_ALL": "C.UTF-8"}
    with registry(session.root.parent, images.LAYOUT):
        done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=500,
                              stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        print(f"--- the guide said\n{done.stdout}{done.stderr}---", file=sys.stderr)
        last = re.findall(r"^block \d+$", done.stdout, re.M)[-1:]
        raise Failed(f"{' '.join(last)}: {session.reason(done.returncode, done.stdout + done.stderr)}")
    for words in ("hello", "NAME=a name with spaces", "COLOUR=blue", '"version"'):
        expect(words in done.stdout, f"{words} was not said")
    found = sorted(session.home.glob("outputs_*/figure.png"))
    expect(found and found[-1].read_bytes().startswith(PNG), "no figure.png")
    executed = sorted(session.home.glob("outputs_*/analysis.ipynb"))
    expect(executed and b"image/png" in executed[-1].read_bytes(), "no figure in the notebook")
    expect(executed[-1].stat().st_uid == session.user.pw_uid, "the notebook is not the researcher's")


# name, image, the function; in the order of the table
SAMPLES = [
    (guide, "jupyter"), (script, "script"), (hints, "hints"), (python_figure, "figure"), (notebook, "jupyter"), (jupyter, "jupyter"),
    (browser, "jupyter"), (r_plot, "r"), (r_prompt, "r"), (octave, "octave"), (postgres_root, "postgres"), (postgres_user, "postgres"),
    (rocker, "rocker"), (rocker_init, "rocker-init"), (jupyter_start, "jupyter-start"), (java, "java"), (node, "node"),
    (torch_loader, "torch"), (torch_distributed, "torch"), (torch_model, "torch"),
]

# What is refused to whom: the words by which it is known, and the reason for the table. Nothing is, at present.
REFUSED = {}
