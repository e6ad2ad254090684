"""The rooms of the house: who may import whom, and what every module must look like. Read from the source, not run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ccm"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 420
# Longest prefix wins. A module imports from its own layer or from below; "ccm" alone is the version.
LAYERS = {
    "ccm": 0, "ccm.errors": 0, "ccm.late": 0, "ccm.shape": 0, "ccm.model": 0, "ccm.settings": 0, "ccm.faults": 0, "ccm.messages": 0, "ccm.wire": 0,
    "ccm.catalog": 1, "ccm.dialects": 1, "ccm.routing": 1,
    "ccm.config.schema": 1, "ccm.config.checks": 1, "ccm.config.locate": 1, "ccm.config.read": 1, "ccm.config.urls": 1, "ccm.config.difference": 1,
    "ccm.config": 2, "ccm.upstream": 2, "ccm.usage": 2, "ccm.observe": 2,
    "ccm.proxy": 3, "ccm.control": 4, "ccm.server": 5, "ccm.web": 5, "ccm.app": 6, "ccm.process": 6, "ccm.cli": 6, "ccm.__main__": 6,
}  # fmt: skip
# Rooms of one layer that must not see each other, and pairs forbidden although the layers would allow them.
FORBIDDEN = {
    "ccm.routing": ("ccm.dialects", "ccm.catalog.rows"),
    "ccm.dialects": ("ccm.routing", "ccm.catalog"),
    "ccm.upstream": ("ccm.dialects", "ccm.routing", "ccm.usage"),
    "ccm.observe": ("ccm.upstream", "ccm.usage"),
    "ccm.server": ("ccm.dialects", "ccm.routing"),
    "ccm.control": ("ccm.proxy", "ccm.dialects", "ccm.upstream"),
}
THIRD_PARTY = {"requests", "urllib3", "tomli"}
# Imports inside functions: the command lines start fast; the others are extras that need not be installed.
LATE_IMPORTS = {"ccm.cli": None, "ccm.upstream": {"google", "boto3"}, "ccm.observe": {"opentelemetry"}}
# The two ways of importing later, of `ccm.late`; what they name counts like an import statement.
LATE: dict[str, Callable[[str], bool]] = {"Late": lambda word: True, "LateTable": lambda word: ":" in word}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def layer(module: str) -> int:
    rooms = [room for room in LAYERS if within(module, room)]
    best = max(rooms, key=len)
    if best == "ccm" and module != "ccm":
        pytest.fail(f"{module} stands in no room: say in LAYERS where it belongs")
    return LAYERS[best]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(module, line) of every import statement; `from ccm.x import y` also as ccm.x.y where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            module = node.module or ""
            for alias in node.names:
                below = PACKAGE.parent / (module.replace(".", "/")) / alias.name
                is_module = below.is_dir() or below.with_suffix(".py").is_file()
                yield (
                    (f"{module}.{alias.name}" if is_module and module.startswith("ccm") else module),
                    node.lineno,
                )
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LATE:
            for word in ast.walk(node):
                if (
                    isinstance(word, ast.Constant)
                    and isinstance(word.value, str)
                    and LATE[node.func.id](word.value)
                ):
                    yield word.value.partition(":")[0], word.lineno


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module(path: Path) -> None:
    source, module = path.read_text("utf-8"), name_of(path)
    tree = ast.parse(source)
    docstring = ast.get_docstring(tree)
    assert docstring, "a module says what it is for"
    assert len(source.splitlines()) <= MAX_LINES, "split it by noun"
    mine = layer(module)
    for wanted, line in imports(tree):
        top = wanted.partition(".")[0]
        if top == "ccm":
            assert layer(wanted) <= mine, (
                f"line {line}: layer {mine} imports {wanted} of layer {layer(wanted)}"
            )
            for room, others in FORBIDDEN.items():
                if within(module, room):
                    assert not any(within(wanted, other) for other in others), (
                        f"line {line}: {room} sees {wanted}"
                    )
        elif top not in sys.stdlib_module_names and top != "__future__":
            assert mine >= 1, f"line {line}: layer 0 is standard library only, not {top}"
            late = next((extra for room, extra in LATE_IMPORTS.items() if within(module, room)), set())
            assert top in THIRD_PARTY | (late or set()), f"line {line}: {top} is no dependency of ccm"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_imports_inside_functions(path: Path) -> None:
    module = name_of(path)
    allowed = next((extra for room, extra in LATE_IMPORTS.items() if within(module, room)), set())
    if allowed is None:
        return
    for function in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for wanted, line in imports(function):
                assert wanted.partition(".")[0] in allowed, (
                    f"line {line}: {wanted} is imported inside a function"
                )
