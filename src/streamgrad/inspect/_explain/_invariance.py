"""Is a `stop_gradient` no matter, as that within a softmax? Then nothing that is shown depends on the stopped value.

log Σ exp x is computed as m + log Σ exp(x - m) with m = max x stopped: the true derivative by m is zero. Followed here
is how a value moves when the stopped one moves by δ: not at all, by c δ (a shift), or by a factor exp(k δ) (a scale).
"""

from __future__ import annotations

from typing import NamedTuple

from ._program import Node, Program


class Moves(NamedTuple):
    """`kind`: shift or scale; `by`: c or k; `axes`: for each axis of δ that is longer than one, where it lies."""

    kind: str
    by: float
    axes: tuple[int, ...]


_ELEMENTWISE = {"add", "sub", "mul", "div", "neg", "exp", "log", "abs", "max", "min", "convert_element_type", "copy"}


def is_no_matter(program: Program, stop: Node) -> bool:
    """Whether no output of the program depends on the value of a stopped node."""
    moves: dict[Node, Moves | None] = {}  # None: in a way that is not followed; absent: not at all
    for node in program.nodes:
        if node is stop:
            moves[node] = Moves("shift", 1, tuple(k for k, size in enumerate(node.shape) if size != 1))
        elif any(own in moves for own in node.inputs):
            found = _moves(node, moves)
            if found is None or found.by:
                moves[node] = found
    return not any(node in moves for node in program.outputs)


def _moves(node: Node, moves: dict[Node, Moves | None]) -> Moves | None:
    found = [moves.get(own, Moves("shift", 0, ())) for own in node.inputs]
    known = [own for own in found if own is not None]
    if len(known) < len(found):
        return None
    moving = [own for own in known if own.by]
    first = moving[0]
    if node.kind == "select":
        same = node.inputs[0] not in moves and all(own == first for own in known[1:])
        return first if same else None
    if node.kind != "op":
        return None
    name, params = node.data[0], dict(node.data[1])
    if name == "broadcast_in_dim":
        dims = params["broadcast_dimensions"]
        return first._replace(axes=tuple(int(dims[axis]) for axis in first.axes))
    if name == "squeeze":
        gone = [axis % len(node.inputs[0].shape) for axis in params["dimensions"]]
        return first._replace(axes=tuple(axis - sum(g < axis for g in gone) for axis in first.axes))
    if name in ("reduce_sum", "reduce_max") and first.kind == ("scale" if name == "reduce_sum" else "shift"):
        gone = [int(axis) for axis in params["axes"]]
        kept = tuple(axis - sum(g < axis for g in gone) for axis in first.axes)
        return None if set(gone) & set(first.axes) else first._replace(axes=kept)
    if name not in _ELEMENTWISE or any(own.axes != first.axes for own in moving):
        return None
    return _elementwise(name, known, first)


def _elementwise(name: str, found: list[Moves], first: Moves) -> Moves | None:
    signs = {"add": (1, 1), "sub": (1, -1), "mul": (1, 1), "div": (1, -1), "neg": (-1,)}
    if name in ("exp", "log"):
        of, to = ("shift", "scale") if name == "exp" else ("scale", "shift")
        return first._replace(kind=to) if first.kind == of else None
    if name in ("convert_element_type", "copy"):
        return first
    if name == "abs":
        return first if first.kind == "scale" else None
    if name in ("max", "min"):
        return first if all(own == first for own in found) else None
    kind = "scale" if name in ("mul", "div") else "shift"
    if name == "neg" and first.kind == "scale":
        return first
    if any(own.by and own.kind != kind for own in found):
        return None
    by = sum(sign * own.by for sign, own in zip(signs[name], found, strict=True))
    return Moves(kind, by, first.axes)
