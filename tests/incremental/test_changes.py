"""Whether the runner notices a change: kinds of edits of a small project, in changes.txt, and what no text can say.

Each case runs three times: at first, again without a change (nothing may run), and after the edit. Then the node is
forced to run: what it makes by force is what it must have made, or what a skip must have kept.
"""

import importlib
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kedro.framework.project
import pytest
import yaml
from kedro.framework.hooks.manager import _create_hook_manager, _register_hooks
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from kedro_incremental import IncrementalRunner, Manifest
from kedro_incremental.report import Step

_names = (f"changing_{number}" for number in itertools.count())
CASES = Path(__file__).with_name("changes.txt").read_text(encoding="utf-8")
CASES = re.findall(r"^=== (same|changed): (.*?)\n(.*?)(?=^===|\Z)", CASES, flags=re.DOTALL | re.MULTILINE)
EDIT = re.compile(r"<<(.*?) => (.*?)>>", re.DOTALL)
MADE = {"filepath": "data/made/out.json", "versioned": True}
CATALOG = {"raw": {"type": "json.JSONDataset", "filepath": "raw.json"}, "out": {"type": "json.JSONDataset", **MADE}}
FILES = {"__init__.py": "", "registry.py": "from . import nodes\ndef make(): return nodes.node\n"}
FILES |= {"hooks.py": "HOOKS = []\n", "/raw.json": "[1, 2]", "/p.yml": "1", "/catalog.yml": "{}"}


class Project:
    """A project of one node; each run imports it afresh, as a new process would."""

    def __init__(self, root: Path, package: str) -> None:
        self.root, self.package = root, package
        self._runs = itertools.count(1)

    def write(self, text: str, *, edited: bool = False) -> None:
        """Write a case's files, as they are before or after the edit."""
        for name, content in {**FILES, **dict(_files(text))}.items():
            is_there = (name[0] == "+") == edited if name[0] in "+-" else True
            place = name.lstrip("+-").replace("PKG", self.package)
            path = self.root / place[1:] if place.startswith("/") else self.root / self.package / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_there:
                path.write_text(EDIT.sub(r"\2" if edited else r"\1", content).replace("PKG", self.package))
            else:
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        for name in [name for name in sys.modules if name.startswith(self.package)]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def run(self, **options: Any) -> Step:
        self.forget()
        hooks = importlib.import_module(f"{self.package}.hooks")
        registry = importlib.import_module(f"{self.package}.registry")
        manager: Any = _create_hook_manager()
        _register_hooks(manager, tuple(hooks.HOOKS))
        version = f"v{next(self._runs):03d}"
        entries = {**CATALOG, **yaml.safe_load((self.root / "catalog.yml").read_text())}
        catalog = DataCatalog.from_config(entries, save_version=version)
        catalog["params:p"] = getattr(registry, "PARAMETER", yaml.safe_load((self.root / "p.yml").read_text()))
        manager.hook.after_catalog_created(catalog=catalog)
        runner = IncrementalRunner(manifest=self.root / "data/.runs", **options)
        runner.project = self.root
        pipeline = Pipeline([Node(registry.make(), ["raw", "params:p"], "out", name="compute")])
        runner.run(pipeline, catalog, manager, version)
        return runner._report.steps[0]

    @property
    def made(self) -> str:
        """What the node has made, as the record says."""
        return Path(Manifest(self.root / "data/.runs").records["compute"].outputs["out"].path).read_text()


