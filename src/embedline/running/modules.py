"""One parsed source file: what it defines, imports and does when it is imported, and what its statements refer to."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

Chain = tuple[str, ...]  # names joined by dots: ``a.b.c`` is ("a", "b", "c")
Target = tuple[str, Chain]  # a module, and what is taken from it; nothing for the module itself
Locals = Mapping[str, Iterable[Target]]  # names that a function binds, with the modules that they come from

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SCOPES = frozenset({*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef})
LEAVES = frozenset({ast.Name, ast.Constant, ast.Load, ast.Store})  # most of all nodes: worth a shortcut
BINDING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
UNHASHED = {"ctx", "kind", "type_comment"}  # fields of a syntax tree that say nothing about what it computes


@dataclass
class Module:
    """One parsed module.

    Attributes:
        definitions: statements by each name that they bind, in the order of the file.
        imports: where a name comes from; every place, if there are several.
        stars: modules of which all names are imported.
        loaded: modules that are imported together with this one.
        acting: statements that do more than bind names.
    """

    name: str
    is_package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, list[Target]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)
    acting: list[ast.stmt] = field(default_factory=list)

    @classmethod
    def parse(cls, name: str, path: Path) -> Self:
        """Parse the file at ``path`` as the module ``name``."""
        module = cls(name, is_package=path.name == "__init__.py")
        for statement in ast.parse(path.read_bytes(), filename=str(path)).body:
            module._add(statement)
        return module

    def _add(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.If) and _never_happens(statement.test, self.name):
            for other in statement.orelse:
                self._add(other)
            return
        bound = bindings([statement], self)
        self.loaded.update(name for node in _scope([statement]) for name in imported_modules(node, self))
        self.stars += [source for source, _ in bound.pop("*", ())]
        for name, targets in bound.items():
            if targets:
                self.imports.setdefault(name, []).extend(targets)
            if not isinstance(statement, ast.Import | ast.ImportFrom):  # ``try: import a`` depends on all of it
                self.definitions.setdefault(name, []).append(statement)
        if acts(statement):
            self.acting.append(statement)

    def source_of(self, statement: ast.ImportFrom) -> str:
        """Absolute name of the module that ``from … import`` reads."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        base = parts[: len(parts) - statement.level + self.is_package]
        return ".".join([*base, *([statement.module] if statement.module else [])])


def _never_happens(test: ast.expr, module: str) -> bool:
    """``TYPE_CHECKING`` and, in a module that is imported, ``__name__ == "__main__"``."""
    if isinstance(test, ast.Compare):
        left, compared = test.left, isinstance(test.ops[0], ast.Eq) and module != "__main__"
        return compared and isinstance(left, ast.Name) and left.id == "__name__"
    return (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)) == "TYPE_CHECKING"


def acts(statement: ast.stmt, calls: int = 0) -> bool:
    """Whether a statement does more than bind names: it calls something, or stores into an object.

    Args:
        calls: how many levels of functions inside of it are called as well.
    """
    for node in _scope([statement]):
        if isinstance(node, ast.Expr):
            found = not isinstance(node.value, ast.Constant)
        elif isinstance(node, ast.Attribute | ast.Subscript):
            found = not isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = calls > 0 and any(acts(inner, calls - 1) for inner in node.body)
        elif isinstance(node, ast.ClassDef):
            found = any(acts(inner, calls) for inner in node.body)
        else:
            found = isinstance(node, ast.AugAssign | ast.Global)
        if found:
            return True
    return False


