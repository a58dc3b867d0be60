#!/usr/bin/env python3
"""Unpacks a Debian package into an empty root, and runs its service as systemd would: debian.py PACKAGE.

Nothing is installed on this machine, and no systemd has to run."""

import gzip
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

# What `systemd-analyze security` may find, in tenths: 0 is best.
EXPOSURE = 20
# For what should not take long.
PATIENCE = 60


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))}\nfails with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def check(what, holds, shown=""):
    if not holds:
        sys.exit(f"{what}: no\n{shown}")
    print(f"ok: {what}")


def files(root, control):
    modes = {
        "usr/bin/tsoracle": 0o755,
        "usr/lib/systemd/system/tsoracle.service": 0o644,
        "usr/lib/sysusers.d/tsoracle.conf": 0o644,
        "etc/tsoracle/tsoracle.toml": 0o644,
        "usr/share/bash-completion/completions/tsoracle": 0o644,
        "usr/share/zsh/vendor-completions/_tsoracle": 0o644,
        "usr/share/fish/vendor_completions.d/tsoracle.fish": 0o644,
        "usr/share/doc/tsoracle/copyright": 0o644,
        "usr/share/doc/tsoracle/OPERATIONS.md": 0o644,
        "usr/share/tsoracle/alerts.yml": 0o644,
        "usr/share/tsoracle/dashboard.json": 0o644,
    }
    for name, mode in modes.items():
        found = (root / name).stat().st_mode & 0o7777
        check(f"/{name} has mode {mode:o}", found == mode, f"{found:o}")
    help_text = run(root / "usr/bin/tsoracle", "--help")
    listed = help_text.split("Commands:\n")[1].split("\n\n")[0]
    commands = re.findall(r"^  ([a-z][a-z-]*)", listed, re.M)
    pages = ["tsoracle"] + [f"tsoracle-{command}" for command in commands if command != "help"]
    for page in pages:
        text = gzip.open(root / f"usr/share/man/man1/{page}.1.gz", "rt", encoding="utf-8").read()
        check(f"there is a page {page}(1)", f".TH {page} " in text, text[:200])
    operations = (root / "usr/share/doc/tsoracle/OPERATIONS.md").read_text()
    named = re.findall(r"`(/usr/share/tsoracle[^`]*)`, as `([^`]*)` and `([^`]*)`", operations)
    there = [root / place.lstrip("/") / name for place, *names in named for name in names]
    check("what OPERATIONS.md says is in the package is there", there and all(path.is_file() for path in there), there)
    conffiles = (control / "conffiles").read_text().split()
    check("the config file is the operator's", conffiles == ["/etc/tsoracle/tsoracle.toml"], conffiles)


def scripts(control, scratch):
    """Runs the maintainer scripts where the programs that they call write down what they were asked."""
    tools, calls = scratch / "tools", scratch / "calls"
    tools.mkdir()
    for tool in ("systemctl", "systemd-sysusers"):
        (tools / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >>"{calls}"\n')
        (tools / tool).chmod(0o755)
    calls.touch()
    environment = {"PATH": f"{tools}:/usr/bin:/bin"}
    for script, argument in [("postinst", "configure"), ("prerm", "remove"), ("postrm", "remove"), ("postrm", "purge")]:
        run(control / script, argument, env=environment)
    called = calls.read_text()
    check("the user is made at installation", "systemd-sysusers tsoracle.conf\n" in called, called)
    check("no script removes a state", "rm" not in (control / "postrm").read_text().replace("postrm", "").split())


def unit(root, scratch):
    """Checks the unit, and returns its settings."""
    text = (root / "usr/lib/systemd/system/tsoracle.service").read_text()
    # With the binary where it was unpacked; systemd looks for it.
    here = scratch / "tsoracle.service"
    here.write_text(text.replace("/usr/bin/tsoracle", f"{root}/usr/bin/tsoracle"))
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True)
    check("systemd-analyze verify finds nothing", said.returncode == 0 and not said.stderr, said.stderr)
    run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", here)
    print(f"ok: systemd-analyze security finds {EXPOSURE / 10} at most")
    users = scratch / "users"
    (users / "etc").mkdir(parents=True)
    run("systemd-sysusers", f"--root={users}", root / "usr/lib/sysusers.d/tsoracle.conf")
    check("sysusers makes the user of the service", "tsoracle:" in (users / "etc/passwd").read_text())
    settings = {}
    for name, value in re.findall(r"^([A-Za-z]+)=(.*)$", text, re.M):
        settings.setdefault(name, []).append(value)
    return settings


class Manager:
    """What systemd is to the service."""

    def __init__(self, scratch):
        self.path = scratch / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(PATIENCE)
        self.told = []

    def until(self, wanted):
        while True:
            message = self.socket.recv(4096).decode().splitlines()
            self.told += message
            if wanted in message:
                return message


