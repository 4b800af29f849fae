"""Holds who may import whom, as drawn in the README: data flow one way, and a change stays where it is made."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "vtblender_nemo"

# What a room (a module or package; the longest name counts) may import of this package, beside itself and `common`.
RULES: dict[str, set[str]] = {
    "common": set(),
    "modules": set(),
    "data": set(),
    "synthesis": {"data"},
    "inspection": {"data"},
    "corpora": {"data", "synthesis"},
    "alignment": {"data", "synthesis"},
    "evaluation.metrics": set(),
    "evaluation.scores": set(),
    "backbones": {"modules"},
    "models": {"modules", "backbones"},
    "models.vtblender": {"modules", "backbones", "models", "data", "evaluation.metrics", "training.optim"},
    "models.generation": {"modules", "backbones", "models", "data"},
    "models.session": {"modules", "backbones", "models"},
    "models.long_audio": {"modules", "backbones", "models", "data"},
    "models.validation": {"modules", "backbones", "models", "data", "evaluation.metrics"},
    "models.loading": {"models"},
    "training": {"models", "modules", "data", "training.optim"},
    "training.optim": {"training.muon"},
    "training.muon": set(),
    "evaluation": {"models", "data", "evaluation.metrics", "evaluation.scores"},
    "export": {"models", "modules", "backbones", "evaluation.scores"},
    "serving": {"models", "modules", "backbones"},
    "tiny": {"data", "synthesis", "evaluation.metrics", "training.optim"},
    "experiments": {"models", "data", "training", "evaluation", "tiny"},
}

# Third parties that cost much or are optional, and the only modules or packages that may import them at all.
CONFINED = {"megatron": {"backbones.megatron_llm"}}


def modules() -> dict[str, Path]:
    """Every module of the package by its name inside it; the package itself is an empty name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Full names of what a module imports anywhere in it, `from x import y` as x.y; relative ones are resolved."""
    here = [PACKAGE, *module.split(".")] if module else [PACKAGE]
    folder = here if is_package else here[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str | None:
    """The room that a module, or a name in it, belongs to: the longest that is named in the rules."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in RULES), None)


def breaches(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports against the rules, in words."""
    room = room_of(module)
    if room is None:
        return [f"{module} is in no room: add it to RULES"]
    found = []
    for name in imports(source, module, is_package=is_package):
        top, _, inner = name.partition(".")
        if top in ("examples", "tests"):
            found.append(f"{module} imports {name}")
        if top in CONFINED and not any(f"{module}.".startswith(f"{one}.") for one in CONFINED[top]):
            found.append(f"{module} imports {name}, which only {', '.join(CONFINED[top])} may")
        if top == PACKAGE:
            target = room_of(inner) if inner else None
            allowed = {room, "common"} | RULES[room]
            covered = target is not None and (target in allowed or target.partition(".")[0] in allowed - {room})
            if not covered:
                found.append(f"{module} imports {name}; {room} may import only {', '.join(sorted(allowed))}")
    return found


@pytest.mark.parametrize("module", [name for name in modules() if name])
def test_module_keeps_the_rules(module):
    path = modules()[module]
    assert breaches(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        ("common.audio", "from vtblender_nemo.data import rows", True),
        ("common.audio", "from vtblender_nemo.common.errors import AudioError", False),
        ("modules.lora", "def f():\n    import vtblender_nemo.models.speech_llm", True),
        ("data.blend", "from vtblender_nemo.data.rows import Row", False),
        ("data.blend", "from ..models import vtblender", True),
        ("data.blend", "from .rows import Row", False),
        ("data.blend", "from .. import tiny", True),
        ("data.blend", "import vtblender_nemo", True),
        ("evaluation.metrics", "from vtblender_nemo.evaluation.items import Item", True),
        ("evaluation.runner", "from vtblender_nemo.evaluation.metrics import Score", False),
        ("evaluation.runner", "from vtblender_nemo.training.fit import fit", True),
        ("models.speech_llm", "from vtblender_nemo.data.collate import collate", True),
        ("models.vtblender", "from vtblender_nemo.data.collate import collate", False),
        ("models.vtblender", "from vtblender_nemo.evaluation.metrics import compute", False),
        ("models.vtblender", "from vtblender_nemo.evaluation.runner import predict", True),
        ("models.vtblender", "from vtblender_nemo.training.fit import fit", True),
        ("training.fit", "from vtblender_nemo.models.vtblender import VTBlenderModel", False),
        ("training.fit", "if TYPE_CHECKING:\n    from vtblender_nemo.tiny import world", True),
        ("backbones.transformers_llm", "import megatron.core", True),
        ("backbones.megatron_llm", "import megatron.core", False),
        ("backbones.megatron_llm.layers", "from megatron.core import tensor_parallel", False),
        ("backbones.megatron_llms", "import megatron.core", True),
        ("training.tensor_parallel", "from megatron.core import parallel_state", True),
        ("experiments.sweep", "import examples.train_vtb", True),
        ("kitchen.sink", "", True),
    ],
)
def test_the_check_itself(module, source, broken):
    assert bool(breaches(source, module)) == broken


def test_rules_name_rooms_that_only_name_rooms():
    for room, allowed in RULES.items():
        assert allowed <= RULES.keys(), room


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return result.stdout.strip()


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.common", f"{PACKAGE}.evaluation"])
def test_import_is_light(module):
    """A second is the limit; what takes longer is known by name, and names do not depend on the machine."""
    heavy = "{'torch', 'nemo', 'transformers', 'lhotse', 'lightning', 'peft', 'numpy', 'omegaconf', 'matplotlib'}"
    assert run_python(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_help_is_light(script):
    """Three seconds are the limit, of which NeMo alone would take thirteen."""
    heavy = "{'torch', 'nemo', 'transformers', 'lhotse', 'lightning', 'peft', 'openai', 'matplotlib'}"
    code = (
        f"import runpy, sys\nsys.argv = [{script!r}, '--help']\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"try:\n    runpy.run_path({str(ROOT / 'examples' / script)!r}, run_name='__main__')\n"
        f"except SystemExit as end:\n    assert not end.code\nprint(sorted({heavy} & set(sys.modules)))"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_unknown_name_of_the_package_is_an_attribute_error():
    code = f"import {PACKAGE}\ntry:\n    {PACKAGE}.nothing\nexcept AttributeError as error:\n    print(error)"
    assert "nothing" in run_python(code)