def _files(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^--- ", f"nodes.py\n{text}", flags=re.MULTILINE):
        name, _, content = part.partition("\n")
        yield name.strip(), re.sub(r"^!.*\n", "", content, flags=re.MULTILINE).rstrip("\n") + "\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    made = Project(tmp_path, next(_names))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHANGES_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(kedro.framework.project, "PACKAGE_NAME", made.package)
    yield made
    made.forget()


@pytest.mark.parametrize("kind,text", [case[::2] for case in CASES], ids=[name for _, name, _ in CASES])
def test_an_edit(project: Project, kind: str, text: str) -> None:
    project.write(text)
    assert project.run().state == "ran"
    before = project.made
    again = project.run()
    if "!always runs" in text:
        assert "cannot be compared" in again.why
        return
    assert again.state == "skipped", again.reasons
    project.write(text, edited=True)
    step = project.run()
    assert step.state == ("ran" if kind == "changed" else "skipped"), step.reasons
    made = project.made
    project.run(force=True)
    assert made == project.made
    assert kind == "same" or made != before or "!only noticed" in text, "the edit changes nothing"


# What no text can say


LISTS = "import os\ndef node(raw, p): return sorted(str(each) for each in os.walk({}, followlinks=True))\n"
READS = (
    "import os\ndef node(raw, p): return [open(os.path.join(folder, name)).read() "
    "for folder, _, names in os.walk({}, followlinks=True) for name in names]\n"
)
ONE = "def node(raw, p): return open('in/a.txt').read()\n"
# What the node reads, the target of the link in/link, and what becomes of the folder.
PATHS: dict[str, tuple[str, str, str]] = {
    "an empty folder": (LISTS, "", "mkdir in/empty"),
    "a file behind a link to a folder": (READS, "../one", "printf changed > one/a.txt"),
    "a link to another folder": (READS, "../one", "ln -sfn ../two in/link"),
    "a link to the folder around it": (ONE, ".", "printf changed > in/a.txt"),
}


@pytest.mark.parametrize("named", ["p", "'in'"], ids=["in a parameter", "opened"])
@pytest.mark.parametrize("case", PATHS)
def test_a_folder(project: Project, case: str, named: str) -> None:
    source, link, change = PATHS[case]
    for name in ("in", "one", "two"):
        (project.root / name).mkdir()
        (project.root / name / "a.txt").write_text(name)
    if link:
        (project.root / "in/link").symlink_to(link)
    project.write(source.format(named) + ("--- /p.yml\n./in\n" if named == "p" else ""))
    assert [project.run().state, project.run().state] == ["ran", "skipped"]
    assert os.system(change) == 0  # in the project
    assert project.run().state == "ran"
    made = project.made
    project.run(force=True)
    assert made == project.made


def test_a_compiled_module(project: Project) -> None:
    import py_compile

    project.write("from .helper import X\ndef node(raw, p): return X\n")
    source, compiled = (project.root / project.package / name for name in ("helper_source", "helper.pyc"))
    for value, state in ((1, "ran"), (1, "skipped"), (2, "ran")):
        source.write_text(f"X = {value}\n")
        py_compile.compile(str(source), str(compiled), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        assert project.run().state == state
        assert project.made == str(value)


def test_a_file_that_changes_while_it_is_read_is_read_again(project: Project) -> None:
    change = "def node(raw, p):\n    read = open('a.txt').read()\n    os.system('printf 2 > a.txt')\n    return read\n"
    project.write(f"import os\n{change}--- /a.txt\n1\n")
    assert [project.run().state, project.run().state, project.made] == ["ran", "ran", '"2"']


EDITED = "import pathlib\nfrom .helper import f\ndef node(raw, p): return f()\n"


@pytest.mark.parametrize("read", [False, True], ids=["code", "a template"])
def test_an_edit_between_import_and_plan_is_not_taken_for_what_ran(project: Project, read: bool) -> None:
    page = "import pathlib\nPAGE = pathlib.Path(__file__).with_name('page.txt').read_text()\ndef f(): return PAGE\n"
    name, text = ("page.txt", "<<1 => 2>>\n") if read else ("helper.py", "def f(): return <<1 => 2>>\n")
    case = f"{EDITED}--- helper.py\n{page}--- page.txt\n{text}" if read else f"{EDITED}--- helper.py\n{text}"
    project.write(case)
    path, edited = str(project.root / project.package / name), EDIT.sub(r"\2", text)
    late = (
        f"import pathlib; path = pathlib.Path({path!r}); path.read_text() == {edited!r} or path.write_text({edited!r})"
    )
    hooks = "from kedro.framework.hooks import hook_impl\nclass Late:\n    @hook_impl\n"
    hooks += f"    def after_catalog_created(self):\n        {late}\nHOOKS = [Late()]\n"
    project.write(f"{case}--- hooks.py\n{hooks}")
    for state, held in (("ran", "1"), ("ran", "2"), ("skipped", "2")):  # first the code that was imported
        assert project.run().state == state
        assert held in project.made


def test_a_module_without_a_distribution_among_the_libraries_counts(project, monkeypatch) -> None:
    from kedro_incremental import canonical_json

    folder = project.root / "libraries"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    folders = (*canonical_json.library_folders(), f"{folder}{os.sep}")
    monkeypatch.setattr(canonical_json, "library_folders", lambda: folders)
    canonical_json.is_installed.cache_clear()
    project.write(f"from {project.package}_single import X\ndef node(raw, p): return X\n")
    try:
        for value, state in ((1, "ran"), (1, "skipped"), (2, "ran")):
            (folder / f"{project.package}_single.py").write_text(f"X = {value}\n")
            assert project.run().state == state
    finally:
        canonical_json.is_installed.cache_clear()


def test_a_distribution_that_a_library_needs_counts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from kedro_incremental import code_fingerprint

    project.write("import pandas\ndef node(raw, p): return 1\n")
    project.run()
    libraries = Manifest(project.root / "data/.runs").records["compute"].inputs.libraries
    assert {"pandas", "numpy", "python-dateutil", "python"} <= libraries.keys()
    version = code_fingerprint._version
    newer = {"python-dateutil": "99.0"}
    monkeypatch.setattr(code_fingerprint, "_version", lambda name: newer.get(name) or version(name))
    step = project.run()
    assert step.state == "ran" and "python-dateutil" in step.why and "99.0" in step.why


def test_what_is_recorded_holds_no_secret(project: Project) -> None:
    entry = "{type: json.JSONDataset, filepath: raw.json, fs_args: {auto_mkdir: true, token: hunter2}, SECRET}"
    entry = entry.replace("SECRET", "credentials: {secret: hunter2}")
    project.write(f"def node(raw, p): return 1\n--- /catalog.yml\nraw: {entry}\n")
    project.run()
    stored = (project.root / "data/.runs/manifest.db").read_bytes()
    assert b"hunter2" not in stored and b"auto_mkdir" in stored
