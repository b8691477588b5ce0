"""The collectives of a compiled program, from XLA's text: kinds, bytes and mesh axes."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

import numpy as np
from jax.sharding import Mesh

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_ASYNC_START = "async-collective-start"  # what a TPU's compiler calls the fusion that starts one
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w*|c64|c128)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_LOOP = re.compile(r"\b(body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INTEGER = re.compile(r"[su]\d+\[\]")
_NUMBER = re.compile(r"(\d+)\)")
_OPERAND = re.compile(r"(?:^|, |\*/)%?([\w.\-]+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_GROUPS = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind over the same mesh axes in one run of a program.

    Attributes:
        kind: `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all` or `collective-permute`.
        axes: the mesh axes whose devices take part; those that a permutation moves along.
        count: how often they run; a loop counts as often as it may go round, once where XLA does not
            say.
        bytes: of the arrays before the reduction or after the gathering, on one device, all runs.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: int


@dataclasses.dataclass
class _Computation:
    """One of a program's computations.

    Attributes:
        lines: its own collectives: operation, shapes of the result, the rest of the line.
        calls: what it calls.
        fusion: the name of the fusion that it is the inside of; None where it is none's.
        loops: body and condition of its loops, and the number of rounds where XLA notes it.
        parameter: the name of its last parameter; a loop's body and condition have one, the loop's state.
        integers: its integers that are no arrays: name -> operation, the rest of the line.
        returned: names of the elements of the tuple that it returns.
    """

    lines: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    calls: list[str] = dataclasses.field(default_factory=list)
    fusion: str | None = None
    loops: list[tuple[str, str, int | None]] = dataclasses.field(default_factory=list)
    parameter: str = ""
    integers: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    returned: list[str] = dataclasses.field(default_factory=list)

    def constant(self, name: str) -> int | None:
        """The value of an integer that is a constant; None for any other."""
        operation, rest = self.integers.get(name, ("", ""))
        number = _NUMBER.match(rest) if operation == "constant" else None
        return int(number[1]) if number else None

    def element(self, name: str) -> int | None:
        """Which element of the parameter an integer is; None for any other."""
        operation, rest = self.integers.get(name, ("", ""))
        if operation != "get-tuple-element" or _operands(rest) != [self.parameter]:
            return None
        index = _INDEX.search(rest)
        return int(index[1]) if index else None

    def added(self, name: str, index: int) -> int | None:
        """By how much an integer is more than element `index` of the parameter; None: no constant."""
        if self.element(name) == index:
            return 0
        operation, rest = self.integers.get(name, ("", ""))
        operands = _operands(rest)
        if operation == "copy":
            return self.added(operands[0], index)
        if operation == "add" and len(operands) == 2:
            for one, other in (operands, operands[::-1]):
                constant, before = self.constant(other), self.added(one, index)
                if constant is not None and before is not None:
                    return before + constant
        return None


def of_program(text: str, mesh: Mesh) -> tuple[Collective, ...]:
    """Adds up the collectives of a compiled program, largest first.

    Args:
        text: `jax.stages.Compiled.as_text()`.
        mesh: the mesh it was compiled for.
    """
    computations, entry = _read(text)
    runs: dict[str, int] = collections.Counter()

    def visit(name: str, times: int) -> None:
        if name not in computations:
            return
        runs[name] += times
        for called in computations[name].calls:
            visit(called, times)
        for body, condition, rounds in computations[name].loops:
            visit(body, times * (rounds or _rounds(computations, body, condition)))

    visit(entry, 1)
    counts: dict[tuple[str, tuple[str, ...]], int] = collections.Counter()
    sizes: dict[tuple[str, tuple[str, ...]], int] = collections.Counter()

    def add(kind: str, axes: tuple[str, ...], times: int, size: int) -> None:
        counts[kind, axes] += times
        sizes[kind, axes] += times * size

    # On a TPU an asynchronous collective is split over fusions that share its channel: one starts it,
    # others, often in loops, bring it forward. Outside fusions many collectives may have one channel.
    split: dict[tuple[str, tuple[str, ...], str, int], list[tuple[str, int]]]
    split = collections.defaultdict(list)
    for name, times in runs.items():
        fusion = computations[name].fusion
        for operation, shapes, line in computations[name].lines:
            kind = operation.removesuffix("-start")
            groups = _groups(line, mesh.size)
            axes = _axes(groups, mesh)
            if not axes:
                continue
            size = _bytes(operation, shapes, len(groups[0]))
            channel = _CHANNEL.search(line)
            if fusion is None or channel is None:
                add(kind, axes, times, size)
            else:
                split[kind, axes, channel[1], size].append((fusion, times))
    for (kind, axes, _, size), parts in split.items():
        started = sum(times for fusion, times in parts if fusion.startswith(_ASYNC_START))
        add(kind, axes, started or min(times for _, times in parts), size)
    found = [Collective(*key, counts[key], sizes[key]) for key in counts]
    return tuple(sorted(found, key=lambda one: (-one.bytes, one.kind, one.axes)))


def _rounds(computations: dict[str, _Computation], body: str, condition: str) -> int:
    """How often a loop may go round that counts from 0; 1 where its condition has no constant.

    The products that a TPU gathers or scatters for, piece by piece, count two pieces a round.
    """
    if body not in computations or condition not in computations:
        return 1
    inside, tested = computations[body], computations[condition]
    read = {tested.element(name) for name in tested.integers} - {None}
    steps = [
        inside.added(inside.returned[index], index)
        for index in read
        if index is not None and index < len(inside.returned)
    ]
    step = min((step for step in steps if step), default=1)
    return max(1, math.ceil(_bound(computations, condition) / step))


def _bound(computations: dict[str, _Computation], condition: str) -> int:
    """The number that a loop's counter is compared with: the largest constant of its condition."""
    if condition not in computations:
        return 0
    own = computations[condition]
    constants = [own.constant(name) or 0 for name in own.integers]
    return max([0, *constants, *(_bound(computations, called) for called in own.calls)])


