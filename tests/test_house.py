"""The house rules that a machine can keep: one-way imports, sizes, annotations, no guessing."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "triptych"

# A room may import from the rooms of earlier lines and from itself, never from its own line or
# a later one. The order is that of the design; what does not exist yet has its place already.
LAYERS = (
    ("errors",),
    ("spec",),
    ("images",),
    ("towers", "connectors", "attention"),
    ("fusion",),
    ("language",),
    ("model",),
    ("data",),
    ("synth", "inference"),
    ("training",),
    ("recipe",),
    ("evaluation", "serving", "planning", "export"),
    ("cli",),
    ("__main__",),
)
LONGEST_FILE = 350
LONGEST_FUNCTION = 70
DYNAMIC = frozenset({"getattr", "hasattr", "setattr", "delattr", "eval", "exec"})
DYNAMIC_BUDGET = 0


@cache
def trees() -> Mapping[str, ast.Module]:
    """Every module of the package by its dotted name."""
    return {
        module_name(file): ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(SOURCES.rglob("*.py"))
    }


def module_name(file: Path) -> str:
    parts = ("triptych", *file.relative_to(SOURCES).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(module: str, tree: ast.Module) -> Iterator[str]:
    """The modules of the package that ``module`` imports, wherever in the file it does so."""
    known = trees()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found = whole if whole in known else node.module
                if found in known:
                    yield str(found)


def graph() -> dict[str, set[str]]:
    """Which module imports which; a package does not count as importing its own modules."""
    return {
        module: {
            target
            for target in imports(module, tree)
            if target != module and not target.startswith(f"{module}.")
        }
        for module, tree in trees().items()
    }


def find_cycle(edges: Mapping[str, set[str]]) -> list[str]:
    """Some cycle, or nothing."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges.get(module, ())):
            cycle = visit(target, [*path, module])
            if cycle:
                return cycle
        done.add(module)
        return []

    for module in sorted(edges):
        cycle = visit(module, [])
        if cycle:
            return cycle
    return []


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}:{node.lineno} {node.name}", node


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    docstring = node.body[0] if ast.get_docstring(node) else None
    taken = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - taken


def test_every_room_has_its_place() -> None:
    placed = {name for layer in LAYERS for name in layer}
    assert {room(module) for module in trees()} - {""} <= placed


def test_imports_run_one_way() -> None:
    level = {name: place for place, layer in enumerate(LAYERS) for name in layer}
    against = [
        f"{module} -> {target}"
        for module, targets in graph().items()
        for target in targets
        if room(target) and room(module) != room(target)
        if not room(module) or level[room(target)] >= level[room(module)]
    ]
    assert against == []


def test_no_import_cycle() -> None:
    assert find_cycle(graph()) == []


def test_the_cycle_finder_finds_one() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_attributes_are_not_guessed() -> None:
    found = [
        f"{module}:{node.lineno} {node.func.id}"
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in DYNAMIC
    ]
    assert len(found) <= DYNAMIC_BUDGET, found


def test_no_bare_except() -> None:
    found = [
        f"{module}:{node.lineno}"
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert found == []


def test_modules_only_define_when_imported() -> None:
    """No call stands alone at the top of a module, where importing would run it."""
    found = [
        f"{module}:{node.lineno}"
        for module, tree in trees().items()
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert found == []


def test_files_are_short() -> None:
    long = {
        str(file.relative_to(SOURCES)): lines
        for file in SOURCES.rglob("*.py")
        if (lines := len(file.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    }
    assert long == {}


def test_functions_are_short() -> None:
    assert {name for name, node in functions() if body_lines(node) > LONGEST_FUNCTION} == set()


def test_everything_is_annotated() -> None:
    bare = []
    for name, node in functions():
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        arguments += [one for one in (given.vararg, given.kwarg) if one is not None]
        missing = [
            one.arg
            for one in arguments
            if one.annotation is None and one.arg not in ("self", "cls")
        ]
        if missing or node.returns is None:
            bare.append(f"{name}({', '.join(missing)})")
    assert bare == []


@pytest.mark.parametrize("module", ["triptych", "triptych.cli.main"])
def test_starting_is_fast(module: str) -> None:
    """The console command answers --help without torch: its module reaches nothing heavy."""
    reached, left = set(), [module]
    edges = graph()
    while left:
        one = left.pop()
        if one not in reached:
            reached.add(one)
            left += edges[one]
    heavy = {
        f"{one} imports {name}"
        for one in reached
        for node in ast.walk(trees()[one])
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [
            node.module if isinstance(node, ast.ImportFrom) else alias.name for alias in node.names
        ]
        if str(name).split(".")[0] in {"torch", "transformers", "numpy", "PIL", "pydantic"}
    }
    assert heavy == set()