def imported_modules(node: ast.AST, module: Module | None = None) -> Iterator[str]:
    """Modules that an import may load; relative ones only if ``module`` says where they start."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and (module or not node.level):
        source = module.source_of(node) if module else str(node.module)
        yield from (source, *(f"{source}.{alias.name}" for alias in node.names))


def _scope(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes below, but not inside of functions, classes and comprehensions."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        yield node
        if type(node) not in SCOPES and type(node) not in LEAVES:
            todo.extend(ast.iter_child_nodes(node))


def bindings(nodes: Iterable[ast.AST], module: Module) -> dict[str, list[Target]]:
    """Names that statements bind in their own scope, each with what it imports (nothing for other bindings)."""
    bound: dict[str, list[Target]] = {}
    for node in _scope(nodes):
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                bound.setdefault(node.id, [])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                bound.setdefault(alias.asname or top, []).append((alias.name if alias.asname else top, ()))
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                target = (module.source_of(node), () if alias.name == "*" else (alias.name,))
                bound.setdefault(alias.asname or alias.name, []).append(target)
        elif isinstance(node, ast.Global):
            bound |= {name: [(module.name, (name,))] for name in node.names}
        elif name := node.name if isinstance(node, BINDING) else getattr(node, "rest", None):  # of a MatchMapping
            bound.setdefault(name, [])
    return bound


class Reading:
    """What statements of a module refer to, and their syntax tree as a text without docstrings.

    Attributes:
        chains: what they read from the module's own names.
        targets: what they read from other modules by imports of their own.
        loaded: modules that they import.
    """

    def __init__(self, statements: Iterable[ast.stmt], module: Module) -> None:
        self.chains: set[Chain] = set()
        self.targets: set[Target] = set()
        self.loaded: set[str] = set()
        self._module = module
        self._text: list[str] = []
        for statement in statements:
            self._own = bindings([statement], module)
            self._read(statement, {})

    @property
    def text(self) -> str:
        """The tree in one line a token."""
        return "\n".join(self._text)

    def _read(self, node: ast.AST, local: Locals) -> None:
        self._text.append(type(node).__name__)
        if isinstance(node, ast.Name | ast.Attribute):
            self._read_chain(node, local)
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._read_import(node, local)
        elif isinstance(node, COMPREHENSIONS):
            self._read(node.generators[0].iter, local)  # the only part that sees the names around it
            local = {**local, **bindings((part.target for part in node.generators), self._module)}
        inner = self._inside(node, local) if isinstance(node, FUNCTIONS) else local
        for name in node._fields:
            if name not in UNHASHED:
                self._read_field(getattr(node, name, None), inner if name == "body" else local)
        if isinstance(node, ast.arg | ast.AnnAssign):
            self._read_quoted(node.annotation, local)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self._read_quoted(node.returns, local)

    def _read_field(self, value: object, local: Locals) -> None:
        if isinstance(value, ast.AST):
            self._read(value, local)
        elif isinstance(value, list):
            self._text.append("[")
            for item in value:
                if not _is_idle(item):
                    self._read_field(item, local)
            self._text.append("]")
        else:
            self._text.append(repr(value))

    def _read_chain(self, node: ast.expr, local: Locals) -> None:
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        self._text.append(".".join(attributes))
        if not isinstance(node, ast.Name):
            self._read(node, local)
            return
        self._text.append(node.id)
        if node.id in local:
            self.targets.update((source, (*taken, *attributes)) for source, taken in local[node.id])
        else:
            self.chains.add((node.id, *attributes))

    def _read_import(self, node: ast.Import | ast.ImportFrom, local: Locals) -> None:
        self.loaded.update(imported_modules(node, self._module))
        for name, targets in bindings([node], self._module).items():
            if name not in local and name not in self._own:  # in the body of a class: who uses it cannot be seen
                self.targets.update(targets)

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, local: Locals) -> Locals:
        """Names that are local in the body of a function, its own and those of the functions around it."""
        body = node.body if isinstance(node.body, list) else [node.body]
        arguments = (part.arg for part in ast.iter_child_nodes(node.args) if isinstance(part, ast.arg))
        return {**local, **dict.fromkeys(arguments, ()), **bindings(body, self._module)}

    def _read_quoted(self, annotation: ast.AST | None, local: Locals) -> None:
        """Read annotations that are written as strings."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                self._read(ast.parse(annotation.value, mode="eval").body, local)
            except SyntaxError:
                pass
        elif isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal"):
            pass
        elif annotation is not None:
            for part in ast.iter_child_nodes(annotation):
                self._read_quoted(part, local)


def _is_idle(node: object) -> bool:
    """``pass``, or a string that stands alone: a docstring, or one under an attribute."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)
