"""Which edits of a project count as a change of a node's code, and which do not; the cases are in code_cases.txt."""

import functools
import importlib
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from processes import last_line

from embedline.running import code as code_module
from embedline.running.code import Code, CodeIndex, UntraceableCode

_names = (f"traced_{number}" for number in itertools.count())
CASES = re.findall(
    r"^=== (same|changed|changed, all): (.*?)\n(.*?)(?=^===|\Z)",
    Path(__file__).with_name("code_cases.txt").read_text(encoding="utf-8"),
    flags=re.DOTALL | re.MULTILINE,
)
EDIT = re.compile(r"<<(.*?) => (.*?)>>", re.DOTALL)


class Package:
    """A package on disk, imported afresh each time it is asked for."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name

    def write(self, text: str, *, edited: bool = False) -> None:
        """Write a case's files, before or after the edit; ``PKG`` stands for the package's name."""
        text = EDIT.sub(r"\2" if edited else r"\1", text).replace("PKG", self.name)
        (self.root / self.name).mkdir(exist_ok=True)
        (self.root / self.name / "__init__.py").touch()
        for part in re.split(r"^--- ", f"nodes\n{text}", flags=re.MULTILINE):
            path, _, content = part.partition("\n")
            target = self.root / self.name / f"{path.strip()}.py"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8")

    def append(self, lines: str) -> None:
        """Add lines to every file."""
        for path in (self.root / self.name).rglob("*.py"):
            path.write_text(path.read_text(encoding="utf-8") + lines, encoding="utf-8")

    def forget(self) -> None:
        """Forget what is imported."""
        for name in [name for name in sys.modules if name.partition(".")[0] == self.name]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def load(self, module: str = "nodes") -> ModuleType:
        """Import the package as it is now, as a new process would."""
        self.forget()
        return importlib.import_module(f"{self.name}.{module}")

    def code(self) -> Code:
        """Code of ``nodes.node`` as it is on disk."""
        return CodeIndex(self.name).of_function(self.load().node)

    def reached(self) -> set[str]:
        """Names of the definitions that ``nodes.node`` reaches, without the package's name."""
        return {name.removeprefix(f"{self.name}.") for name in self.code().definitions}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    made = Package(tmp_path, next(_names))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield made
    made.forget()


def _cases(*kinds: str) -> Any:
    cases = [(kind, text) for kind, _, text in CASES if kind in kinds]
    return pytest.mark.parametrize("kind,text", cases, ids=[name for kind, name, _ in CASES if kind in kinds])


@_cases("same")
def test_an_edit_that_does_not_count(package: Package, kind: str, text: str) -> None:
    package.write(text)
    before = package.code()
    package.write(text, edited=True)
    assert package.code() == before


@_cases("changed", "changed, all")
def test_an_edit_that_counts(package: Package, kind: str, text: str) -> None:
    package.write(text)
    before = package.code()
    assert package.code() == before
    package.append("\ndef a_function_that_nobody_calls(): return 1\n")
    assert (package.code() == before) == (kind == "changed")
    package.write(text, edited=True)
    after = package.code()
    assert after.definitions != before.definitions
    assert after.libraries == before.libraries


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_a_type_statement_counts(package: Package) -> None:
    text = "type Rows[T] = list[<<int => T>>]\ndef node[T: Rows](rows: T): return rows\n"
    package.write(text)
    before = package.code()
    package.write(text, edited=True)
    assert package.code().definitions != before.definitions


def test_names_of_what_is_reached(package: Package) -> None:
    package.write("""
from .deep import f
LIMIT = 1
def node(): return f(LIMIT)
def other(): return 2
--- deep/__init__
from .helpers import f, g
print("", end="")
--- deep/helpers
class Base: pass
class Learner(Base): pass
def f(limit): return Learner(), limit
def g(): return 1
""")
    helpers = {f"deep.helpers.{name}" for name in ("f", "Learner", "Base")}
    assert package.reached() == {"nodes.node", "nodes.LIMIT", *helpers, "deep.(module body)"}


def test_the_same_code_has_the_same_hash_in_every_process(package: Package) -> None:
    package.write("""
import functools
from .helpers import A, f
node = functools.partial(f, {"a": {"x", "y", "z"}, "b": frozenset("uvw")}, A)
--- helpers
A = {"x", "y", "z"}
def f(a, b): return a
""")
    script = (
        f"import sys; sys.path.insert(0, {str(package.root)!r}); import {package.name}.nodes as nodes\n"
        f"from embedline.running.code import CodeIndex; print(CodeIndex({package.name!r}).of_function(nodes.node))"
    )
    runs = [last_line(script, seed) for seed in "12"]
    assert runs[0] == runs[1] == str(package.code())


