"""Makes and fills the project's virtual environment, then becomes a command in it. Standard library only.

What was installed is noted inside the environment as a hash of what decides it, so that a second run starts at once and
a change of requirements is installed by the next run. Runs at the same time wait for each other.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# Each kind has all that those before it have.
REQUIREMENTS = {
    "runtime": ["-e", str(ROOT)],
    "demo": ["-e", f"{ROOT}[demo]"],
    "dev": ["-r", str(ROOT / "requirements-dev.txt")],
}
DECIDING = ("setup.py", "requirements-dev.txt", "pyproject.toml")


def main() -> None:
    kind, *arguments = sys.argv[1:]
    VENV.mkdir(exist_ok=True)
    with (VENV / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Most runs start no other program: the note is written last, and a link to a removed Python does not exist.
        if noted(kind) != fingerprint() or not PYTHON.exists():
            if not is_usable():
                say(f"making {VENV} with Python {sys.version.split()[0]}")
                make()
            if any(note(each).exists() for each in REQUIREMENTS):
                say("installing packages that are missing or have changed")
            else:
                say("installing packages, which takes about a minute")
            install(kind)
    os.execv(PYTHON, [str(PYTHON), *arguments])


def is_usable() -> bool:
    """Tell whether the environment's Python runs, is new enough and has pip: an interrupted start leaves others."""
    check = "import pip, sys; sys.exit(sys.version_info < (3, 11))"
    return PYTHON.exists() and subprocess.run([PYTHON, "-c", check], stderr=subprocess.DEVNULL).returncode == 0


def make() -> None:
    try:
        # Python's own name for what `python` is here may be a link that moves; the environment keeps the program.
        venv.EnvBuilder(symlinks=True, with_pip=True, upgrade_deps=False).create(VENV)
    except subprocess.CalledProcessError:
        refuse("this Python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv")


def install(kind: str) -> None:
    # Quiet about being root: an environment of its own is what pip asks for there.
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Python compiles what is imported, when it is imported.
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--no-compile", *REQUIREMENTS[kind]]
    if subprocess.run(command, cwd=ROOT, env=environment).returncode:
        refuse("the packages could not be installed; pip's message is above")
    kinds = list(REQUIREMENTS)
    for installed in kinds[: kinds.index(kind) + 1]:
        note(installed).write_text(fingerprint())


def fingerprint() -> str:
    digest = hashlib.sha256(str(ROOT).encode())
    for name in DECIDING:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def note(kind: str) -> Path:
    return VENV / f"installed-{kind}"


def noted(kind: str) -> str:
    return note(kind).read_text() if note(kind).exists() else ""


def say(sentence: str) -> None:
    print(f"shop: {sentence}", file=sys.stderr, flush=True)


def refuse(sentence: str) -> None:
    say(sentence)
    sys.exit(2)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
