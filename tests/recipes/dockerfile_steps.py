"""Runs the steps of the Dockerfile without a container engine, on a virtual environment in the place of the base image.

    apt-get install -y bubblewrap
    sudo python tests/recipes/dockerfile_steps.py FOLDER                    # builds
    sudo python tests/recipes/dockerfile_steps.py FOLDER --run ARGUMENT...  # and starts the image's command with arguments

FOLDER becomes the root of the file system that the steps see; this machine's /usr and /etc are in it, read-only. The base is an
environment with torch that calls itself a pre-release with a local version, as NVIDIA's images have it, and that has a
PIP_CONSTRAINT which contradicts setup.py, as theirs do. Not part of the tests: it installs everything anew, which takes minutes.
What it cannot tell: whether the packages of the real base image agree with ours.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = "/opt/base"
BASE_VERSION = "2.9.0a0+50eac811a6.nv25.9"
SHARED = ("/usr", "/etc", "/lib", "/lib64", "/bin", "/sbin")


class Image:
    """A file system with the settings of an image; its steps run as whoever USER says.

    Args:
        folder: its root.
        shown: more folders of this machine that are to be seen.
    """

    def __init__(self, folder: Path, shown: list[str]) -> None:
        self.folder, self.shown = folder, shown
        self.env = {"PATH": f"{BASE}/bin:/usr/local/bin:/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        self.env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        self.workdir, self.user, self.shell = "/", "0", ["/bin/sh", "-c"]
        self.entrypoint: list[str] = []
        self.command: list[str] = []

    def inside(self, path: str) -> Path:
        """Where a path of the image is on this machine."""
        return self.folder / os.path.normpath(Path(self.workdir, path)).lstrip("/")

    def run(self, command: list[str]) -> None:
        """Runs a command in it.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        seen: list[str] = []
        for path in [*SHARED, sys.base_prefix, *self.shown]:
            (self.folder / path.lstrip("/")).mkdir(parents=True, exist_ok=True)  # bubblewrap would let nobody else in
            seen += ["--ro-bind", path, path]
        passwd = self.folder / "opt" / "passwd"  # no image knows the user ids of all machines
        passwd.write_text("root:x:0:0:root:/root:/bin/bash\n")
        seen += ["--ro-bind", str(passwd), "/etc/passwd", "--dev", "/dev", "--proc", "/proc"]
        sandbox = ["bwrap", "--bind", str(self.folder), "/", *seen, "--clearenv"]
        for name, value in self.env.items():
            sandbox += ["--setenv", name, value]
        owner = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        subprocess.run([*sandbox, "--chdir", self.workdir, *owner, *command], check=True)


def make_base(image: Image) -> None:
    """The stand-in for the base image."""
    for name in ("opt", "tmp", "root"):
        (image.folder / name).mkdir(parents=True, exist_ok=True)
    (image.folder / "tmp").chmod(0o1777)
    image.run([f"{sys.base_prefix}/bin/python3", "-m", "venv", BASE])
    image.run(["pip", "install", "--quiet", "torch==2.13.0"])
    (packages,) = image.inside(BASE).glob("lib/python3*/site-packages")
    (info,) = packages.glob("torch-*.dist-info")
    text = (info / "METADATA").read_text()
    (info / "METADATA").write_text(re.sub(r"(?m)^Version: .*$", f"Version: {BASE_VERSION}", text, count=1))
    info.rename(packages / f"torch-{BASE_VERSION}.dist-info")
    image.inside(f"{BASE}/constraint.txt").write_text("transformers==4.40.0\nhydra-core==1.2.0\n")
    image.env["PIP_CONSTRAINT"] = f"{BASE}/constraint.txt"


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Instructions and their arguments; comments are left out and continued lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


def step(image: Image, name: str, rest: str) -> None:
    """Does one instruction.

    Raises:
        NotImplementedError: the Dockerfile has come to use one that is not known here.
    """
    match name:
        case "ARG" | "FROM":
            pass  # `make_base` has made it
        case "SHELL":
            image.shell = json.loads(rest)
        case "WORKDIR":
            image.workdir = str(Path(image.workdir, rest))
            image.inside(".").mkdir(parents=True, exist_ok=True)
        case "USER":
            image.user = rest
        case "ENV":
            image.env |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        case "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                copy(ROOT / source, image.inside(target))
        case "RUN":
            image.run([*image.shell, rest])
        case "ENTRYPOINT":
            image.entrypoint, image.command = json.loads(rest), []
        case "CMD":
            image.command = json.loads(rest)
        case _:
            raise NotImplementedError(f"{name} {rest}")


def copy(source: Path, target: Path) -> None:
    """COPY of a file, or of what a folder holds, without what .dockerignore names anywhere."""
    ignored = [line[3:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("**/")]
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*ignored), dirs_exist_ok=True)
    elif not any(fnmatch.fnmatch(source.name, pattern) for pattern in ignored):
        shutil.copy2(source, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", action="append", default=[], help="a folder of this machine, as one of wheels")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="arguments of the image's entry point")
    options = parser.parse_args()
    if os.geteuid() or not shutil.which("bwrap"):
        sys.exit("needs root, for files that belong to several users, and bubblewrap: apt-get install -y bubblewrap")
    image = Image(options.folder.resolve(), options.show)
    if not image.inside(BASE).exists():
        make_base(image)
    for name, rest in instructions((ROOT / "Dockerfile").read_text()):
        sys.stdout.write(f"{name} {rest}"[:120] + "\n")
        sys.stdout.flush()
        step(image, name, rest)
    if options.run is not None:
        image.run([*image.entrypoint, *(options.run or image.command)])


if __name__ == "__main__":
    main()
