"""`python -m tests.fuzz TARGET --seconds 600`: runs one target, and tells executions, coverage and crashes.

    python -m tests.fuzz manifest --again results/fuzz/manifest/crashes/NAME.json

reads one input again, with the trace of what it raises.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.mutate import parsed
from tests.fuzz.targets import NAMES, open_target


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--output-dir", type=Path, default=Path("results/fuzz"), help="keeps the corpus and crashing inputs"
    )
    parser.add_argument("--again", type=Path, help="reads one kept input in place of fuzzing")
    asked = parser.parse_args()
    if asked.again is not None:
        return _again(asked.target, asked.again)
    folder = asked.output_dir / asked.target
    arguments = [asked.target, asked.seconds, folder / "corpus", folder / "crashes", asked.seed]
    command = [sys.executable, "-m", "tests.fuzz.run", *map(str, arguments)]
    log = _watched(command)
    last = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", log)
    executions = re.search(r"executions: (.*);", log)
    if not last or executions is None:
        print("fuzzing has not ended as it should")
        return 2
    crashes = sorted((folder / "crashes").glob("*.json"))
    cov, features, corpus = last[-1]
    print(
        f"{asked.target}: executions: {executions[1]}; coverage {cov} edges and {features} features, "
        f"corpus {corpus}, {len(crashes)} different crashes kept in {folder / 'crashes'}"
    )
    return 1 if crashes else 0


def _watched(command: list[str]) -> str:
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if not line.startswith(("#", "INFO")) or "pulse" in line:
                sys.stdout.write(line)
                sys.stdout.flush()
    return "".join(lines)


def _again(name: str, path: Path) -> int:
    case = parsed(path.read_bytes())
    if case is None:
        print("no input of a target")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        print("taken" if open_target(name, Path(folder)).read(case) else "refused, as promised")
    return 0


if __name__ == "__main__":
    sys.exit(main())