def _read(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", _Computation()
    fusions: dict[str, str] = {}
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations[header[2]] = _Computation()
            entry = header[2] if header[1] else entry
            continue
        instruction = _INSTRUCTION.match(line)
        if instruction is None:
            continue
        name, shapes, operation, rest = instruction.groups()
        if _INTEGER.match(shapes):
            current.integers[name] = (operation, rest)
        if operation == "parameter":
            current.parameter = name
        if operation == "tuple" and line.lstrip().startswith("ROOT "):
            current.returned = _operands(rest)
        if operation.removesuffix("-start") in KINDS:
            current.lines.append((operation, shapes, rest))
        elif operation == "while":
            named = dict(_LOOP.findall(rest))
            trips = _TRIPS.search(rest)
            rounds = int(trips[1]) if trips else None
            current.loops.append((named["body"], named["condition"], rounds))
        else:
            branches = _BRANCHES.search(rest)
            called = _CALLED.findall(rest)
            current.calls += called
            if operation == "fusion":
                fusions |= dict.fromkeys(called, name)
            if branches:
                current.calls += [name.strip().lstrip("%") for name in branches[1].split(",")]
    for called, name in fusions.items():
        if called in computations:
            computations[called].fusion = name
    return computations, entry


def _operands(rest: str) -> list[str]:
    """Names of what an operation works on, from its line after the first bracket."""
    return _OPERAND.findall(rest.partition(")")[0])


def _groups(line: str, devices: int) -> list[tuple[int, ...]]:
    iota = _IOTA.search(line)
    if iota:
        count, size, dims, order = iota.groups()
        grid = np.arange(devices).reshape([int(dim) for dim in dims.split(",")])
        if order:
            grid = grid.transpose([int(axis) for axis in order.split(",")])
        return [tuple(map(int, row)) for row in grid.reshape(int(count), int(size))]
    found = _GROUPS.search(line) or _PAIRS.search(line)
    listed = re.findall(r"\{([\d,]+)\}", found[1]) if found else []
    groups = [tuple(map(int, group.split(","))) for group in listed]
    return groups or [tuple(range(devices))]


def _axes(groups: list[tuple[int, ...]], mesh: Mesh) -> tuple[str, ...]:
    """The axes along which the members of a group differ; logical devices lie in the mesh's order."""
    places = [np.unravel_index(group, mesh.devices.shape) for group in groups]
    return tuple(
        axis
        for number, axis in enumerate(mesh.axis_names)
        if any(len(set(place[number].tolist())) > 1 for place in places)
    )


def _bytes(operation: str, shapes: str, members: int) -> int:
    """The larger side of one collective: its result, but what goes into a reduce-scatter."""
    sizes = []
    for dtype, dims in _ARRAY.findall(shapes):
        width = 1 if dtype == "pred" else int(re.search(r"\d+", dtype)[0]) / 8  # type: ignore[index]
        sizes.append(int(math.prod(int(dim) for dim in dims.split(",") if dim) * width))
    if operation.startswith("reduce-scatter"):
        return sum(sizes) * members
    if operation.endswith("-start") and not operation.startswith("all-reduce"):
        # What goes in is listed before what comes out: several arrays as two tuples, one bare.
        if shapes.startswith("(("):
            arrays = len(_ARRAY.findall(shapes[: shapes.index("), (")]))
            return sum(sizes[arrays : 2 * arrays])
        return max(sizes, default=0)
    return sum(sizes)


def sent_bytes(found: Iterable[Collective], sizes: Mapping[str, int]) -> float:
    """The least that a device sends for all of them, whatever the algorithm: rings reach it.

    Args:
        found: the collectives.
        sizes: of the mesh's axes.
    """
    total = 0.0
    for one in found:
        members = math.prod(sizes[axis] for axis in one.axes)
        others = (members - 1) / members
        total += one.bytes * {"all-reduce": 2 * others, "collective-permute": 1}.get(
            one.kind, others
        )
    return total


def total_bytes(found: tuple[Collective, ...]) -> int:
    """Bytes of all of them, on one device."""
    return sum(one.bytes for one in found)
