"""Clients on the host, with the standard library alone: HTTP, WebSocket (RFC 6455), a terminal, a browser without a screen."""

import base64
import contextlib
import fcntl
import http.client
import json
import os
import pty
import secrets
import select
import shutil
import socket
import struct
import subprocess
import termios
import time


def patiently(running, attempt, seconds=90):
    """Tries until it works, as long as the process runs: a service needs a while to start."""
    until = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > until or running.poll() is not None:
                raise RuntimeError(f"no answer: {error}") from error
            time.sleep(0.2)


def ask(port, method, path, body=None, token=None):
    """One HTTP request; gives status and text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        headers = {"Authorization": f"token {token}"} if token else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


class WebSocket:
    """Just enough to speak with a kernel: text frames, masked as a client's must be."""

    def __init__(self, port, path, token):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.socket.sendall((f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nAuthorization: token {token}\r\n\r\n").encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.exactly(1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise RuntimeError(f"no WebSocket: {head.decode(errors='replace').splitlines()[0]}")

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise RuntimeError("the WebSocket was closed")
            data += more
        return data

    def send(self, text):
        data, mask = text.encode(), secrets.token_bytes(4)
        length = struct.pack("!BH", 0x80 | 126, len(data)) if len(data) < 65536 else struct.pack("!BQ", 0x80 | 127, len(data))
        self.socket.sendall(b"\x81" + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data)))

    def receive(self):
        """The next text message; others are passed over."""
        message = b""
        while True:
            first, second = self.exactly(2)
            length = second & 127
            if length == 126:
                length = struct.unpack("!H", self.exactly(2))[0]
            elif length == 127:
                length = struct.unpack("!Q", self.exactly(8))[0]
            data = self.exactly(length)
            if first & 15 == 8:
                raise RuntimeError("the server closed the WebSocket")
            if first & 15 in (0, 1):
                message += data
                if first & 128:
                    return message.decode()

    def close(self):
        self.socket.close()


def execute(port, token, code):
    """Has a new kernel of a Jupyter server execute code; gives what it printed."""
    status, text = ask(port, "POST", "/api/kernels", {}, token)
    if status != 201:
        raise RuntimeError(f"no kernel: {status} {text[:200]}")
    kernel = json.loads(text)["id"]
    channel = WebSocket(port, f"/api/kernels/{kernel}/channels", token)
    header = {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "s", "date": "", "version": "5.3"}
    channel.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "channel": "shell",
                             "content": {"code": code, "silent": False}}))
    printed = ""
    while True:
        message = json.loads(channel.receive())
        if message.get("parent_header", {}).get("msg_id") != "1":
            continue
        if message["msg_type"] == "stream":
            printed += message["content"]["text"]
        elif message["msg_type"] == "error":
            raise RuntimeError("\n".join(message["content"]["traceback"])[-400:])
        elif message["msg_type"] == "execute_reply":
            channel.close()
            ask(port, "DELETE", f"/api/kernels/{kernel}", None, token)
            return printed


class Terminal:
    """A person's terminal, with a program in it."""

    def __init__(self, argv, cwd):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.program = subprocess.Popen(["setsid", "--ctty", "--", *argv], cwd=cwd, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.shown = ""

    def types(self, keys):
        os.write(self.master, keys.encode())

    def shows(self, text, seconds=60):
        """Waits until the text is shown, after what was waited for before; gives what was shown until then."""
        until = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self.master], [], [], max(0, until - time.monotonic()))
            try:
                more = os.read(self.master, 65536) if ready else b""
            except OSError:  # the program has ended, and its terminal with it
                more = b""
            if not more:
                raise RuntimeError(f"{text!r} is not shown, but {self.shown[-200:]!r}")
            self.shown += more.decode(errors="replace")
        before, self.shown = self.shown.split(text, 1)
        return before

    def ends(self):
        """The exit status; the program is not left behind."""
        try:
            return self.program.wait(30)
        finally:
            self.program.kill()
            os.close(self.master)


def browser():
    """Chromium, if this host has one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or os.environ.get("CHROMIUM")


def page(url, directory):
    """The page that a browser without a screen makes of `url`, after its scripts have run."""
    argv = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={directory}",
            "--virtual-time-budget=20000", "--dump-dom", url]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    return done.stdout