def service(root, scratch, settings):
    """Runs ExecStart until it stops."""
    [line], [reload] = settings["ExecStart"], settings["ExecReload"]
    command = line.replace("/usr/bin/", f"{root}/usr/bin/").replace("/etc/tsoracle/", f"{root}/etc/tsoracle/")
    calls = scratch / "calls-of-system"
    manager = Manager(scratch)
    config = (root / "etc/tsoracle/tsoracle.toml").read_text()
    check("the status page is for this machine", '\nadmin-listen = "127.0.0.1:50554"\n' in config, config)
    [state] = re.findall(r'^path = "(.*)"$', config, re.M)
    restore = f"sudo -u {settings['User'][0]} tsoracle restore "
    documents = [run(f"{root}/usr/bin/tsoracle", "restore", "--help"), (root / "usr/share/doc/tsoracle/OPERATIONS.md").read_text()]
    for document in documents:
        lines = [line for line in re.sub(r" \\\n *", " ", document).splitlines() if restore in line]
        check("a restore is by the service's user, into what it serves", lines and all(f"file:{state}" in line for line in lines), lines)
    environment = {
        "NOTIFY_SOCKET": str(manager.path),
        "WATCHDOG_USEC": "1000000",
        "TSORACLE_ADMIN_LISTEN": f"unix:{scratch}/admin",
        "TSORACLE_LISTEN": f"unix:{scratch}/socket",
        "TSORACLE_DRIVER": f"file:{scratch}/state",
    }
    traced = ["strace", "--follow-forks", "--summary-only", "--summary-columns=name", f"--output={calls}", "--interruptible=never"]
    process = subprocess.Popen(traced + shlex.split(command), env=environment, cwd=scratch, stdout=subprocess.PIPE, text=True)
    try:
        manager.until("READY=1")
        said = process.stdout.readline()
        check("it serves", said.startswith("tsoracle serving on unix:"), said)
        [pid] = run("pgrep", "-P", str(process.pid)).split()
        stamp = run(f"{root}/usr/bin/tsoracle", "ts", "--endpoint", f"unix:{scratch}/socket")
        check("a timestamp is given", int(stamp) > 0)
        page = run("curl", "--silent", "--fail", "--unix-socket", f"{scratch}/admin", "http://localhost/")
        check("it has a status page", "<title>tsoracle</title>" in page, page)
        manager.until("WATCHDOG=1")
        manager.until("WATCHDOG=1")
        run("sh", "-c", reload.replace("$MAINPID", pid))
        message = manager.until("RELOADING=1")
        check("reloading has its time", any(part.startswith("MONOTONIC_USEC=") for part in message), message)
        manager.until("READY=1")
        os.kill(int(pid), signal.SIGTERM)
        manager.until("STOPPING=1")
        check("it stops without an error", process.wait(PATIENCE) == 0)
    finally:
        process.kill()
    steps = [part for part in manager.told if part in ("READY=1", "RELOADING=1", "STOPPING=1")]
    check("it was ready, reloaded, and stopped", steps == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"], manager.told)
    return calls.read_text().split()


def expand(name):
    """The system calls of a set of systemd's, with those of the sets in it."""
    found = set()
    for line in run("systemd-analyze", "syscall-filter", name).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= expand(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def filtered(settings, calls):
    allowed = set()
    for names in settings["SystemCallFilter"]:
        for name in names.lstrip("~").split():
            allowed = allowed - expand(name) if names.startswith("~") else allowed | expand(name)
    used = {call for call in calls if re.fullmatch(r"[a-z_0-9]+", call)} - {"syscall", "total", "execve"}
    check(f"the filter lets pass all {len(used)} system calls that were made", not used - allowed, used - allowed)
    check("something was traced", {"futex", "fdatasync"} & used and "epoll_wait" in used, used)


def refusals(root, scratch, settings):
    """What cannot be right is not started again and again."""
    wrong = scratch / "wrong.toml"
    wrong.write_text("lesae = '1s'\n")
    ended = subprocess.run([root / "usr/bin/tsoracle", "serve", "--config", wrong], capture_output=True, cwd=scratch)
    [kept] = settings["RestartPreventExitStatus"]
    check("a wrong config file is not tried again", str(ended.returncode) in kept.split(), ended)


def main():
    [package] = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="tsoracle-") as directory:
        scratch = Path(directory)
        root, control = scratch / "root", scratch / "control"
        run("dpkg-deb", "--extract", package, root)
        run("dpkg-deb", "--control", package, control)
        print(run("dpkg-deb", "--info", package))
        files(root, control)
        scripts(control, scratch)
        settings = unit(root, scratch)
        check("it runs as a user of its own", settings["User"] == ["tsoracle"])
        filtered(settings, service(root, scratch, settings))
        refusals(root, scratch, settings)


if __name__ == "__main__":
    main()
