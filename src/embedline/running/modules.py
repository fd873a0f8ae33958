"""One parsed source file: its definitions, its imports, the statements that act, and the names in an expression."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass
class Module:
    """One parsed module: its definitions by name, where its imported names come from, and the statements that act."""

    name: str
    is_package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    acting: list[ast.stmt] = field(default_factory=list)

    @classmethod
    def parse(cls, name: str, path: Path) -> Self:
        """Parse the file at ``path`` as the module ``name``."""
        module = cls(name, is_package=path.name == "__init__.py")
        for statement in ast.parse(path.read_bytes(), filename=str(path)).body:
            _sort_statement(statement, module)
        return module


def _sort_statement(statement: ast.stmt, module: Module) -> None:
    """Put a statement of a module's body where it belongs: an import, a definition, or one that acts."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        _bind_imports(statement, module)
    elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        module.definitions.setdefault(statement.name, []).append(statement)
    elif names := _assigned_names(statement):
        for name in names:
            module.definitions.setdefault(name, []).append(statement)
    elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
        _sort_compound(statement, module)


def _sort_compound(statement: ast.stmt, module: Module) -> None:
    """``if``, ``try``, a call: it acts, and what it defines inside is defined by the whole of it."""
    inner = [node for node in ast.walk(statement) if isinstance(node, ast.stmt) and node is not statement]
    for node in inner:
        if isinstance(node, ast.Import | ast.ImportFrom):
            _bind_imports(node, module)
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else _assigned_names(node)
        for name in names:
            module.definitions.setdefault(name, []).append(statement)
    if any(not isinstance(node, ast.Import | ast.ImportFrom) for node in inner) or not inner:
        module.acting.append(statement)


def _assigned_names(statement: ast.stmt) -> list[str]:
    """Names that a plain assignment binds; empty for one that also changes something else (``x.y = 1``)."""
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return []
    flat = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return (
        [part.id for part in flat if isinstance(part, ast.Name)]
        if all(isinstance(part, ast.Name) for part in flat)
        else []
    )


def _bind_imports(statement: ast.Import | ast.ImportFrom, module: Module) -> None:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            whole = alias.name if alias.asname else alias.name.partition(".")[0]
            module.imports[alias.asname or whole] = (whole, None)
        return
    source = _import_source(statement, module)
    for alias in statement.names:
        if alias.name == "*":
            module.stars.append(source)
        else:
            module.imports[alias.asname or alias.name] = (source, alias.name)


def _import_source(statement: ast.ImportFrom, module: Module) -> str:
    """Absolute name of the module that ``from … import`` reads."""
    if not statement.level:
        return statement.module or ""
    parts = module.name.split(".")
    base = parts[: len(parts) - statement.level + module.is_package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def import_targets(node: ast.AST, module: Module) -> Iterator[tuple[str, str | None]]:
    """Modules, and attributes of them, that an import inside of a definition names."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        source = _import_source(node, module)
        yield from ((source, alias.name if alias.name != "*" else None) for alias in node.names)


def imported_modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module


def chains(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """Names that are read, with the attributes taken from them: ``a.b.c`` gives ``("a", "b", "c")``."""
    if isinstance(node, ast.Attribute):
        parts = [node.attr]
        value: ast.expr = node.value
        while isinstance(value, ast.Attribute):
            parts.append(value.attr)
            value = value.value
        if isinstance(value, ast.Name):
            yield (value.id, *reversed(parts))
        else:
            yield from chains(value)
    elif isinstance(node, ast.Name):
        yield (node.id,)
    else:
        for child in ast.iter_child_nodes(node):
            yield from chains(child)


def without_docstrings(statement: ast.stmt) -> ast.stmt:
    """Drop strings that stand alone: docstrings, and those under attributes. The tree is ours, so it is changed."""
    for node in ast.walk(statement):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                body[:] = [part for part in body if not _is_string(part)] or ([ast.Pass()] if name == "body" else [])
    return statement


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
