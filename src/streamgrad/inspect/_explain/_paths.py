"""The ways of the derivative of each trained leaf, within a step and from step to step.

Every value has, for each trained leaf that it depends on, the ways in which it does: `NOW`, by a derivative of the
present step that `jax.grad` of the step sees whole, or by a `Cause`, a path whose credit is not, or not surely, the
true one. A layer's own step turns what arrives at its weights into credit for all of the past; this is the only way in
which the past counts. Nothing else that was carried has a gradient, unless a window of steps is differentiated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from ._invariance import is_no_matter
from ._owners import Group, Owners, Signature
from ._program import Call, Loop, Node, Program, Rule

NOW = "now"


@dataclasses.dataclass(frozen=True)
class Cause:
    """Why a path does not count as it should: `label` says where, `text` says it in words."""

    kind: str
    label: str
    text: str
    verdict: Literal["unbiased", "biased", "unknown"] = "biased"


#: The ways in which a value depends on leaves: NOW or a cause -> the set of leaves, as the bits of a number.
Ways = dict[Any, int]

#: Losses that happen within a step; at a carried value they are that value's loss.
_OF_THE_STEP = {"old", "stop"}


class Layer(NamedTuple):
    """What matters of a layer here: its path in the model, and whether its algorithm is exact on its cell."""

    path: str
    bias: str


def join(*ways: Ways) -> Ways:
    total: Ways = {}
    for each in ways:
        for way, leaves in each.items():
            total[way] = total.get(way, 0) | leaves
    return {way: leaves for way, leaves in total.items() if leaves}


def turned(ways: Ways, cause: Callable[[Any], Any]) -> Ways:
    """The same leaves by other ways."""
    return join(*({cause(way): leaves} for way, leaves in ways.items()))


class Plain:
    """How ways go through ordinary values. `judge` says of a custom derivative None (it is the true one) or a cause."""

    def __init__(self, judge: Callable[[Rule], Cause | None]):
        self.judge = functools.cache(judge)
        self._is_no_matter = functools.cache(is_no_matter)

    def run(self, program: Program, inputs: list[Ways]) -> list[Ways]:
        """The ways of a program's outputs."""
        given = dict(zip(program.inputs, inputs, strict=True))
        ways = self.through(program, program.needed(program.outputs), given, lambda node, ways: None)
        return [ways[node] for node in program.outputs]

    def through(self, program: Program, nodes: list[Node], ways: dict[Node, Ways], special) -> dict[Node, Ways]:
        loops: dict[tuple, list[Ways]] = {}
        for node in nodes:
            if node in ways:
                continue
            found = special(node, ways)
            if found is None:
                found = self._one(program, node, ways, loops) if node.smooth else {}
            ways[node] = found
        return ways

    def _one(self, program: Program, node: Node, ways: dict[Node, Ways], loops) -> Ways:
        if node.kind == "loop":
            loop, k = node.data
            if (key := (id(loop), node.inputs)) not in loops:
                loops[key] = self._loop(loop, [ways[own] for own in node.inputs[loop.skip :]])
            return loops[key][k]
        if node in program.guarded:
            return ways[program.guarded[node]]
        inputs = node.inputs[1:] if node.kind == "select" else node.inputs
        total = join(*(ways[own] for own in inputs))
        if NOW not in total or node.kind not in ("stop", "rule", "closed"):
            return total
        if node.kind == "stop":
            if self._is_no_matter(program, node):
                return {}
            cause = Cause("stop", "stop_gradient", "a stop_gradient (a surrogate: the true derivative is not zero)")
        elif node.kind == "rule":
            cause = self.judge(node.data) or NOW
        else:
            cause = Cause("closed", node.data[0], f"a {node.data[0]}, which is not looked into", "unknown")
        return turned(total, lambda way: cause if way == NOW else way)

    def _loop(self, loop: Loop, inputs: list[Ways]) -> list[Ways]:
        n = loop.constants
        constants, carry, slices = inputs[:n], inputs[n : n + loop.carry], inputs[n + loop.carry :]
        while True:
            outs = self.run(loop.body, [*constants, *carry, *slices])
            wider = [join(a, b) for a, b in zip(carry, outs, strict=False)]
            if wider == carry:
                return [*carry, *outs[loop.carry :]]
            carry = wider


