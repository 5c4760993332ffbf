"""A small language for conditions on messages, as in `norm(linear_acceleration) > 20 and not saturated`.

It looks like Python and is read by Python's parser, but nothing of it is ever run as Python: a walk over the syntax
tree knows the few nodes below, fields of the message, and the functions in `FUNCTIONS`. There are no attributes but a
message's own fields, no calls but those functions, no names but fields, and no arithmetic on anything but numbers and
arrays of numbers, so an expression can neither reach the system nor build something large.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bag.errors import UsageError

MAX_TEXT = 2000
MAX_DEPTH = 40

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "norm": lambda value: float(np.linalg.norm(np.asarray(_numbers(value), float).ravel())),
    "abs": lambda value: np.abs(_numbers(value)),
    "sum": lambda value: np.sum(_numbers(value)),
    "mean": lambda value: np.mean(_numbers(value)),
    "median": lambda value: np.median(_numbers(value)),
    "std": lambda value: np.std(_numbers(value)),
    "min": lambda *values: np.min(_numbers(values[0] if len(values) == 1 else list(values))),
    "max": lambda *values: np.max(_numbers(values[0] if len(values) == 1 else list(values))),
    "any": lambda value: bool(np.any(_numbers(value))),
    "all": lambda value: bool(np.all(_numbers(value))),
    "sqrt": lambda value: np.sqrt(_numbers(value)),
    "exp": lambda value: np.exp(_numbers(value)),
    "log": lambda value: np.log(_numbers(value)),
    "sin": lambda value: np.sin(_numbers(value)),
    "cos": lambda value: np.cos(_numbers(value)),
    "atan2": lambda one, other: np.arctan2(_numbers(one), _numbers(other)),
    "round": lambda value: np.round(_numbers(value)),
    "isnan": lambda value: np.isnan(_numbers(value)),
    "isfinite": lambda value: np.isfinite(_numbers(value)),
    "len": lambda value: len(value),
    "has": lambda value, key: key in value if isinstance(value, dict) else False,
    "startswith": lambda text, start: isinstance(text, str) and text.startswith(str(start)),
    "lower": lambda text: str(text).lower(),
}
CONSTANTS = {"pi": math.pi, "inf": math.inf, "nan": math.nan, "true": True, "false": False, "none": None}
# what arrays say of themselves
ARRAY_FACTS = ("shape", "size", "ndim")

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda one, other: np.power(np.asarray(one, float), np.asarray(other, float)),
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
    ast.Is: lambda one, other: one is other,
    ast.IsNot: lambda one, other: one is not other,
}
# what a wrong expression raises when it meets a message
MISMATCHES = (TypeError, ValueError, LookupError, ArithmeticError, MemoryError, AttributeError)


class Expression:
    """A condition, checked when it is made.

    Args:
        text: the expression.

    Raises:
        UsageError: it uses something the language does not have.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        if len(self.text) > MAX_TEXT:
            raise UsageError(f"an expression of {len(self.text)} characters is too long; {MAX_TEXT} are the limit")
        try:
            self._tree = ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UsageError(f"the expression {self.text!r} cannot be read: {reason}") from None
        self.names: set[str] = set()
        self._check(self._tree, 0)

    def holds(self, fields: Mapping[str, Any]) -> bool:
        """Whether a message with these fields fulfils the condition.

        Raises:
            UsageError: the expression does not fit the message.
        """
        unknown = sorted(self.names - fields.keys() - CONSTANTS.keys())
        if unknown:
            raise UsageError(f"the expression {self.text!r} names {unknown[0]!r}; the message has: {', '.join(fields)}")
        try:
            with np.errstate(all="ignore"):
                value = _value(self._tree, fields)
        except MISMATCHES as error:
            raise UsageError(f"the expression {self.text!r} does not fit the message: {error}") from None
        if isinstance(value, np.ndarray) and value.size > 1:
            raise UsageError(
                f"the expression {self.text!r} gives {value.size} answers; put any(...) or all(...) around it"
            )
        return bool(value)

    def _check(self, node: ast.AST, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UsageError(f"the expression {self.text!r} is nested too deeply")
        allowed = _CHILDREN.get(type(node))
        if allowed is None:
            raise self._refused(node)
        if isinstance(node, ast.Name):
            if node.id.startswith("_"):
                raise self._refused(node)
            self.names.add(node.id)
        elif (isinstance(node, ast.Attribute) and node.attr.startswith("_")) or (
            isinstance(node, ast.Constant) and not isinstance(node.value, (int, float, str, bool, type(None)))
        ):
            raise self._refused(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) >= 1 << 64:
            raise UsageError(f"the expression {self.text!r} has a number beyond 64 bits")
        elif isinstance(node, ast.Call):
            self._check_call(node)
        for child in allowed(node):
            self._check(child, depth + 1)

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            raise UsageError(
                f"the expression {self.text!r} calls what is no function; there are: {', '.join(FUNCTIONS)}"
            )
        if node.keywords:
            raise UsageError(f"the expression {self.text!r} names arguments; functions here take them by position")

    def _refused(self, node: ast.AST) -> UsageError:
        piece = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
        return UsageError(f"the expression {self.text!r} uses {piece!r}, which this language does not have")


def parse_where(text: str) -> tuple[str, Expression]:
    """Topic and condition of `/imu: norm(linear_acceleration) > 20`.

    Raises:
        UsageError: it is not of this form.
    """
    topic, colon, expression = text.partition(":")
    if not colon or not topic.strip() or not expression.strip():
        raise UsageError(f"{text!r} is no condition; write TOPIC: EXPRESSION, as in '/imu: norm(acceleration) > 20'")
    return topic.strip(), Expression(expression)


def _operators(allowed: Mapping[Any, Any], *found: ast.AST) -> list[ast.AST]:
    # an operator that is not in the table is refused like any other node
    return [node for node in found if type(node) not in allowed]


_CHILDREN: dict[type[ast.AST], Callable[[Any], list[ast.AST]]] = {
    ast.Constant: lambda _node: [],
    ast.Name: lambda _node: [],
    ast.BoolOp: lambda node: list(node.values),
    ast.BinOp: lambda node: [node.left, node.right, *_operators(BINARY, node.op)],
    ast.UnaryOp: lambda node: [node.operand, *([] if isinstance(node.op, ast.Not) else _operators(UNARY, node.op))],
    ast.Compare: lambda node: [node.left, *node.comparators, *_operators(COMPARE, *node.ops)],
    ast.Call: lambda node: list(node.args),
    ast.Attribute: lambda node: [node.value],
    ast.Subscript: lambda node: [node.value, node.slice],
    ast.Slice: lambda node: [part for part in (node.lower, node.upper, node.step) if part is not None],
    ast.Tuple: lambda node: list(node.elts),
    ast.List: lambda node: list(node.elts),
    ast.IfExp: lambda node: [node.test, node.body, node.orelse],
}


def _value(node: Any, fields: Mapping[str, Any]) -> Any:
    kind = type(node)
    if kind is ast.Constant:
        return node.value
    if kind is ast.Name:
        return fields[node.id] if node.id in fields else CONSTANTS[node.id]
    if kind in (ast.Tuple, ast.List):
        return [_value(item, fields) for item in node.elts]
    if kind is ast.BoolOp:
        return _bool_op(node, fields)
    if kind is ast.IfExp:
        return _value(node.body if _value(node.test, fields) else node.orelse, fields)
    if kind is ast.Compare:
        return _compare(node, fields)
    if kind is ast.UnaryOp:
        value = _value(node.operand, fields)
        return (not value) if isinstance(node.op, ast.Not) else UNARY[type(node.op)](_numbers(value))
    if kind is ast.BinOp:
        return BINARY[type(node.op)](_numbers(_value(node.left, fields)), _numbers(_value(node.right, fields)))
    if kind is ast.Call:
        return FUNCTIONS[node.func.id](*(_value(argument, fields) for argument in node.args))
    if kind is ast.Attribute:
        return _attribute(_value(node.value, fields), node.attr)
    return _value(node.value, fields)[_key(node.slice, fields)]


def _bool_op(node: ast.BoolOp, fields: Mapping[str, Any]) -> Any:
    stop_at = isinstance(node.op, ast.Or)
    value: Any = not stop_at
    for part in node.values:
        value = _value(part, fields)
        if bool(value) is stop_at:
            return value
    return value


def _compare(node: ast.Compare, fields: Mapping[str, Any]) -> Any:
    left = _value(node.left, fields)
    result: Any = True
    for op, comparator in zip(node.ops, node.comparators, strict=True):
        right = _value(comparator, fields)
        found = COMPARE[type(op)](left, right)
        result = found if result is True else np.logical_and(result, found)
        left = right
    return result


def _attribute(value: Any, name: str) -> Any:
    if isinstance(value, np.ndarray) and name in ARRAY_FACTS:
        return getattr(value, name)
    if isinstance(value, Mapping) and name in value:
        return value[name]
    raise LookupError(f"there is no {name!r} in it")


def _key(node: Any, fields: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Slice):
        return slice(
            *(None if part is None else int(_value(part, fields)) for part in (node.lower, node.upper, node.step))
        )
    if isinstance(node, ast.Tuple):
        return tuple(_key(item, fields) for item in node.elts)
    value = _value(node, fields)
    return value if isinstance(value, str) else int(value)


# arithmetic is for numbers: a text times a billion would fill the memory
def _numbers(value: Any) -> Any:
    if isinstance(value, (bool, int, float, np.bool_, np.number)):
        return float(value) if isinstance(value, int) and abs(value) > 1 << 62 else value
    array = np.asarray(value)
    if array.dtype.kind not in "biufcmM":
        raise TypeError(f"{str(value)[:40]!r} is no number")
    return array
