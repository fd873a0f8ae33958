"""What a source file says, parsed and not executed: which modules it may reach, and a hash of what it computes."""

import ast
import re
from dataclasses import dataclass, field

import xxhash

KEEPING = re.compile("cache|memo(?!ry)")  # in names such as ``lru_cache`` and ``memoize``, not in ``MemoryError``
DOTTED = re.compile(r"\.*[A-Za-z_]\w*([.:][A-Za-z_]\w*)*")
FILLING = {"append", "extend", "insert", "add", "update", "setdefault", "set", "__setitem__"}
CALLED = {"exec", "eval"}  # by name alone: ``model.eval()`` is another one
# What may lead to any module, or to the text of a source.
DYNAMIC = {"__import__", "runpy", "__subclasses__", "spec_from_file_location", "SourceFileLoader"}
DYNAMIC |= {"entry_points", "load_module", "locate", "get_objects", "get_referrers"}
DOCUMENTED = {"__doc__", "getdoc", "getsource", "getsourcelines", "f_lineno", "co_firstlineno", "lineno", "tb_lineno"}


@dataclass
class Source:
    """What one source file says.

    Attributes:
        tree: hash of the syntax tree without docstrings, comments and positions.
        text: hash of the bytes.
        targets: dotted names that may be modules, or end in something of a module.
        passed: packages that are handed around as values: any of their modules may be used.
        is_dynamic: whether any module of the package may be reached.
        is_read: whether docstrings, sources or line numbers may be read by the code.
        keeps: whether its functions may keep what they have read, for other nodes too.
    """

    tree: str
    text: str
    targets: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    is_dynamic: bool = False
    is_read: bool = False
    keeps: bool = False


def parse(content: bytes, name: str, *, is_package: bool) -> Source:
    """Read a source file as the module ``name``.

    Raises:
        SyntaxError: if it is no Python.
    """
    tree = ast.parse(content)
    reader = _Reader(name, is_package)
    reader.visit(tree)
    return Source(
        tree=xxhash.xxh3_128_hexdigest(ast.dump(tree, annotate_fields=False).encode(errors="surrogatepass")),
        text=xxhash.xxh3_128_hexdigest(content),
        targets=sorted(reader.targets),
        passed=sorted(reader.passed),
        is_dynamic=reader.is_dynamic,
        is_read=reader.is_read,
        keeps=reader.keeps or bool(reader.filled & reader.made),
    )


class _Reader(ast.NodeVisitor):
    """Collect what a module imports and mentions; take docstrings out of its tree on the way."""

    def __init__(self, module: str, is_package: bool) -> None:
        self._parts = module.split(".") if is_package else module.split(".")[:-1]
        self.targets: set[str] = set()
        self.bound: dict[str, set[str]] = {}
        self.passed: set[str] = set()
        self.is_dynamic = self.is_read = self.keeps = False
        self.made: set[str] = set()  # names that the module itself assigns
        self.filled: set[str] = set()  # names that functions put something into
        self._depth = 0
        self._chains: set[tuple[str, ...]] = set()

    def visit_Module(self, node: ast.Module) -> None:
        self.generic_visit(node)
        chains = {".".join([target, *chain[1:]]) for chain in self._chains for target in self.bound.get(chain[0], ())}
        self.targets |= chains
        self.passed = chains.union(*(self.bound.get(name, ()) for name in self.passed))

    def generic_visit(self, node: ast.AST) -> None:
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, [each for each in statements if not _is_idle(each)])
        super().generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.keeps |= _sets_once(node)
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_Global(self, node: ast.Global) -> None:
        self.keeps = True

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        if (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)) == "TYPE_CHECKING":
            for statement in node.orelse:  # the body is for the type checker alone
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.targets.add(alias.name)
            top = alias.name.partition(".")[0]
            self.bound.setdefault(alias.asname or top, set()).add(alias.name if alias.asname else top)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self._parts[: len(self._parts) - node.level + 1] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        self.targets.add(source)
        for alias in node.names:
            if alias.name == "*":  # may bring the modules that ``__all__`` names
                self.bound.setdefault(f"{source}.*", set()).add(source)
                self.passed.add(f"{source}.*")
            else:
                self.targets.add(f"{source}.{alias.name}")
                self.bound.setdefault(alias.asname or alias.name, set()).add(f"{source}.{alias.name}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain, inner = [node.attr], node.value
        if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and self._depth:
            self.filled.add(node.value.id)
        self._mention(node.attr)
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            self._mention(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._chains.add((inner.id, *chain))
            if inner.id == "sys" and chain[0] == "modules":
                self.is_dynamic = True
        else:
            self.visit(inner)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and self._depth:
            self.filled.add(node.value.id)
        if not (_is_loaded_modules(node.value) and _is_known(node.slice)):
            self.visit(node.value)
        self.visit(node.slice)

    def visit_Call(self, node: ast.Call) -> None:
        function, first = node.func, node.args[0] if node.args else None
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and self._depth:
            self.filled.update({function.value.id} if function.attr in FILLING else ())
        if isinstance(function, ast.Attribute) and _is_loaded_modules(function.value) and _is_known(first):
            for each in (*node.args, *node.keywords):
                self.visit(each)
        else:
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self._mention(node.id)
        self.is_dynamic |= node.id in CALLED
        if isinstance(node.ctx, ast.Store) and not self._depth:
            self.made.add(node.id)
        self.passed.add(node.id)

    def visit_Constant(self, node: ast.Constant) -> None:
        text = node.value
        if isinstance(text, str) and len(text) < 200:
            self._mention(text)
            if DOTTED.fullmatch(text):
                self._name(text.replace(":", "."))

    def _name(self, text: str) -> None:
        """A string that may name a module of the project, absolute or relative."""
        level = len(text) - len(text.lstrip("."))
        if level:
            self.targets.add(".".join([*self._parts[: len(self._parts) - level + 1], text[level:]]))
        elif self._parts and text.partition(".")[0] == self._parts[0]:
            self.targets.add(text)

    def _mention(self, name: str) -> None:
        self.is_dynamic |= name in DYNAMIC
        self.keeps |= KEEPING.search(name.lower()) is not None
        self.is_read |= name in DOCUMENTED


def _sets_once(function: ast.AST) -> bool:
    """Whether a function sets an attribute that it asks for, as in ``if self.page is None: self.page = ...``."""
    nodes = list(ast.walk(function))
    tests = [inner for node in nodes if isinstance(node, ast.If | ast.IfExp) for inner in ast.walk(node.test)]
    asked = {node.attr for node in tests if isinstance(node, ast.Attribute)}
    asked |= {node.value for node in tests if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in asked for node in nodes
    )


def _is_idle(node: ast.AST) -> bool:
    """``pass``, or a string that stands alone: a docstring, or one under an attribute."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


def _is_loaded_modules(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules"


def _is_known(key: ast.AST | None) -> bool:
    return isinstance(key, ast.Constant) or (isinstance(key, ast.Name) and key.id == "__name__")
