"""What ptxas reports of CUDA kernels, and what their disassembly contains."""

from __future__ import annotations

import re
from collections import Counter


def properties_of(report: str) -> dict[str, dict[str, int]]:
    """Entry function -> registers, smem, stack, spills, as ptxas tells them."""
    found: dict[str, dict[str, int]] = {}
    for block in re.split(r"ptxas info\s+: Compiling entry function ", report)[1:]:
        name = re.match(r"'(\w+)'", block)[1]
        used = re.search(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?", block)
        # The kernel's own, and those of functions it calls.
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) .*?stores, (\d+) .*?loads", block)
        found[name] = {
            "registers": int(used[1]),
            "shared": int(used[2] or 0),
            "stack": max(int(frame) for frame, _, _ in frames),
            "spills": sum(int(stores) + int(loads) for _, stores, loads in frames),
        }
    return found


_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)


def bodies_of(code: str) -> dict[str, str]:
    """Mangled name -> disassembly."""
    blocks = re.split(r"^\s+Function : ", code, flags=re.MULTILINE)[1:]
    parts = (block.partition("\n") for block in blocks)
    return {name.strip(): body for name, _, body in parts}


def opcodes_of(code: str) -> dict[str, Counter[str]]:
    return {name: Counter(_INSTRUCTION.findall(body)) for name, body in bodies_of(code).items()}


_ADDRESS = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.M)


def inner_loops(body: str) -> list[list[str]]:
    """The instructions between each branch back and its target, of loops with no other inside."""
    lines = [(int(address, 16), opcode, rest) for address, opcode, rest in _ADDRESS.findall(body)]
    loops: list[tuple[int, int]] = []
    for address, opcode, rest in lines:
        target = re.search(r"0x([0-9a-f]+)", rest) if opcode.split(".")[0] == "BRA" else None
        if target and int(target[1], 16) < address:
            loops.append((int(target[1], 16), address))
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [[op for at, op, _ in lines if a <= at <= b] for a, b in inner]


_CODE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.M)


def fewest_instructions(body: str, start: str, needs: dict[str, int], most: int) -> int | None:
    """The least that a warp executes after an instruction `start` until it has had `needs`.

    `needs`: how often of each kind.  Branches may go either way, and loops turn as often as that
    takes.  None if it is more than `most`.
    """
    lines = _CODE.findall(body)
    place = {int(address, 16): i for i, (address, *_) in enumerate(lines)}
    after: list[list[int]] = []
    kinds: list[set[str]] = []
    for i, (_, guard, opcode, rest) in enumerate(lines):
        kind, target = opcode.split(".")[0], re.search(r"\b0x([0-9a-f]+)", rest)
        jumps = [place[int(target[1], 16)]] if kind == "BRA" and target else []
        conditional = guard or re.match(r"\s*!?U?P\d|\s*UR", rest)
        ends = kind in ("BRA", "EXIT", "RET") and not conditional
        after.append(jumps + [i + 1] * (not ends and i + 1 < len(lines)))
        # A copy that fills with zeros where its last operand, a predicate, is false: LDGSTS.IF.
        fills = kind == "LDGSTS" and re.search(r", !?P\d", rest)
        kinds.append({*opcode.split("."), *(["IF"] if fills else [])})
    wanted = [set(need.split(".")) for need in needs]
    counted = [[i for i, need in enumerate(wanted) if need <= parts] for parts in kinds]
    least = tuple(needs.values())
    first = set(start.split("."))
    states = {(i, (0,) * len(least)) for i, parts in enumerate(kinds) if first <= parts}
    seen = set(states)
    for executed in range(1, most + 1):
        reached = set()
        for at, had in states:
            for i in after[at]:
                now = list(had)
                for need in counted[i]:
                    now[need] = min(now[need] + 1, least[need])
                if tuple(now) == least:
                    return executed
                reached.add((i, tuple(now)))
        states = reached - seen
        seen |= states
    return None


def instructions_each(body: str, kind: str, turns: int) -> float:
    """Instructions for each of `kind` in the loop around the innermost one that has the most of it.

    The innermost loop turns so often.  Infinite where there are no such two loops.
    """
    lines = [(int(at, 16), opcode, rest) for at, _, opcode, rest in _CODE.findall(body)]
    targets = [(re.search(r"\b0x([0-9a-f]+)", rest), at, op) for at, op, rest in lines]
    loops = [
        (int(target[1], 16), at)
        for target, at, opcode in targets
        if opcode.startswith("BRA") and target and int(target[1], 16) < at
    ]

    def counts(loop: tuple[int, int]) -> tuple[int, int]:
        opcodes = [opcode for at, opcode, _ in lines if loop[0] <= at <= loop[1]]
        return len(opcodes), sum(opcode.startswith(kind) for opcode in opcodes)

    def within(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a != b and b[0] <= a[0] and a[1] <= b[1]

    innermost = [loop for loop in loops if not any(within(a, loop) for a in loops)]
    most = max((counts(loop)[1] for loop in innermost), default=0)
    worst = 0.0
    for inner in innermost:
        around = [loop for loop in loops if within(inner, loop)]
        (code, wanted) = counts(inner)
        if wanted == 0 or wanted < most or not around:
            continue
        all_code, all_wanted = min(map(counts, around))
        each = (all_code + (turns - 1) * code) / (all_wanted + (turns - 1) * wanted)
        worst = max(worst, each)
    return worst or float("inf")


def loads_ahead(loops: list[list[str]]) -> tuple[int, ...]:
    """Of each loop with stores to shared memory: the loads of global memory in front of them."""
    kinds = [[opcode.split(".")[0] for opcode in loop] for loop in loops]
    return tuple(loop[: loop.index("STS")].count("LDG") for loop in kinds if "STS" in loop)
