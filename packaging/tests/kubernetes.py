#!/usr/bin/env python3
"""Runs the pods of the manifests as processes: kubernetes.py BINARY MANIFESTS. Where Kubernetes gives names, volumes, secrets and the
environment, a namespace of its own gives them; containers' arguments and probes are those of the manifests.

The nodes come up, and are restarted one after the other as a roll does it, while requests are made."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

PATIENCE = 60
POLICY = '[policy.identities]\napp = ["client"]\nadmin = ["admin"]\n'


def check(what, holds, shown=""):
    if not holds:
        sys.exit(f"{what}: no\n{shown}")
    print(f"ok: {what}")


def until(what, holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {PATIENCE} s")
        time.sleep(0.1)
    print(f"ok: {what}")


class Pod:
    """A pod of the StatefulSet, with an address of its own."""

    def __init__(self, number, binary, container, directory):
        self.number, self.binary, self.container = number, binary, container
        self.address, self.directory = f"127.77.0.{number}", directory
        self.state = directory / f"state-{number}"
        self.state.mkdir()
        self.process = None

    def value(self, text):
        """An argument, as the container gets it here."""
        places = {
            "$(NODE)": str(self.number),
            "0.0.0.0": self.address,
            # Of its own in a pod, and of all of them here.
            "127.0.0.1": self.address,
            "/var/lib/tsoracle": str(self.state),
            "/etc/tsoracle/certs": str(self.directory / "tsoracle-certs"),
            "/etc/tsoracle/config": str(self.directory),
        }
        for here, there in places.items():
            text = text.replace(here, there)
        return text

    def start(self):
        log = open(self.directory / f"log-{self.number}", "ab")
        arguments = [self.value(argument) for argument in self.container["args"]]
        self.process = subprocess.Popen([self.binary, *arguments], stdout=log, stderr=log, env={"NODE": str(self.number)})

    def probe(self, name):
        probe = self.container[name]["httpGet"]
        [port] = [port["containerPort"] for port in self.container["ports"] if port["name"] == probe["port"]]
        try:
            with urllib.request.urlopen(f"http://{self.address}:{port}{probe['path']}", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            if self.process.poll() is not None:
                sys.exit(f"node {self.number} has ended:\n{(self.directory / f'log-{self.number}').read_text()}")
            return False

    def page(self):
        [place] = [argument.split("=")[1] for argument in self.container["args"] if argument.startswith("--admin-listen=")]
        check("the status page is at a port of the pod alone", place.startswith("127.0.0.1:"), place)
        with urllib.request.urlopen(f"http://{self.value(place)}/", timeout=PATIENCE) as answer:
            return answer.read().decode()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def manifests(path):
    documents = list(yaml.safe_load_all(Path(path).read_text()))
    of = {}
    for document in documents:
        of.setdefault(document["kind"], []).append(document)
    return of


def fits(of):
    """What refers to each other is there."""
    [stateful] = of["StatefulSet"]
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    selectors = [service["spec"]["selector"] for service in of["Service"]]
    selectors += [stateful["spec"]["selector"]["matchLabels"]]
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in of["PodDisruptionBudget"]]
    selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in of["NetworkPolicy"]]
    check("all selectors find the pods", all(selector == labels for selector in selectors), selectors)
    names = [service["metadata"]["name"] for service in of["Service"]]
    check("the StatefulSet's service is there", stateful["spec"]["serviceName"] in names)
    spec = stateful["spec"]["template"]["spec"]
    [container] = spec["containers"]
    ports = {port["name"] for port in container["ports"]}
    targets = {port["targetPort"] for service in of["Service"] for port in service["spec"]["ports"]}
    rules = of["NetworkPolicy"][0]["spec"]["ingress"]
    targets |= {port["port"] for rule in rules for port in rule["ports"]}
    check("all ports that are named are there", targets <= ports, targets)
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in spec["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]}
    check("all volumes are there", mounts == volumes, (mounts, volumes))
    [account] = of["ServiceAccount"]
    check("its account is there", spec["serviceAccountName"] == account["metadata"]["name"])
    return stateful, container


def main():
    binary, path = os.path.realpath(sys.argv[1]), os.path.realpath(sys.argv[2])
    if os.environ.get("TSORACLE_INSIDE") != "1":
        os.environ["TSORACLE_INSIDE"] = "1"
        unshare = ["unshare", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        os.execvp("unshare", unshare + [sys.executable, *sys.argv])
    stateful, container = fits(manifests(path))
    replicas, first = stateful["spec"]["replicas"], stateful["spec"]["ordinals"]["start"]
    numbers = range(first, first + replicas)
    with tempfile.TemporaryDirectory(prefix="tsoracle-") as directory:
        directory = Path(directory)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        service, name = stateful["spec"]["serviceName"], stateful["metadata"]["name"]
        hosts = [f"127.77.0.{number} {name}-{number}.{service}" for number in numbers]
        (directory / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")
        subprocess.run(["mount", "--bind", directory / "hosts", "/etc/hosts"], check=True)
        (directory / "tsoracle.toml").write_text(POLICY)

        def tsoracle(*arguments):
            return subprocess.run([binary, *arguments], cwd=directory, check=True, capture_output=True, text=True).stdout

        tsoracle("cert", "ca")
        tsoracle("cert", "client", "app")
        for number in numbers:
            tsoracle("cert", "node", str(number), "--address", f"{name}-{number}.{service}", "--address", name)
        pods = [Pod(number, binary, container, directory) for number in numbers]
        pods[0].start()
        until("a node alone is alive", lambda: pods[0].probe("livenessProbe"))
        check("and not ready", not pods[0].probe("readinessProbe"))
        for pod in pods[1:]:
            pod.start()
        for pod in pods:
            until(f"node {pod.number} is ready", lambda: pod.probe("readinessProbe") and pod.probe("startupProbe"))
            check(f"node {pod.number} has a status page", "<title>tsoracle</title>" in pod.page())
        certs = directory / "tsoracle-certs"
        endpoints = ",".join(f"{name}-{number}.{service}:50551" for number in numbers)
        client = ["--endpoint", endpoints, "--timeout", "60s", "--tls-ca", certs / "ca.pem"]
        client += ["--tls-cert", certs / "client-app.pem", "--tls-key", certs / "client-app.key"]
        done = 0
        for pod in pods:
            check(f"node {pod.number} stops without an error", pod.stop() == 0)
            for _ in range(5):
                check("a sequence goes on", tsoracle("seq", "orders", *client).strip() == str(done))
                done += 1
            pod.start()
            until(f"node {pod.number} is ready again", lambda: pod.probe("readinessProbe"))
        check("a sequence goes on", tsoracle("seq", "orders", *client).strip() == str(done))
        for pod in pods:
            pod.stop()


if __name__ == "__main__":
    main()
