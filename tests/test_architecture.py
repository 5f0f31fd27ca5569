"""The direction of the arrows: app.py → studio → trainers → pipelines, and nothing heavy at import.

The sources are read with `ast`, so imports inside functions count too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("studio", "trainers", "pipelines")
HEAVY = ("torch", "diffusers", "transformers", "peft")
# What each may not import, at the top of a module or in a function.
FORBIDDEN: dict[str, frozenset[str]] = {
    "pipelines": frozenset({"trainers", "studio", "app", "gradio", "tests"}),
    "trainers": frozenset({"studio", "app", "gradio", "tests"}),
    "studio": frozenset({*HEAVY, "accelerate", "safetensors", "app", "tests"}),
    "app.py": frozenset({*HEAVY, "accelerate", "safetensors", "gradio", "trainers", "pipelines", "tests"}),
}
# Not dependencies of this project; the first one breaks `import diffusers` where its build doesn't fit torch.
NEVER = frozenset({"torchvision", "matplotlib", "cv2", "sklearn"})
CPU_SECONDS = 1.0


def sources(name: str) -> list[Path]:
    """The .py files of a package below ROOT, or the one file of that name."""
    path = ROOT / name
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every absolute import in a tree, `import_module("x")` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.args[0].value, node.lineno


def breaches(text: str, forbidden: frozenset[str]) -> list[tuple[str, int]]:
    """(module, line) of the imports in a source text whose top package is forbidden."""
    return [(m, line) for m, line in imported(ast.parse(text)) if m.split(".")[0] in forbidden]


@pytest.mark.parametrize("name", list(FORBIDDEN))
def test_arrows_never_run_back(name: str) -> None:
    files = sources(name)
    assert files, f"no sources found for {name}"
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files
        for module, line in breaches(path.read_text(encoding="utf-8"), FORBIDDEN[name] | NEVER)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "import torch",
        "import torch.nn as nn",
        "from torch import nn",
        "def f():\n    from torch.nn import functional",
        "import importlib\nimportlib.import_module('torch')",
        "if True:\n    __import__('torch')",
    ],
)
def test_the_reader_sees_every_way_to_import(text: str) -> None:
    assert breaches(text, frozenset({"torch"}))
    assert not breaches(text.replace("torch", "torching"), frozenset({"torch"}))


def _run(program: str, timeout: float = 60) -> str:
    """Standard output of a program in a fresh interpreter started at ROOT; a failure shows its traceback."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _import_cost(module: str) -> tuple[float, set[str]]:
    """CPU seconds of `import module` in a fresh interpreter and the top packages it brought in."""
    program = (
        "import sys, time\n"
        "t = time.process_time()\n"
        f"import {module}\n"
        "t = time.process_time() - t\n"
        "print(t, ' '.join(sorted({m.split('.')[0] for m in sys.modules})))\n"
    )
    seconds, *modules = _run(program).split()
    return float(seconds), set(modules)


@pytest.mark.parametrize("module", [*PACKAGES, "trainers.config", "studio.cli"])
def test_importing_brings_in_nothing_heavy(module: str) -> None:
    seconds, modules = _import_cost(module)
    assert not modules & {*HEAVY, "gradio", *NEVER}
    assert seconds < CPU_SECONDS, f"import {module} takes {seconds:.2f} s of CPU time"


def test_every_module_imports_without_what_is_not_a_dependency() -> None:
    """Each of `NEVER` is made unimportable first, whether or not this environment happens to hold it."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("trainers", "pipelines")
        for path in sources(package)
        if path.name not in {"__main__.py", "__init__.py"}
    ]
    program = f"import importlib, sys\nsys.modules.update(dict.fromkeys({sorted(NEVER)!r}))\n"
    program += "".join(f"importlib.import_module({name!r})\n" for name in modules)
    program += "print(' '.join(sorted({m.split('.')[0] for m in sys.modules})))\n"
    assert not set(_run(program, timeout=240).split()) & {"gradio", "studio"}


def test_nothing_is_made_at_import(tmp_path: Path) -> None:
    """Importing the packages from an empty folder, with an empty home, leaves both empty."""
    home = tmp_path / "home"
    home.mkdir()
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import studio.cli, trainers.config, pipelines"
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=tmp_path,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["home"]


def test_app_is_a_door_not_a_room() -> None:
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) < 30


def test_top_level_holds_what_the_project_names() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = "Makefile LICENSE NOTICE README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md pyproject.toml"
    allowed = {*PACKAGES, "tests", "assets", "app.py", "constraints.txt", *files.split()}
    allowed |= {".ci", ".gitignore", ".gitattributes"}
    assert {Path(name).parts[0] for name in listed.stdout.splitlines()} <= allowed
