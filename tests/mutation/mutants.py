"""Mutants of a module's source: one operator, comparison, constant, choice or call changed in each."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "rint": "floor", "lower": "upper"}
"""Functions and parameters whose place another may take by mistake."""
FACTOR = 1.1
"""A float constant is multiplied by it, which no approximation may bear; an integer is raised by 1."""


@dataclass(frozen=True)
class Mutant:
    """A changed module.

    Attributes:
        function: the outermost function, class or assignment that holds the change; with `before`, `after` and `count`
            (the how-manieth such change in it) the name of the mutant, which outlives changes elsewhere in the file.
        line: where it stands now.
        source: of the whole module.
    """

    function: str
    before: str
    after: str
    count: int
    line: int
    source: str

    @property
    def name(self) -> str:
        return f"{self.function}: {self.before} -> {self.after}" + (f" [{self.count}]" if self.count else "")


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of the lines.

    Left alone: imports, annotations, docstrings, decorators, and names written in capitals at the top.

    >>> [mutant.name for mutant in mutants("def f(x): return x < 1")]
    ['f: x < 1 -> x <= 1', 'f: 1 -> 2']
    >>> [mutant.name for mutant in mutants("def f(x, y):\\n    x += y\\n    return not x or y")]
    ['f: x += y -> x -= y', 'f: not x or y -> not x and y', 'f: not x -> not not x']
    >>> [mutant.name for mutant in mutants("class A:\\n    def f(self) -> int: return 1")]
    ['A: 1 -> 2']
    """
    tree = ast.parse(source)
    texts = [ast.unparse(statement) for statement in tree.body]
    seen: dict[tuple[str, str, str], int] = {}
    for top in range(len(tree.body)):
        name = _name(tree.body[top])
        for index, node in enumerate(_nodes(tree.body[top]) if name else []):
            for variant in range(len(list(_changes(node)))):
                changed = copy.deepcopy(tree.body[top])
                target = list(_nodes(changed))[index]
                change = list(_changes(target))[variant]
                before = ast.unparse(target)
                change()
                key = name, before, ast.unparse(target)
                seen[key] = seen.get(key, -1) + 1
                source = "\n".join([*texts[:top], ast.unparse(changed), *texts[top + 1 :]])
                yield Mutant(*key, seen[key], node.lineno, source)


def _name(top: ast.stmt) -> str:
    """What a top-level statement is called; empty where it is not mutated."""
    if isinstance(top, ast.FunctionDef | ast.ClassDef):
        return top.name
    if isinstance(top, ast.Assign | ast.AnnAssign) and top.value is not None:
        target = top.targets[0] if isinstance(top, ast.Assign) else top.target
        return target.id if isinstance(target, ast.Name) and target.id.startswith("_") else ""
    return ""


def _nodes(node: ast.AST) -> Iterator[ast.expr | ast.AugAssign]:
    """Expressions, and assignments that compute, as they are reached when functions run, outermost first."""
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "annotation", "returns", "args") and not isinstance(node, ast.Call):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_docstring(child):
                continue
            if isinstance(child, ast.expr | ast.AugAssign):
                yield child
            yield from _nodes(child)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: ast.expr | ast.AugAssign) -> Iterator:
    """Functions that change the node in place, each in its own way."""

    def set_to(field: str, value: object) -> Iterator:
        yield lambda: setattr(node, field, value)

    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in OPERATORS:
            yield from set_to("op", OPERATORS[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in OPERATORS:
            yield from set_to("ops", [OPERATORS[type(op)]()])
        case ast.UnaryOp(op=ast.USub()):
            yield from set_to("op", ast.UAdd())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from set_to("operand", ast.UnaryOp(ast.Not(), operand))
        case ast.Constant(value=bool()):
            yield from set_to("value", not node.value)
        case ast.Constant(value=int()):
            yield from set_to("value", node.value + 1)
        case ast.Constant(value=float()):
            yield from set_to("value", node.value * FACTOR or 1.0)
        case ast.IfExp():
            yield from set_to("test", ast.UnaryOp(ast.Not(), node.test))
        case ast.Name(id=name, ctx=ast.Load()) if name in NAMES:
            yield from set_to("id", NAMES[name])
        case ast.Attribute(attr=name) if name in NAMES:
            yield from set_to("attr", NAMES[name])