def test_two_partials_of_one_function_differ(package: Package) -> None:
    package.write("def f(a): return a\n")
    function = package.load().f
    of_function = CodeIndex(package.name).of_function
    codes = [of_function(functools.partial(function, value)) for value in (1, 1.0, True, "1", [1], None)]
    assert all(a.definitions != b.definitions for a, b in itertools.combinations(codes, 2))


# Libraries

LIBRARIES = {
    "imported, and not used": ("import numpy as np\ndef node(): return 1", set()),
    "used in another function": ("import numpy as np\ndef f(): return np\ndef node(): return 1", set()),
    "used": ("import numpy as np\ndef node(): return np.ones(1)", {"numpy"}),
    "a name of it": ("from numpy.linalg import norm\ndef node(): return norm(1)", {"numpy"}),
    "all names of it": ("from numpy import *\ndef node(): return ones(len([1]))", {"numpy"}),
    "all names of it, and none is used": ("from numpy import *\ndef node(): return len([1])", set()),
    "imported in the function": ("def node():\n    import numpy.linalg\n    return numpy.linalg.norm(1)", {"numpy"}),
    "imported in another function": ("def f():\n    import numpy\n    return numpy.e\ndef node(): return 1", set()),
    "an annotation": ("import numpy as np\ndef node(a: 'np.ndarray'): return a", {"numpy"}),
    "a base class": ("import pydantic\nclass A(pydantic.BaseModel): pass\ndef node(): return A()", {"pydantic"}),
    "a decorator": ("import pydantic\n@pydantic.validate_call\ndef node(): return 1", {"pydantic"}),
    "set up by the module": ("import numpy as np\nnp.seterr()\ndef node(): return 1", {"numpy"}),
    "behind a condition": (
        "try:\n    import numpy as np\nexcept ImportError:\n    np = None\ndef node(): return np",
        {"numpy"},
    ),
    "behind a condition, and not used": (
        "try:\n    import numpy as np\nexcept ImportError:\n    np = None\ndef node(): return 1",
        set(),
    ),
    "of another name": ("import yaml\ndef node(): return yaml.dump(1)", {"yaml"}),
    "not installed": ("def node():\n    import a_library_that_is_not_there\n    return 1", set()),
    "of Python": (
        "import json, os.path, collections.abc\ndef node(): return json, os.path.join, collections.abc",
        set(),
    ),
    "ignored": ("import kedro, tqdm\nfrom fsspec import filesystem\ndef node(): return kedro, tqdm, filesystem", set()),
    "as the function": ("from numpy import mean as node", {"numpy"}),
    "as the function, in C": ("from numpy import log as node", {"numpy"}),
    "as the function, without a class": ("from torch import stack as node", {"torch"}),
    "Python's own as the function": ("node = len", set()),
    "in a partial": ("import functools, numpy as np\nnode = functools.partial(np.mean, axis=0)", {"numpy"}),
}


@pytest.mark.parametrize("case", LIBRARIES)
def test_libraries_that_are_reached(package: Package, case: str) -> None:
    source, expected = LIBRARIES[case]
    package.write(f"{source}\n")
    assert package.code().libraries.keys() == {*expected, "python"}


def test_versions(package: Package) -> None:
    package.write("import numpy, sklearn\ndef node(): return numpy.e, sklearn\n")
    pytest.importorskip("sklearn")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    sklearn = importlib.metadata.version("scikit-learn")
    assert package.code().libraries == {"numpy": np.__version__, "sklearn": sklearn, "python": python}


def test_several_distributions_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_module, "_distributions", lambda: {"google": ["numpy", "pandas"], "one": ["numpy"]})
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "pandas")}
    assert code_module._version("google") == f"numpy {versions['numpy']}, pandas {versions['pandas']}"
    assert code_module._version("one") == versions["numpy"]
    assert code_module._version("none") is None


