"""The container engine, as a run of tests uses it: whatever is made has the name of this run, and can be removed."""

import json
import os
import secrets
import subprocess
import time

from tests.harness.live import ROOT

RUN = f"shop-test-{secrets.token_hex(4)}"
# The longest a build or the start of the whole may take, in seconds.
PATIENCE = 900


class EngineError(Exception):
    """A command of the container engine failed; the text has its output."""


def run(*command: str, environment: dict[str, str] | None = None, seconds: float = 120) -> subprocess.CompletedProcess:
    """Run a command to its end. It does not see our Ctrl-C, but gets a signal to end, and is waited for."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException:
            process.terminate()
            process.communicate()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output)


def docker(*arguments: str, seconds: float = 120, **environment: str) -> str:
    """Run `docker` and return what it printed, stripped.

    Raises:
        EngineError: It did not end with status 0.
    """
    finished = run("docker", *arguments, environment=environment, seconds=seconds)
    if finished.returncode:
        raise EngineError(f"docker {arguments[0]} ended with {finished.returncode} and said:\n{finished.stdout}")
    return finished.stdout.strip()


def inspect(what: str, template: str) -> object:
    """Return a part of what the engine knows of an image or a container."""
    return json.loads(docker("inspect", "--format", f"{{{{json {template}}}}}", what))


def start(image: str, *arguments: str, options: tuple[str, ...] = (), **environment: str) -> str:
    """Start a container on the network of this run and return its id."""
    # Values are not on the command line, where every user of the machine would see them.
    names = [word for name in environment for word in ("--env", name)]
    labelled = ("--label", f"{RUN}=", "--network", RUN)
    return docker("run", "--detach", *labelled, *names, *options, image, *arguments, **environment)


def finish(container: str) -> tuple[int, str]:
    """Wait for a container's end; return its status and what it said."""
    status = int(docker("wait", container))
    return status, docker("logs", container)


def url_of(container: str, port: int) -> str:
    """Return the address at which a published port of the container is reached."""
    return "http://" + docker("port", container, f"{port}/tcp").splitlines()[0]


def health(container: str) -> object:
    """Return what the container's health check has found so far."""
    return inspect(container, ".State.Health.Status")


def build(tag: str, target: str, **arguments: str | None) -> None:
    """Build one of the Dockerfile's targets, on the host's network: where its package registries are within reach.

    Args:
        tag: What the image is to be called.
        target: The target.
        arguments: Build arguments; None leaves the Dockerfile's own value.
    """
    started = time.monotonic()
    chosen = [f"--build-arg={name}={value}" for name, value in arguments.items() if value]
    docker("build", "--network=host", *chosen, f"--target={target}", f"--tag={tag}", ".", seconds=PATIENCE)
    size = int(str(inspect(tag, ".Size")))
    print(f"built {tag}, {size / 1e6:.0f} MB, in {time.monotonic() - started:.0f} s", flush=True)


def remove_all() -> None:
    """Remove every container, network and volume of this run, those of compose included."""
    # Until a look finds nothing: what was interrupted may have left the engine at work on something.
    while sum(map(_remove, (RUN, f"com.docker.compose.project={RUN}"))):
        pass


def _remove(label: str) -> int:
    """Remove what has the label, and return how much that was."""
    count = 0
    for what, listing, removing in (
        ("container", ["ls", "--all"], ["rm", "--force", "--volumes"]),
        ("network", ["ls"], ["rm"]),
        ("volume", ["ls"], ["rm"]),
    ):
        found = docker(what, *listing, "--quiet", "--filter", f"label={label}").split()
        if found:
            docker(what, *removing, *found)
        count += len(found)
    return count
