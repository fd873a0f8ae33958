"""What names mean: which modules belong to the project, and the definitions that a name leads to through imports."""

import ast
import builtins
import functools
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .modules import Chain, Module, Reading, Target, acts

MODULE_BODY = "(module body)"

Key = tuple[str, str]  # module and definition


@dataclass
class Found:
    """What references mean: definitions of the project, and top-level packages of libraries."""

    keys: set[Key] = field(default_factory=set)
    libraries: set[str] = field(default_factory=set)


class Names:
    """Modules of a project, parsed as far as they are asked for.

    Args:
        package: the project's own top-level package, wherever it is installed. Other top-level packages belong to the
            project if they lie outside of the installed libraries.
    """

    def __init__(self, package: str | None) -> None:
        self._package = package
        self._roots: dict[str, Path | None] = {}
        self._modules: dict[str, Module | None] = {}
        self._following: set[Target] = set()

    def is_project(self, module: str | None) -> bool:
        """Whether a module belongs to the project."""
        return module is not None and self._root(module.partition(".")[0]) is not None

    def module(self, name: str) -> Module | None:
        """A module of the project, parsed; None for all others."""
        if name not in self._modules:
            self._modules[name] = self._parse(name)
        return self._modules[name]

    def bodies(self, name: str) -> set[Key]:
        """What happens when a module is imported: its body, and those of the packages around it."""
        parts = name.split(".")
        names = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        return {(name, MODULE_BODY) for name in names if self.module(name)}

    def find(self, module: Module, chain: Chain, found: Found) -> bool:
        """Find what ``a.b.c`` means inside a module; False if the module does not bind ``a``."""
        name, rest = chain[0], chain[1:]
        if name in module.definitions:
            found.keys.add((module.name, name))
        for source, taken in module.imports.get(name, ()):
            if source == module.name and taken:  # ``from . import name`` in a package
                self.follow(f"{source}.{taken[0]}", (*taken[1:], *rest), found)
            else:
                self.follow(source, (*taken, *rest), found)
        if name in module.definitions or name in module.imports:
            return True
        return any([self._find_in_star(star, chain, found) for star in module.stars])  # each may be under a condition

    def _find_in_star(self, star: str, chain: Chain, found: Found) -> bool:
        if hasattr(builtins, chain[0]):
            return False
        if not self.is_project(star):
            found.libraries.add(star.partition(".")[0])
            return False
        module, step = self.module(star), (star, ("*", *chain))
        if module is None or step in self._following:
            return False
        self._following.add(step)
        known = self.find(module, chain, found)
        self._following.remove(step)
        return known

    def follow(self, source: str, chain: Chain, found: Found) -> None:
        """Find what ``chain`` means that is taken from the module ``source``."""
        if not self.is_project(source):
            found.libraries.add(source.partition(".")[0])
            return
        module, step = self.module(source), (source, chain)
        if module is None or step in self._following:  # modules may import each other
            return
        self._following.add(step)
        found.keys |= self.bodies(source)
        if not chain:  # the module is passed around as a value: everything in it may be used
            self._find_all(module, found)
        elif not self.find(module, chain, found):
            submodule = f"{source}.{chain[0]}"
            if self.module(submodule):
                self.follow(submodule, chain[1:], found)
            elif not chain[0].startswith("__"):  # a name that is made at run time
                self._find_all(module, found)
        self._following.remove(step)

    def _find_all(self, module: Module, found: Found) -> None:
        for name in {**module.definitions, **module.imports}:
            self.find(module, (name,), found)
        for star in module.stars:
            self.follow(star, (), found)

    def registering(self, module: Module) -> Iterator[ast.stmt]:
        """Definitions that the project's own code may put somewhere, to be found without their names."""
        statements = {id(each): each for group in module.definitions.values() for each in group}
        return (each for each in statements.values() if self._registers(each, module))

    def _registers(self, statement: ast.stmt, module: Module) -> bool:
        for decorator in getattr(statement, "decorator_list", ()):
            called = isinstance(decorator, ast.Call)
            for chain in Reading([ast.Expr(decorator.func if called else decorator)], module).chains:
                made = self._meanings(chain, module)
                if made == self._meanings(chain[:-1], module) != []:  # a method of what the project defines
                    return True
                if any(not isinstance(each, ast.FunctionDef) or acts(each, 1 + called) for each, _ in made):
                    return True
        return isinstance(statement, ast.ClassDef) and self._is_noticed(statement, module)

    def _is_noticed(self, cls: ast.ClassDef, module: Module) -> bool:
        """Whether a base class or metaclass of the project may act when the class is made."""
        metaclass = [ast.Expr(keyword.value) for keyword in cls.keywords if keyword.arg == "metaclass"]
        if any(self._meanings(chain, module) for chain in Reading(metaclass, module).chains):
            return True
        bases = Reading([ast.Expr(base) for base in cls.bases], module).chains
        for made, home in (each for chain in bases for each in self._meanings(chain, module)):
            if isinstance(made, ast.ClassDef) and made is not cls:
                hooks = [inner for inner in made.body if getattr(inner, "name", None) == "__init_subclass__"]
                if hooks or self._is_noticed(made, home):
                    return True
        return False

    def _meanings(self, chain: Chain, module: Module) -> list[tuple[ast.stmt, Module]]:
        """Definitions that a chain of names leads to, with the modules that they are in."""
        found = Found()
        if chain:
            self.find(module, chain, found)
        homes = {name: home for name, _ in found.keys if (home := self.module(name))}
        keys = sorted((module, name) for module, name in found.keys if name != MODULE_BODY)
        return [(each, homes[module]) for module, name in keys for each in homes[module].definitions[name]]

    def _root(self, top: str) -> Path | None:
        """Folder (or file) of a top-level package of the project; None for libraries."""
        if top not in self._roots:
            self._roots[top] = self._find_root(top)
        return self._roots[top]

    def _find_root(self, top: str) -> Path | None:
        if top in sys.stdlib_module_names:
            return None
        if top == "__main__":
            source = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
            return source.resolve() if source.suffix == ".py" and source.is_file() else None
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
        if spec is None or not (spec.submodule_search_locations or (spec.origin or "").endswith(".py")):
            return None
        root = Path(next(iter(spec.submodule_search_locations))) if spec.submodule_search_locations else None
        root = (root or Path(str(spec.origin))).resolve()
        installed = any(root.is_relative_to(folder) for folder in _library_folders())
        return root if top == self._package or not installed else None

    def _parse(self, name: str) -> Module | None:
        top, *parts = name.split(".")
        root = self._root(top)
        if root is None or (parts and root.is_file()):
            return None
        path = root.joinpath(*parts)
        candidates = [root] if root.is_file() else [path / "__init__.py", path.with_name(f"{path.name}.py")]
        source = next((candidate for candidate in candidates if candidate.is_file()), None)
        if source is not None:
            return Module.parse(name, source)
        return Module(name, is_package=True) if path.is_dir() else None  # a package without ``__init__.py``


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    folders = {*site.getsitepackages(), site.getusersitepackages()}
    folders |= {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    return tuple(Path(folder).resolve() for folder in folders)