class Paths(Plain):
    """The ways of one step of a model, at rest from step to step: `at(nodes)`.

    - `leaves`, `xs`: the inputs that are trained, and those that come from outside;
    - `old`, `new`: the carry before and after; `names` of its parts;
    - `start`: the ways of the carry before the first step;
    - `layers`: by tag; `windowed`: whether a window of steps is differentiated, so that the carry passes credit on.
    """

    def __init__(self, program, leaves, xs, old, new, names, start, layers, windowed, judge):
        super().__init__(judge)
        self.program: Program = program
        self.leaves: list[Node] = leaves
        self.xs: list[Node] = xs
        self.layers: dict[str, Layer] = layers
        self.windowed: bool = windowed
        made = len(program.nodes)
        self.owners = Owners(program, old, new)
        weights = [node for signature in self.owners.signatures.values() for node in signature.parameters]
        self._nodes = program.needed([*program.outputs, *weights, *program.nodes[made:]])
        self.names: dict[Node, str] = dict(zip(old, names, strict=True))
        self._owner: dict[Node, list[tuple[Group, Signature]]] = {}
        self._traces: set[Node] = set()
        for group, signature in self.owners.groups.items():
            for place, node in enumerate(group.values):
                for one in {node, self.owners.slot(node) or node}:
                    self._owner.setdefault(one, []).append((group, signature))
                    if place >= group.states:
                        self._traces.add(one)
        self._varies = self._varying()
        self._past: dict[Node, Ways] = {
            node: self._started(node, ways) for node, ways in zip(old, start, strict=True) if node not in self._traces
        }
        self._own: dict[Signature, int] = {}
        while self._turn():
            pass

    def at(self, nodes: list[Node]) -> Ways:
        """The ways by which these values depend on each leaf."""
        return join(*(self._ways[node] for node in nodes))

    def begun(self, values: dict[Node, Any], fresh: dict[str, list[Any]]) -> Ways:
        """What is spoiled by traces that do not begin empty: `values` before the first step, `fresh` by tag."""
        loaded = lambda value: jnp.issubdtype(value.dtype, jnp.inexact) and bool(jnp.any(value != 0))
        found = []
        for group, signature in self.owners.groups.items():
            for node, empty in zip(group.values[group.states :], fresh[signature.tag], strict=True):
                slot = self.owners.slot(node)
                if slot is not None and loaded(values[slot]) and not loaded(empty):
                    label = f"carry{self.names[slot]}"
                    text = f"{label}, which does not begin as an empty trace"
                    found.append({Cause("altered", label, text): self._own[signature]})
        return join(*found)

    # From step to step.

    def _turn(self) -> bool:
        """One step; whether anything new was carried on."""
        self._rest: dict[Node, Ways] = {}
        self._ways: dict[Node, Ways] = {leaf: {NOW: 1 << k} for k, leaf in enumerate(self.leaves)}
        self.through(self.program, self._nodes, self._ways, self._special)
        own = {s: self._own_leaves(s) for s in self.owners.groups.values()}
        past = {slot: join(ways, self._arrived(slot)) for slot, ways in self._past.items()}
        changed = own != self._own or past != self._past
        self._own, self._past = own, past
        return changed

    def _arrived(self, slot: Node) -> Ways:
        """What of a new carried value no step accounts for."""
        groups = self._owner.get(slot)
        if groups is None:
            ways = self._ways[self.owners.new[slot]]
        else:
            ways = join(*(self._unaccounted(self.owners.next(group)) for group, _ in groups))
        return turned(ways, lambda way: self._lost(way, slot))

    def _lost(self, way, slot: Node):
        if way == NOW and self.windowed:
            return NOW
        if way == NOW or (way.kind in _OF_THE_STEP and not self.windowed):
            return _carried(self._label(slot))
        return way

    def _unaccounted(self, group: Group) -> Ways:
        """The ways of a layer's state, without those that the layer's own trace accounts for."""
        states = group.values[: group.states]
        if self.owners.call(group) is not None:
            return join(*(self._rest.get(node, self._ways[node]) for node in states))
        if group in self.owners.groups:
            return join(*(self._past.get(slot, {}) for slot in map(self.owners.slot, states) if slot is not None))
        if (cases := self.owners.cases(group)) is not None:
            return join(*map(self._unaccounted, cases[1]))
        return join(*(self._ways[node] for node in states))  # with a trace that begins anew

    def _label(self, slot: Node) -> str:
        groups = self._owner.get(slot)
        return f"carry{self.names[slot]}" if groups is None else self.layers[groups[0][1].tag].path

    def _started(self, slot: Node, ways: Ways) -> Ways:
        label = f"carry{self.names[slot]}"
        cause = Cause("start", label, f"the initial value of {label}, which gets no gradient")
        return turned(ways, lambda way: cause)

    def _varying(self) -> dict[Node, bool]:
        """Whether a value changes from step to step."""
        fixed = {slot for slot, new in self.owners.new.items() if new is slot}
        moving = {*self.xs, *(slot for slot in self.owners.new if slot not in fixed)}
        varies: dict[Node, bool] = {}
        for node in self.program.nodes:
            inputs = [self.program.guarded[node]] if node in self.program.guarded else node.inputs
            varies[node] = node in moving or any(varies[own] for own in inputs)
        return varies

    # Within a step.

    def _special(self, node: Node, ways: dict[Node, Ways]) -> Ways | None:
        if (slot := self.owners.slot(node)) is not None:
            return self._read(node, slot)
        if node.kind == "input":
            return {}
        if node.kind == "mark" and node.data[0].part in ("new state", "new trace"):
            return self._stepped(node, ways)
        return None

    def _read(self, node: Node, slot: Node) -> Ways:
        """What a carried value brings along when something else than its own step reads it."""
        found = [self._past.get(slot, {})]
        for _, signature in self._owner.get(node, self._owner.get(slot, [])):
            path = self.layers[signature.tag].path
            way: Any = Cause("old", path, f"the old state of {path}, read beside its own step")
            if slot in self._traces:
                way = Cause("trace", path, f"the trace of {path}, which the model itself reads", "unknown")
            elif self.windowed:
                way = NOW
            found.append({way: self._own.get(signature, 0)})
        return join(*found)

    def _stepped(self, node: Node, ways: dict[Node, Ways]) -> Ways:
        """The result of a layer's own step."""
        call = self.program.call(node)
        layer, get = self.layers[call.tag], lambda part: join(*(ways[own] for own in call.part(part)))
        before, parameters = self.owners.carry(call), call.part("parameters")
        proper = id(call) in self.owners.proper
        if node.data[0].part == "new trace":
            cause = Cause("trace", layer.path, f"the trace of {layer.path}, which the model itself reads", "unknown")
            return turned(join(get("parameters"), get("x")), lambda way: cause)
        still = join(*(ways[own] for own in parameters if not self._varies[own]))
        moving = join(*(ways[own] for own in parameters if self._varies[own]))
        varies = Cause("varies", layer.path, f"the weights of {layer.path}, which change from step to step")
        context = Cause("context", layer.path, f"the context of {layer.path}", "unknown")
        past = self._unaccounted(before) if proper else get("state")
        rest = join(
            turned(moving, lambda way: varies if way == NOW else way),
            {way: leaves for way, leaves in still.items() if way != NOW},
            get("x"),
            turned(get("context"), lambda way: context),
            turned(past, lambda way: _carried(layer.path) if way == NOW else way),
        )
        own = still.get(NOW, 0)
        if not proper:
            return join(rest, *({cause: own} for cause in self._altered(call, layer)))
        self._rest[node] = rest
        return join(rest, {NOW: own}, self._by_algorithm(layer, own))

    def _altered(self, call: Call, layer: Layer) -> list[Cause]:
        names = [f"carry{self.names[slot]}" for slot in self.owners.altered(call)]
        if not names:
            text = f"the carry of {layer.path}, of which not all is handed on together"
            return [Cause("altered", layer.path, text)]
        return [
            Cause("altered", name, f"{name}, which is not what the step of {layer.path} left there") for name in names
        ]

    def _by_algorithm(self, layer: Layer, own: int) -> Ways:
        if layer.bias == "exact":
            return {}
        text = f"{layer.path}, whose algorithm is {layer.bias}"
        verdict: Any = layer.bias
        return {Cause("algorithm", layer.path, text, verdict): own}

    def _own_leaves(self, signature: Signature) -> int:
        """The leaves that a layer's trace accounts for."""
        still = [node for node in signature.parameters if not self._varies[node]]
        return join(*(self._ways[node] for node in still)).get(NOW, 0)


def _carried(label: str) -> Cause:
    return Cause("carried", label, f"{label}, whose past gets no gradient")