def test_a_newer_library_counts(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    package.write("import numpy\ndef node(): return numpy.e\n")
    before = package.code()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    after = package.code()
    assert after.libraries == {**before.libraries, "numpy": "99.0"}
    assert after.definitions == before.definitions


def test_another_package_beside_the_project_is_part_of_it(package: Package) -> None:
    (package.root / f"{package.name}_beside.py").write_text("def f(): return 1\n")
    package.write("from PKG_beside import f\ndef node(): return f()\n")
    before = package.code()
    assert f"{package.name}_beside.f" in before.definitions
    (package.root / f"{package.name}_beside.py").write_text("def f(): return 2\n")
    assert package.code().definitions != before.definitions
    del sys.modules[f"{package.name}_beside"]


def test_an_installed_package_is_a_library_unless_it_is_the_project() -> None:
    import tqdm
    import yaml

    assert CodeIndex().of_function(yaml.dump).definitions == {}
    assert "yaml.dump" in CodeIndex("yaml").of_function(yaml.dump).definitions
    assert CodeIndex().of_function(tqdm.trange).libraries.keys() == {"python"}


# Code that cannot be told


def _by_exec(names: dict[str, Any]) -> Callable[..., Any]:
    exec("def node(): return 1", names)
    made: Callable[..., Any] = names["node"]
    return made


@pytest.mark.parametrize("names", [{}, {"__name__": "__main__"}, {"__name__": "made_at_run_time"}])
def test_a_function_without_a_source_file_is_untraceable(names: dict[str, Any]) -> None:
    with pytest.raises(UntraceableCode, match="node is not defined in a source file"):
        CodeIndex().of_function(_by_exec(names))


def test_a_function_that_a_module_makes_by_exec_is_untraceable(package: Package) -> None:
    package.write("exec('def node(): return 1', globals())\n")
    with pytest.raises(UntraceableCode, match=r"nodes\.node is not defined in a source file"):
        package.code()


def test_a_function_of_a_script(tmp_path: Path) -> None:
    script = (
        "from embedline.running.code import CodeIndex\ndef f(): return 1\ndef g(): return 2\n"
        "if __name__ == '__main__':\n    def node(): return f()\n"
        "    print(sorted(CodeIndex().of_function(node).definitions))\n"
    )
    (tmp_path / "script.py").write_text(script)
    run = functools.partial(
        subprocess.run, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=False
    )
    assert "'__main__.f', '__main__.node'" in run([sys.executable, str(tmp_path / "script.py")]).stdout
    assert "UntraceableCode: __main__.node is not defined" in run([sys.executable, "-c", script]).stderr


UNTRACEABLE = {
    "an object": "def make(held):\n    return lambda: held\nnode = make(object())",
    "a lock": "import threading\ndef make(held):\n    return lambda: held\nnode = make([threading.Lock()])",
    "an array": "import numpy as np\ndef make(held):\n    return lambda: held\nnode = make({'a': np.ones(3)})",
    "a list in itself": "held = []\nheld.append(held)\ndef make(held):\n    return lambda: held\nnode = make(held)",
    "in a partial": "import functools, re\nnode = functools.partial(print, re.compile('a'))",
    "in a default": "def make():\n    def inner(a=object()): return a\n    return inner\nnode = make()",
    "in an instance": "class A:\n    def __init__(self): self.a = object()\n    def f(self): return 1\nnode = A().f",
    "in a library's instance": "import torch\nnode = torch.nn.Linear(1, 1)",
    "in a library's method": "import numpy as np\nnode = np.ones(3).sum",
    "in a subclass of an array": "import numpy\nclass A(numpy.ndarray):\n    def __call__(self): return 1\nnode = A(3)",
    "in a generator": "def make(held):\n    return lambda: held\nnode = make(i for i in 'ab')",
}


@pytest.mark.parametrize("case", UNTRACEABLE)
def test_a_value_that_cannot_be_compared_is_untraceable(package: Package, case: str) -> None:
    package.write(f"{UNTRACEABLE[case]}\n")
    with pytest.raises(UntraceableCode, match="holds a value that cannot be compared: "):
        package.code()


def test_what_the_source_tells_is_not_compared(package: Package) -> None:
    package.write("""
import functools, threading
def guarded(function):
    lock = threading.Lock()
    @functools.wraps(function)
    def wrapper(*args):
        with lock:
            return function(*args)
    return wrapper
MISSING = object()
@guarded
def node(a=MISSING):
    return a
""")
    assert package.reached() == {"nodes.node", "nodes.guarded", "nodes.MISSING"}


def test_a_syntax_error_names_the_file(package: Package) -> None:
    package.write("def node():\n    from .broken import f\n    return f()\n--- broken\ndef f(:\n")
    with pytest.raises(SyntaxError) as error:
        package.code()
    assert error.value.filename == str(package.root / package.name / "broken.py")
    assert error.value.lineno == 1


# Classes


def test_a_dataset_class_with_a_mixin(package: Package) -> None:
    text = """
--- datasets
from kedro_datasets.pandas import CSVDataset
from .atomic import Atomic
class Table(Atomic, CSVDataset): pass
class Other(CSVDataset):
    rate = <<1 => 2>>
--- atomic
class Atomic:
    rate = <<1 => 2>>
--- nodes
"""
    package.write(text)
    before = {name: _code_of_class(package, name) for name in ("Table", "Other")}
    assert before["Table"].definitions.keys() == {
        f"{package.name}.{name}" for name in ("atomic.Atomic", "datasets.Table")
    }
    assert before["Table"].libraries.keys() == {"kedro_datasets", "pandas", "python"}
    package.write(text, edited=True)
    assert _code_of_class(package, "Table").definitions != before["Table"].definitions
    assert _code_of_class(package, "Other").definitions != before["Other"].definitions
    package.write(text.replace("Other(CSVDataset)", "Other(CSVDataset, object)"))
    assert _code_of_class(package, "Table") == before["Table"]


def _code_of_class(package: Package, name: str) -> Code:
    return CodeIndex(package.name).of_class(getattr(package.load("datasets"), name))


def test_a_library_class_is_its_library_and_what_its_module_imports() -> None:
    from kedro_datasets.pandas import ParquetDataset

    code = CodeIndex("embedline").of_class(ParquetDataset)
    assert code.definitions == {}
    versions = {name: importlib.metadata.version(name) for name in ("kedro_datasets", "pandas")}
    assert code.libraries == {**versions, "python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def test_a_class_made_by_exec_is_untraceable() -> None:
    names: dict[str, Any] = {"__name__": "made_at_run_time"}
    exec("class Table: pass", names)
    with pytest.raises(UntraceableCode, match="Table is not defined in a source file"):
        CodeIndex().of_class(names["Table"])


# This project


@pytest.fixture(scope="module")
def of_node() -> Callable[[str], Code]:
    from embedline.pipeline_registry import register_pipelines

    functions = {node.name: node.func for node in register_pipelines()["__default__"].nodes}
    index = CodeIndex("embedline")
    return lambda name: index.of_function(functions[name])


def test_training_reaches_the_network_the_loop_and_their_libraries(of_node: Callable[[str], Code]) -> None:
    code = of_node("rossmann.train")
    expected = {
        "pipelines.tabular.nodes.train",
        "tables.learner.train_network",
        "tables.network.EmbeddingNetwork",
        "tables.options.NetworkOptions",
        "training.loop.fit",
        "training.options.TrainingOptions",
    }
    assert {f"embedline.{name}" for name in expected} <= code.definitions.keys()
    assert {"torch", "narwhals", "polars", "pydantic"} <= code.libraries.keys()
    assert not {"plotly", "lightgbm"} & code.libraries.keys()
    others = {name for name in code.definitions if ".pipelines." in name or ".sources." in name or ".running." in name}
    assert others == {"embedline.pipelines.tabular.nodes.train"} | {
        f"embedline.pipelines.tabular.nodes.{name}" for name in ("Frame", "Bundle", "logger")
    }


def test_a_plot_reaches_its_figure_and_no_training(of_node: Callable[[str], Code]) -> None:
    code = of_node("rossmann.plot_errors")
    assert {
        "embedline.tables.figures.error_figure",
        "embedline.tables.options.ReportOptions",
    } <= code.definitions.keys()
    assert "plotly" in code.libraries
    assert not {"torch", "lightgbm", "accelerate"} & code.libraries.keys()
    assert not [name for name in code.definitions if ".training.loop." in name or ".learner." in name]
    assert "embedline.tables.figures.training_figure" not in code.definitions


def test_every_node_of_the_project_is_traceable_and_small(of_node: Callable[[str], Code]) -> None:
    from embedline.pipeline_registry import register_pipelines

    for node in register_pipelines()["__default__"].nodes:
        code = of_node(node.name)
        assert f"{node.func.__module__}.{node.func.__name__}" in code.definitions
        assert len(code.definitions) < 300, node.name
        assert not [name for name in code.definitions if name.startswith("embedline.running.")], node.name
