"""Which carried values are a layer's own: handed from step to step whole and untouched, state and trace together."""

from __future__ import annotations

from typing import NamedTuple

from ._program import Call, Node, Program

Values = tuple[Node, ...]


class Signature(NamedTuple):
    """The identity of a step, equal for two steps of which one may continue the other: the layer, the weights, and the
    axes that the layer does not know of."""

    tag: str
    parameters: Values
    batch: int


class Group(NamedTuple):
    """Carried values that are one layer's state, then its trace."""

    values: Values
    states: int


class Owners:
    """The `groups` of a program with their signatures, and the calls whose carry is such a group (`proper`).

    The largest set that is consistent: a group's new values are, all together, a step's results, or a group, or a
    carry that begins anew, or one of these chosen by one condition."""

    def __init__(self, program: Program, old: list[Node], new: list[Node]):
        self.program, self.new = program, dict(zip(old, new, strict=True))
        self.calls = [call for call in program.calls.values() if call.parts.keys() >= {"state", "new state"}]
        self.signatures = {id(call): self._signature(call) for call in self.calls}
        self.groups: dict[Group, Signature] = {}
        self._discover()
        self.proper = {id(call) for call in self.calls}
        while self._drop():
            pass

    def bare(self, node: Node) -> Node:
        """The value without marks and without `stop_gradient`: a step stops the gradient of its carry itself."""
        while True:
            node = self.program.bare(node)
            if node.kind != "stop" and not (node.kind == "mark" and node.data[0].part in ("state", "trace")):
                return node
            node = node.inputs[0]

    def slot(self, node: Node) -> Node | None:
        """The carried value that a node is, or is a row of."""
        if node in self.new:
            return node
        return node.inputs[0] if node.kind == "index" and node.inputs[0] in self.new else None

    def carry(self, call: Call) -> Group:
        """What a step starts from."""
        states, trace = call.part("state"), call.part("trace")
        return Group(tuple(map(self.bare, (*states, *trace))), len(states))

    def next(self, group: Group) -> Group:
        """What a group becomes."""

        def one(node):
            if node in self.new:
                return self.bare(self.new[node])
            return self.bare(self.program.index(self.bare(self.new[node.inputs[0]]), node.data))

        return Group(tuple(map(one, group.values)), group.states)

    def altered(self, call: Call) -> list[Node]:
        """The carried values that are not, one by one, what a step of the layer left there."""
        group = self.carry(call)
        wrong = []
        for base in self._bases(group):
            for place, (before, after) in enumerate(zip(base.values, self.next(base).values, strict=True)):
                if not self._kept(after, place, base, call.tag):
                    wrong.append(self.slot(before))
        return [node for node in dict.fromkeys(wrong) if node is not None]

    def _signature(self, call: Call) -> Signature:
        return Signature(
            call.tag, tuple(self.program.bare(node.inputs[0]) for node in call.part("parameters")), call.batch
        )

    def _discover(self):
        waiting = [(base, self.signatures[id(call)]) for call in self.calls for base in self._bases(self.carry(call))]
        while waiting:
            group, signature = waiting.pop()
            if group not in self.groups:
                self.groups[group] = signature
                waiting += [(base, signature) for base in self._bases(self.next(group))]

    def _drop(self) -> bool:
        """Drop what does not hold; whether anything was dropped."""
        wrong = [g for g, signature in self.groups.items() if not self._fits(self.next(g), signature)]
        for group in wrong:
            del self.groups[group]
        lost = [c for c in self.calls if id(c) in self.proper and not self._fits(self.carry(c), self.signatures[id(c)])]
        self.proper -= {id(call) for call in lost}
        return bool(wrong or lost)

    def _fits(self, group: Group, signature: Signature) -> bool:
        call = self.call(group)
        if call is not None:
            return id(call) in self.proper and self.signatures[id(call)] == signature
        if group in self.groups:
            return self.groups[group] == signature
        cases = self.cases(group)
        if cases is not None:
            rank, groups = cases
            return rank <= signature.batch and all(self._fits(case, signature) for case in groups)
        return self._fresh(group) == signature.tag

    def _bases(self, group: Group) -> list[Group]:
        """The carried values that a carry is chosen from."""
        if all(self.slot(node) is not None for node in group.values):
            return [group]
        if (call := self.call(group)) is not None:
            return self._bases(self.carry(call))
        cases = self.cases(group)
        return [] if cases is None else [base for case in cases[1] for base in self._bases(case)]

    def call(self, group: Group) -> Call | None:
        """The step of which these are the results, in order."""
        first = group.values[0]
        if first.kind != "mark" or first.data[0].part != "new state":
            return None
        call = self.program.call(first)
        results = (*call.part("new state"), *call.part("new trace"))
        return call if group.values == results and len(call.part("new state")) == group.states else None

    def cases(self, group: Group) -> tuple[int, list[Group]] | None:
        """Over how many axes and between what one condition chooses."""
        first = group.values[0]
        if first.kind != "select":
            return None
        alike = [
            node.kind == "select"
            and node.inputs[0] is first.inputs[0]
            and node.data == first.data
            and len(node.inputs) == len(first.inputs)
            for node in group.values
        ]
        if not all(alike):
            return None
        cases = zip(*(node.inputs[1:] for node in group.values), strict=True)
        return first.data, [Group(tuple(map(self.bare, case)), group.states) for case in cases]

    def _fresh(self, group: Group) -> str | None:
        """The layer whose empty trace this is, around whatever state."""
        trace = group.values[group.states :]
        marks = [node.data for node in trace if node.kind == "mark" and node.data[0].part == "fresh"]
        begun = {(mark.tag, mark.call, scope) for mark, scope in marks}
        whole = len(marks) == len(trace) and [mark.leaf for mark, _ in marks] == list(range(len(trace)))
        return marks[0][0].tag if len(begun) == 1 and whole else None

    def _kept(self, node: Node, place: int, base: Group, tag: str) -> bool:
        node = self.bare(node)
        if node.kind == "select":
            return all(self._kept(case, place, base, tag) for case in node.inputs[1:])
        if node.kind != "mark":
            return self.slot(node) is not None and node is base.values[place]
        mark = node.data[0]
        part, leaf = ("new state", place) if place < base.states else ("new trace", place - base.states)
        return mark.tag == tag and (mark.part == "fresh" or (mark.part, mark.leaf) == (part, leaf))
