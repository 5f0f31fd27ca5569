"""Modules that are imported when they are used, and not before: on small packages, then on the libraries."""

import importlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.bases.libraries import UNUSED
from pipelines.bases.postponing import LATER, postponed

TABLE = {
    "heavy": {"Thing": LATER, "count": LATER, "mark": lambda function: function},
    "heavy.inner": {"deep": LATER},
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """`light`, which imports `heavy` without using it; taken out of `sys.modules` at the end."""
    heavy = tmp_path / "heavy"
    heavy.mkdir()
    (heavy / "__init__.py").write_text(
        "from heavy import sub\n\nVALUE = 7\n\n\n"
        "class Thing:\n    def __init__(self, n=0):\n        self.n = n\n"
        "    def more(self):\n        return self.n + VALUE\n\n\ndef count(*xs):\n    return len(xs)\n\n\n"
        "def mark(f):\n    f.marked = True\n    return f\n"
    )
    counting = "sys.runs_of_sub = getattr(sys, 'runs_of_sub', 0) + 1"
    (heavy / "sub.py").write_text(f"import sys\n\nNAME = 'sub'\n{counting}\n")
    (heavy / "inner.py").write_text("def deep():\n    return 'deep'\n")
    (tmp_path / "light.py").write_text(
        "import heavy\nfrom heavy import Thing, count, mark\nfrom heavy.inner import deep\n\n\n"
        "@mark\ndef own():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "runs_of_sub", 0, raising=False)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("heavy", "light")]:
        del sys.modules[name]


def loaded() -> bool:
    """Whether `heavy` itself has been run."""
    return "heavy" in sys.modules and "VALUE" in vars(sys.modules["heavy"])


def test_what_isnt_used_isnt_imported(packages):
    with postponed(TABLE):
        light = importlib.import_module("light")
    assert light.own() == 1
    assert not isinstance(3, light.Thing)
    assert "heavy" not in sys.modules and "heavy.inner" not in sys.modules
    assert not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path)


def test_what_is_used_is_the_real_thing(packages):
    with postponed(TABLE):
        light = importlib.import_module("light")
    assert light.count(1, 2) == 2 and light.deep() == "deep"
    heavy = importlib.import_module("heavy")
    assert isinstance(light.Thing(2), heavy.Thing) and light.Thing(2).more() == 9
    assert isinstance(heavy.Thing(), light.Thing) and issubclass(heavy.Thing, light.Thing)
    assert light.heavy.VALUE == 7 and light.heavy.count is heavy.count

    class Own(light.Thing):  # type: ignore[name-defined]
        pass

    assert Own.__mro__[1] is heavy.Thing and Own(1).more() == 8


def test_a_name_outside_of_the_table_imports_the_module_at_once(packages, tmp_path):
    (tmp_path / "light.py").write_text("from heavy import Thing, VALUE\nimport heavy.sub\n")
    with postponed(TABLE):
        light = importlib.import_module("light")
        assert loaded() and light.VALUE == 7
        assert isinstance(sys.modules["heavy"].Thing(), light.Thing)


def test_a_name_that_isnt_there_is_an_error(packages):
    with postponed(TABLE):
        light = importlib.import_module("light")
    with pytest.raises(AttributeError, match="nothing"):
        light.heavy.nothing  # noqa: B018


def test_lasting_ones_stay_until_they_are_used_or_something_below_them_is_imported(packages):
    with postponed(TABLE, lasting=["heavy"]):
        importlib.import_module("light")
    heavy = importlib.import_module("heavy")
    assert heavy.mark(test_what_isnt_used_isnt_imported) and not loaded()
    below = importlib.import_module("heavy.sub")
    assert vars(sys)["runs_of_sub"] == 1
    assert loaded() and below.NAME == "sub" and sys.modules["heavy"].sub is below
    assert below.__spec__.name == "heavy.sub" and type(below.__spec__.loader).__name__ != "_There"


def test_two_threads_may_use_them_at_once(packages):
    class Slow(dict):
        """A table of whose names another thread gets to see some."""

        def __iter__(self):
            for name in super().__iter__():
                time.sleep(0.01)
                yield name

    with postponed({**TABLE, "heavy.sub": {"NAME": LATER}}, lasting=["heavy", "heavy.inner"]):
        light = importlib.import_module("light")
    finder: Any = next(one for one in sys.meta_path if type(one).__name__ == "_Finder")
    finder._table = Slow(finder._table)
    both = threading.Barrier(2)

    def used(call, *given):
        both.wait(10)
        return call(*given)

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(used, light.count, 1, 2), pool.submit(used, light.deep)]
        assert [call.result(10) for call in calls] == [2, "deep"]


