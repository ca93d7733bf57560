"""A jaxpr as one graph of values: calls opened, branches as selections, equal values one node."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from ._marks import Mark, parsed

#: Loops over layers are unrolled up to so many turns; a longer one that holds steps is not looked into.
LONGEST = 128

_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "core_closed_call"}
_RULES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_SAME = {"copy", "copy_p", "name", "optimization_barrier", "sharding_constraint", "device_put", "pvary"}
_FLAT = {"floor", "ceil", "round", "sign", "is_finite", "nextafter", "argmax", "argmin"}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Node:
    """One value: what it is made from. `smooth`: whether a derivative can pass through it.

    Kinds: input, constant, op, select (inputs: the condition, then the cases), stack and index (of the first axis),
    mark (see `_marks`), stop (stop_gradient), rule (a custom derivative), loop, closed (not looked into)."""

    index: int
    kind: str
    inputs: tuple[Node, ...]
    data: Any
    shape: tuple[int, ...]
    smooth: bool


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Call:
    """One call of a layer's step: the nodes of its parts, by part and leaf."""

    tag: str
    parts: dict[str, dict[int, Node]]
    ranks: dict[tuple[str, int], int]

    def part(self, name: str) -> tuple[Node, ...]:
        return tuple(node for _, node in sorted(self.parts.get(name, {}).items()))

    @property
    def batch(self) -> int:
        """How many axes the program has that the layer does not know of."""
        known = [(self.ranks[part, k], node) for part in ("state", "new state") for k, node in self.parts[part].items()]
        return min((len(node.shape) - rank for rank, node in known), default=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """A scan or while without steps in it: its body as a program of (constants, carry, slices). The first `skip` inputs
    are those of a condition alone."""

    body: Program
    skip: int
    constants: int
    carry: int


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """An output of a function with a derivative of its own."""

    eqn: jex.JaxprEqn
    output: int

    def __hash__(self):
        return hash((id(self.eqn), self.output))

    def __eq__(self, other):
        return isinstance(other, Rule) and self.eqn is other.eqn and self.output == other.output


class Program:
    """All nodes of a jaxpr in an order in which inputs come first; `inputs`, `outputs` and the calls of steps."""

    def __init__(self, closed: jex.ClosedJaxpr):
        self.closed = closed  # holds the constants that are told apart by identity
        self.mutable = False
        self.nodes: list[Node] = []
        self.calls: dict[tuple[int, int], Call] = {}
        self._known: dict[Any, Node] = {}
        self._scopes = itertools.count()
        jaxpr = closed.jaxpr
        self.inputs = [self._new("input", (), k, var.aval) for k, var in enumerate(jaxpr.invars)]
        self.outputs = self._read(jaxpr, closed.consts, self.inputs)
        self.guarded = guarded(self.nodes, self.outputs)

    # Nodes.

    def _make(self, kind: str, inputs: tuple[Node, ...], data: Any, shape: tuple[int, ...], smooth: bool) -> Node:
        key = (kind, data, tuple(node.index for node in inputs))
        try:
            found = self._known.get(key)
        except TypeError:  # a parameter that has no hash: a value of its own
            found, key = None, (kind, len(self.nodes))
        if found is None:
            found = Node(len(self.nodes), kind, inputs, data, shape, smooth)
            self.nodes.append(found)
            self._known[key] = found
        return found

    def _new(self, kind: str, inputs: tuple[Node, ...], data: Any, aval: Any, smooth: bool = True) -> Node:
        self.mutable = self.mutable or hasattr(aval, "inner_aval")
        dtype = getattr(aval, "dtype", None)
        smooth = smooth and dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))
        return self._make(kind, inputs, data, tuple(getattr(aval, "shape", ())), smooth)

    def index(self, node: Node, k: int) -> Node:
        """`node[k]`."""
        if node.kind == "stack":
            return node.inputs[k]
        if node.kind == "select" and node.data == 0:
            condition, *cases = node.inputs
            return self.select(condition, 0, [self.index(case, k) for case in cases])
        if node.kind == "stop":
            inner = self.index(node.inputs[0], k)
            return self._make("stop", (inner,), None, inner.shape, inner.smooth)
        return self._make("index", (node,), k, node.shape[1:], node.smooth)

    def select(self, condition: Node, rank: int, cases: list[Node]) -> Node:
        """One of the cases as a whole (`rank` 0), or for each place along the first `rank` axes."""
        if all(case is cases[0] for case in cases):
            return cases[0]
        return self._make("select", (condition, *cases), rank, cases[0].shape, cases[0].smooth)

    # Reading.

    def _read(self, jaxpr: jex.Jaxpr, consts: Any, inputs: list[Node], scope: int | None = None) -> list[Node]:
        scope = next(self._scopes) if scope is None else scope
        known: dict[Any, Node] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            known[var] = self._new("constant", (), ("array", id(const)), var.aval)

        def node(atom):
            if isinstance(atom, jex.Literal):
                value = np.asarray(atom.val)
                return self._new("constant", (), (str(value.dtype), value.shape, value.tobytes()), atom.aval)
            return known[atom]

        for eqn in jaxpr.eqns:
            outs = self._equation(eqn, [node(atom) for atom in eqn.invars], scope)
            known |= zip(eqn.outvars, outs, strict=True)
        return [node(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: jex.JaxprEqn, inputs: list[Node], scope: int) -> list[Node]:
        name, params, out = eqn.primitive.name, eqn.params, eqn.outvars
        if name == "name" and (mark := parsed(params["name"])) is not None:
            return [self._mark(mark, inputs[0], scope)]
        if name == "custom_vmap_call":  # the marks of one call stay together
            return self._read(*_opened(params["call"]), inputs, scope)
        if name in _SAME and len(inputs) == len(out):
            return inputs
        if name == "stop_gradient":
            return [self._new("stop", (inputs[0],), None, out[0].aval)]
        if name in _CALLS and (inner := params.get("jaxpr", params.get("call_jaxpr"))) is not None:
            return self._read(*_opened(inner), inputs)
        if name == "cond":
            condition, *operands = inputs
            branches = [self._read(*_opened(branch), operands) for branch in params["branches"]]
            return [self.select(condition, 0, list(cases)) for cases in zip(*branches, strict=True)]
        if name == "select_n":
            return [self.select(*_leading(inputs[0]), inputs[1:])]
        if name == "scan" and _has_steps(params["jaxpr"].jaxpr) and params["length"] <= LONGEST:
            return self._unrolled(params, inputs)
        if _has_steps(eqn) or "callback" in name or name == "ffi_call":
            return [self._new("closed", tuple(inputs), (name, id(eqn), k), v.aval) for k, v in enumerate(out)]
        if name == "scan":
            loop = Loop(Program(params["jaxpr"]), 0, params["num_consts"], params["num_carry"])
            return [self._new("loop", tuple(inputs), (loop, k), v.aval) for k, v in enumerate(out)]
        if name == "while":
            body = params["body_jaxpr"]
            loop = Loop(Program(body), params["cond_nconsts"], params["body_nconsts"], len(body.jaxpr.outvars))
            return [self._new("loop", tuple(inputs), (loop, k), v.aval) for k, v in enumerate(out)]
        if name in _RULES:
            return [self._new("rule", tuple(inputs), Rule(eqn, k), v.aval) for k, v in enumerate(out)]
        return self._plain(eqn, inputs)

    def _plain(self, eqn: jex.JaxprEqn, inputs: list[Node]) -> list[Node]:
        name, params, out = eqn.primitive.name, eqn.params, eqn.outvars
        aval: Any = out[0].aval if out else None
        if len(inputs) == 1 and len(out) == 1:
            (one,) = inputs
            before: Any = eqn.invars[0].aval
            same = before.dtype == aval.dtype and one.shape == tuple(aval.shape)
            if same and name in ("convert_element_type", "reshape", "broadcast_in_dim", "squeeze"):
                return [one]
            if name == "squeeze" and tuple(params["dimensions"]) == (0,) and (at := _row(one)) is not None:
                return [self.index(one.inputs[0], at)]
        if name == "stack" and params.get("axis") == 0:
            return [self._new("stack", tuple(inputs), None, aval)]
        smooth = name not in _FLAT
        key = tuple(sorted((k, v) for k, v in params.items())) if params else ()
        return [self._new("op", tuple(inputs), (name, key, k), v.aval, smooth) for k, v in enumerate(out)]

    def _mark(self, mark: Mark, node: Node, scope: int) -> Node:
        made = self._make("mark", (node,), (mark, scope), node.shape, node.smooth)
        call = self.calls.setdefault((scope, mark.call), Call(mark.tag, {}, {}))
        call.parts.setdefault(mark.part, {})[mark.leaf] = made
        call.ranks[mark.part, mark.leaf] = mark.rank
        return made

    def bare(self, node: Node) -> Node:
        """The value that a guarded one stands for."""
        while node in self.guarded:
            node = self.guarded[node]
        return node

    def call(self, node: Node) -> Call:
        """The call that a marked node belongs to."""
        mark, scope = node.data
        return self.calls[scope, mark.call]

    def needed(self, roots: list[Node]) -> list[Node]:
        """What the roots are made from, in order; of a step its ends, and not what lies between them."""
        found, waiting = set(roots), list(roots)
        while waiting:
            node = waiting.pop()
            inputs = node.inputs
            if node.kind == "mark" and node.data[0].part in ("new state", "new trace"):
                parts = self.call(node).parts
                inputs = tuple(own for name in parts if not name.startswith("new") for own in parts[name].values())
            waiting += [own for own in inputs if own not in found]
            found.update(inputs)
        return [node for node in self.nodes if node in found]

    def _unrolled(self, params: dict[str, Any], inputs: list[Node]) -> list[Node]:
        """A loop over layers, turn by turn."""
        constants, n = params["num_consts"], params["num_carry"]
        fixed, carry, slices = inputs[:constants], inputs[constants : constants + n], inputs[constants + n :]
        turns = range(params["length"])
        rows: dict[int, list[Node]] = {}
        for k in reversed(turns) if params["reverse"] else turns:
            now = [self.index(node, k) for node in slices]
            carry, rows[k] = _split(self._read(*_opened(params["jaxpr"]), [*fixed, *carry, *now]), n)
        stacked = [
            self._make("stack", column, None, (len(column), *column[0].shape), column[0].smooth)
            for column in zip(*(rows[k] for k in turns), strict=True)
        ]
        return [*carry, *stacked]


def guarded(nodes: list[Node], outputs: list[Node]) -> dict[Node, Node]:
    """What vmap makes of a value that a branch of a cond reads: the value where that branch is taken, and elsewhere
    itself without gradient. It is the value as long as all that comes of it is chosen where the branch is taken."""
    found = {}
    for node in nodes:
        if node.kind != "select" or node.inputs[0].kind != "op" or node.inputs[0].data[0] != "eq":
            continue
        stopped, value = node.inputs[1], node.inputs[-1]
        if len(node.inputs) == 3 and stopped.kind == "stop" and stopped.inputs[0] is value:
            chosen, branch = node.inputs[0].inputs
            if branch.kind == "constant" and _only_by(node, nodes, outputs, chosen, branch):
                found[node] = value
    return found


def _only_by(node: Node, nodes: list[Node], outputs: list[Node], chosen: Node, branch: Node) -> bool:
    """Whether all that comes of a node is chosen by `chosen` being `branch`."""
    k = int(np.frombuffer(branch.data[2], branch.data[0])[0])
    reached = {node}
    for later in nodes[node.index + 1 :]:
        inputs = later.inputs
        if later.kind == "select" and inputs[0] is chosen and 0 <= k < len(inputs) - 1:
            inputs = tuple(own for place, own in enumerate(inputs) if place != 1 + k)
        if any(own in reached for own in inputs):
            reached.add(later)
    return not any(out in reached for out in outputs)


def _opened(inner) -> tuple[jex.Jaxpr, Any]:
    return (inner.jaxpr, inner.consts) if isinstance(inner, jex.ClosedJaxpr) else (inner, [])


def _split(nodes, n):
    return nodes[:n], nodes[n:]


def _has_steps(program: Any) -> bool:
    """Whether a jaxpr or an equation holds a marked step anywhere within."""
    if isinstance(program, jex.JaxprEqn):
        if program.primitive.name == "name":
            return parsed(program.params["name"]) is not None
        return any(map(_has_steps, jex.jaxprs_in_params(program.params)))
    return any(map(_has_steps, program.eqns))


def _leading(condition: Node) -> tuple[Node, int]:
    """A condition without the last axes along which it is constant, and how many are left."""
    rank = len(condition.shape)
    while condition.kind == "op" and condition.data[0] == "broadcast_in_dim" and len(condition.inputs) == 1:
        inner = condition.inputs[0]
        dims = tuple(dict(condition.data[1])["broadcast_dimensions"])
        kept = sum(size != 1 for size in inner.shape)
        if dims != tuple(range(len(dims))) or any(size == 1 for size in inner.shape[:kept]):
            break
        condition, rank = inner, kept
    return condition, rank


def _row(node: Node) -> int | None:
    """k, if the node is `x[k : k + 1]` with all else of x."""
    if node.kind != "op" or node.data[0] != "slice":
        return None
    params, shape = dict(node.data[1]), node.inputs[0].shape
    start, limit = params["start_indices"], params["limit_indices"]
    whole = params["strides"] is None and limit[0] == start[0] + 1
    rest = all(a == 0 and b == n for a, b, n in zip(start[1:], limit[1:], shape[1:], strict=True))
    return int(start[0]) if whole and rest else None
