from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.unit.test_import_rules import imports, modules

ROOT = Path(__file__).parents[2]

# Needed by the code, brought by a requirement of which it is a part of the interface.
BROUGHT_BY = {
    "pytorch_lightning": "lightning",
    "nemo": "nemo_toolkit",
    "nemo_text_processing": "nemo_toolkit",
    "huggingface_hub": "transformers",
    "comet": "unbabel-comet",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what a build reads, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "README.md").write_text("# VoiceTextBlender for NeMo\n")
    for name in ("setup.py", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("vtblender_nemo", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build(source: Path, kind: str) -> zipfile.ZipFile:
    """Builds `wheel` or `editable` with the installed setuptools: no network."""
    target = source / f"out_{kind}"
    target.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(source) -> zipfile.ZipFile:
    return build(source, "wheel")


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_wheel_holds_every_module_and_every_config(source, wheel):
    names = set(wheel.namelist())
    assert {f"vtblender_nemo/{name}" for name in files(source / "vtblender_nemo")} <= names
    configs = {f"vtblender_nemo/conf/{name}" for name in files(source / "conf")}
    assert configs
    assert configs <= names
    assert not [name for name in names if not name.startswith("vtblender_nemo")]  # no top-level conf, tests or examples


def test_wheel_holds_the_license(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("LICENSE"))
    text = wheel.read(name).decode()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_configs_are_found_in_an_editable_install(source):
    folder = source / "site"
    build(source, "editable").extractall(folder)
    code = (
        f"import site; site.addsitedir({str(folder)!r})\n"
        "import vtblender_nemo\n"
        "from importlib.resources import files\n"
        "print(vtblender_nemo.__file__)\n"
        "print(*sorted(path.name for path in files('vtblender_nemo.conf').iterdir()))\n"
    )
    # -S: nothing of the environment that runs the tests, which may hold the package too
    command = [sys.executable, "-E", "-S", "-c", code]
    result = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    package, configs = result.stdout.splitlines()
    assert Path(package) == source / "vtblender_nemo/__init__.py"
    assert {path.name for path in (source / "conf").glob("*.yaml")} <= set(configs.split())


def test_names_python_versions_and_extras(metadata):
    assert metadata["Name"] == "vtblender_nemo"
    supported = SpecifierSet(metadata["Requires-Python"])
    assert [minor for minor in range(8, 16) if f"3.{minor}" in supported] == [10, 11, 12]
    assert set(metadata.get_all("Provides-Extra")) >= {"test", "tts", "eval", "serve", "megatron", "quant"}


def requirements(metadata: Message, extra: str = "") -> list[Requirement]:
    found = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]


def test_every_requirement_has_both_bounds(metadata):
    for one in map(Requirement, metadata.get_all("Requires-Dist")):
        operators = {clause.operator for clause in one.specifier}
        assert operators == {">=", "<"}, str(one)


def test_a_containers_own_torch_is_left_in_place(metadata):
    (torch,) = (one for one in requirements(metadata) if one.name == "torch")
    assert torch.specifier.contains("2.8.0a0+5228986c39.nv25.6", prereleases=True)  # of the 25.06 container


def test_what_the_package_imports_is_declared(metadata):
    declared = {canonicalize_name(one.name) for one in map(Requirement, metadata.get_all("Requires-Dist"))}
    owners = packages_distributions()
    scripts = {f"examples.{path.stem}": path for path in (ROOT / "examples").glob("*.py")}
    undeclared = {}
    for module, path in {**modules(), **scripts}.items():
        for name in imports(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py"):
            top = name.partition(".")[0]
            if top in sys.stdlib_module_names or top == "vtblender_nemo":
                continue
            candidates = {canonicalize_name(owner) for owner in owners.get(top, [top])} | {
                canonicalize_name(BROUGHT_BY.get(top, top))
            }
            if not candidates & declared:
                undeclared.setdefault(top, module)
    assert undeclared == {}


def test_installed_versions_lie_in_the_declared_ranges(metadata):
    from importlib.metadata import PackageNotFoundError, version

    outside = {}
    for one in requirements(metadata, extra="test"):
        try:
            found = version(one.name)
        except PackageNotFoundError:
            found = "none"
        if found == "none" or not one.specifier.contains(found, prereleases=True):
            outside[str(one)] = found
    assert outside == {}


def test_version_is_written_once():
    text = (ROOT / "vtblender_nemo/__init__.py").read_text(encoding="utf-8")
    assert re.fullmatch(r"\d+\.\d+\.\d+", re.search(r'__version__ = "(.+)"', text).group(1))
    literals = [
        node.value for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Constant)
    ]
    assert not [text for text in literals if isinstance(text, str) and re.fullmatch(r"\d+\.\d+\.\d+", text)]


def test_ci_runs_the_command_of_the_readme(tmp_path):
    """CI reads the command from the README; without it, it has to fail at once rather than test something else."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "README.md").write_text("# No command\n")
    result = subprocess.run([tmp_path / ".ci/run"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert 'README.md has no line: pip install -e ".[test]" && pytest' in result.stderr


def test_settings_files_are_read_by_their_tools():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "mypy", "pytest"}
    tool = shutil.which("ruff") or str(Path(sys.executable).with_name("ruff"))
    settings = subprocess.run([tool, "check", "--show-settings", "setup.py"], cwd=ROOT, capture_output=True, text=True)
    assert "line_length = 120" in settings.stdout