def test_a_thread_waits_for_an_import_that_another_has_begun(packages, tmp_path):
    heavy = tmp_path / "heavy" / "__init__.py"
    heavy.write_text(f"import time\n\ntime.sleep(0.5)\n{heavy.read_text()}")
    with postponed(TABLE, lasting=["heavy"]):
        light = importlib.import_module("light")

    def use(seconds: float) -> int:
        time.sleep(seconds)
        return light.count(1, 2)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(use, (0, 0.2))) == [2, 2]


def test_of_a_package_modules_below_can_be_imported_alone(packages):
    with postponed({"heavy": {}}, lasting=["heavy"], packages=["heavy"]):
        below = importlib.import_module("heavy.sub")
    assert below.NAME == "sub" and not loaded()
    assert sys.modules["heavy"].VALUE == 7 and loaded()


def test_what_is_imported_already_stays(packages):
    heavy = importlib.import_module("heavy")
    with postponed(TABLE):
        light = importlib.import_module("light")
    assert light.Thing is heavy.Thing


def test_the_libraries_have_every_name_that_is_postponed():
    for module, names in UNUSED.items():
        found = importlib.import_module(module)
        assert not [name for name in names if not hasattr(found, name)], module


_PROGRAM = """
import gc, sys
from pipelines.bases.libraries import UNUSED, load_libraries
load_libraries()
assert gc.isenabled()
for name in ("scipy.stats", "scipy.optimize", "scipy.integrate", "peft.mapping", "torch.distributed.fsdp",
             "torch._dynamo.symbolic_convert", "transformers.quantizers"):
    assert name not in sys.modules, name
import torch
weight = torch.nn.Parameter(torch.zeros(3))
optimizer = torch.optim.AdamW([weight])
weight.grad = torch.ones(3)
optimizer.step()
optimizer.zero_grad()
assert "torch._dynamo.symbolic_convert" not in sys.modules
from pipelines.base import load_base
base = load_base("pocket")
assert base.condition(["a cat"]).hidden.shape[0] == 1
assert "peft.mapping" not in sys.modules and "scipy.stats" not in sys.modules
with torch.no_grad():
    base.unet(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 77, base.unet.config.cross_attention_dim))
assert "peft.mapping" not in sys.modules
import transformers.models
from transformers import CLIPTextModel, BertConfig
assert isinstance(base.text_encoder, CLIPTextModel) and BertConfig().hidden_size == 768
from diffusers.hooks.layerwise_casting import BaseTunerLayer
assert not isinstance(base.unet, BaseTunerLayer)
from peft.tuners.lora.layer import Linear
import peft.tuners.tuners_utils
assert issubclass(Linear, BaseTunerLayer) and issubclass(Linear, peft.tuners.tuners_utils.BaseTunerLayer)
assert torch._dynamo.config.cache_size_limit > 0
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2.0, 2.0]
print("fine")
"""


def test_a_process_of_its_own_loads_a_base_and_then_uses_what_was_postponed():
    root = Path(__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=root, capture_output=True, text=True)
    assert found.stdout.strip() == "fine", found.stderr[-2000:]
