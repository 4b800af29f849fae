"""Start-up: seconds of `import vtblender_nemo`, and of `--help` of every example.

    python -m tests.benchmark.import_time [--rounds 5]

Every figure is the median over fresh processes, Python's own start left out of the import and left in for `--help`. The last
line is one JSON object: `seconds` (the import) and `help_seconds` by script.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}  # this checkout, installed or not
IMPORT = "import time; start = time.perf_counter(); import vtblender_nemo; print(time.perf_counter() - start)"


def import_secs() -> float:
    """Seconds of the import in a process of its own, as that process measures them."""
    return float(_run("-c", IMPORT))


def help_secs(script: Path) -> float:
    """Seconds from the start of a process to the end of its help."""
    start = time.perf_counter()
    _run(str(script), "--help")
    return time.perf_counter() - start


def _run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Prints a table, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    scripts = sorted((ROOT / "examples").glob("*.py"))
    seconds = statistics.median(import_secs() for _ in rounds)
    helps = {script.name: statistics.median(help_secs(script) for _ in rounds) for script in scripts}
    for name, value in {"import vtblender_nemo": seconds, **helps}.items():
        sys.stdout.write(f"{name:28} {value:6.3f} s\n")
    rounded = {name: round(value, 3) for name, value in helps.items()}
    sys.stdout.write(json.dumps({"seconds": round(seconds, 4), "help_seconds": rounded}) + "\n")


if __name__ == "__main__":
    main()
