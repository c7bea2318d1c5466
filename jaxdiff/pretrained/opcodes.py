"""The opcodes of pickles, carried out on data: no object of Python's is called, set or compared.

Python's own unpickler can be kept from calling what a pickle names, but not from allocating what an
opcode claims, from hashing tuples that hold each other twice at every level, which takes as many
steps as there are paths, or from setting the attributes of what it has made. Here opcodes make
numbers, texts and containers, one opcode at most one of them, and everything else is done by two
functions that are given: what a name stands for, and what a persistent object is. Work and memory
are bounded by a number of opcodes and, for what names stand for, by the size of the pickle.

Opcodes as in Python's Lib/pickletools.py, protocols 0 to 5, but for the registry of extensions,
buffers outside of the pickle and the instances of protocols 0 and 1 (INST, OBJ), which are refused.
"""

import dataclasses
import re
import struct
from collections.abc import Callable
from typing import Any

from jaxdiff.pretrained.stand_ins import Name, build, checked_key

MANY = 10**6  # opcodes of a pickle
COPIED = 1 << 16  # bytes that are held; more stay where they are
LARGEST = 64  # bytes of an integer
PLAIN = re.compile(rb"""(?:[^\\]++|\\(?:[\\'"abfnrtv0]|x[0-9a-fA-F]{2}))*+""")  # of a Python text
INTEGER = re.compile(rb"-?[0-9]{1,150}L?")


@dataclasses.dataclass
class Machine:
    """The state of a pickle that is being read: where, what is on the stack, what is remembered.

    find: what a module's name stands for. persistent: the object of a persistent id. allowed: items
    and bytes that may still be handed to what names stand for.
    """

    data: memoryview
    place: int
    find: Callable[[str, str], Name]
    persistent: Callable[[Any], Any]
    allowed: int
    stack: list[Any] = dataclasses.field(default_factory=list)
    outer: list[list[Any]] = dataclasses.field(default_factory=list)
    memo: dict[int, Any] = dataclasses.field(default_factory=dict)

    def run(self) -> Any:
        """Return the object that the pickle makes; ``place`` is then behind it."""
        for _ in range(MANY):
            code = self.take(1)[0]
            if code == STOP:
                return self.pop()
            if code not in ACTIONS:
                raise ValueError(f"its opcode {bytes([code])!r} is none that is read")
            ACTIONS[code](self)
        raise ValueError(f"it has more than {MANY} opcodes")

    def take(self, count: int) -> memoryview:
        """Return the next bytes."""
        end = self.place + count
        if count < 0 or end > len(self.data):
            raise ValueError("it is cut off")
        found, self.place = self.data[self.place : end], end
        return found

    def number(self, form: str) -> Any:
        """Return the next number, of a form of struct's."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        """Return the rest of the line."""
        size, rest = 256, len(self.data) - self.place
        while True:
            found = bytes(self.data[self.place : self.place + size])
            if (end := found.find(b"\n")) >= 0:
                self.place += end + 1
                return found[:end]
            if size >= rest:
                raise ValueError("it is cut off within a line")
            size *= 4

    def integer(self) -> int:
        """Return the integer that the rest of the line is."""
        text = self.line()
        if not INTEGER.fullmatch(text):
            raise ValueError(f"{text[:40]!r} is not an integer")
        return int(text.removesuffix(b"L"))

    def push(self, made: Any) -> None:
        """Put an object on the stack."""
        self.stack.append(made)

    def top(self, kind: type | tuple[type, ...] = object) -> Any:
        """Return the object on top of the stack, which has to be of this kind."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError("an opcode without the object that it needs")
        return self.stack[-1]

    def pop(self, kind: type | tuple[type, ...] = object) -> Any:
        """Take the object on top off the stack."""
        self.top(kind)
        return self.stack.pop()

    def popped(self) -> list[Any]:
        """Take what lies above the last mark off the stack."""
        if not self.outer:
            raise ValueError("an opcode without its mark")
        found, self.stack = self.stack, self.outer.pop()
        return found

    def call(self, name: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return what a name makes of its arguments."""
        if not isinstance(name, Name):
            raise ValueError(f"it calls a {type(name).__name__}")
        self.spend(given)
        return name.make(*given, **named)

    def spend(self, given: Any) -> None:
        """Count what is handed over, in containers and one level within them."""
        parts = given if isinstance(given, (tuple, list)) else (given,)
        self.allowed -= sum(size_of(x) for x in parts)
        for part in parts:
            if self.allowed >= 0 and isinstance(part, (tuple, list)):
                self.allowed -= sum(size_of(x) for x in part)
        if self.allowed < 0:
            raise ValueError("it uses the same contents over and over")


def size_of(made: Any) -> int:
    """Return the length of a text or container, 1 for everything else."""
    kinds = (str, bytes, memoryview, list, tuple, dict, set, frozenset)
    return 1 + (len(made) if isinstance(made, kinds) else 0)


def _mark(m: Machine) -> None:
    m.outer.append(m.stack)
    m.stack = []


def _pop(m: Machine) -> None:
    m.stack.pop() if m.stack else m.popped()


def _proto(m: Machine) -> None:
    if (version := m.take(1)[0]) > 5:
        raise ValueError(f"it is of protocol {version}; 0 to 5 are read")


def _long(m: Machine, size: int) -> None:
    if not 0 <= size <= LARGEST:
        raise ValueError(f"it has an integer of {size} bytes; the limit is {LARGEST}")
    m.push(int.from_bytes(m.take(size), "little", signed=True))


def _int(m: Machine) -> None:
    flags = {b"00": False, b"01": True}
    here = m.place
    if (text := m.line()) in flags:
        return m.push(flags[text])
    m.place = here
    m.push(m.integer())


def _string(m: Machine) -> None:
    text = m.line()
    quoted = len(text) > 1 and text[:1] in (b"'", b'"') and text[-1:] == text[:1]
    if not quoted or not PLAIN.fullmatch(text[1:-1]):
        raise ValueError("a text without its quotes")
    m.push(text[1:-1].decode("unicode_escape"))


def _text(size: str, encoding: str, errors: str = "strict") -> Callable[[Machine], None]:
    return lambda m: m.push(str(m.take(m.number(size)), encoding, errors))


def _data(m: Machine, size: int) -> None:
    found = m.take(size)
    m.push(found if size > COPIED else bytes(found))


def _tuple(count: int) -> Callable[[Machine], None]:
    def act(m: Machine) -> None:
        m.push(tuple([m.pop() for _ in range(count)][::-1]))

    return act


def _append(m: Machine, items: list[Any]) -> None:
    m.top(list).extend(items)


def _set_items(m: Machine, items: list[Any]) -> None:
    if len(items) % 2:
        raise ValueError("a key without a value")
    target = m.top(dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[checked_key(key)] = value


def _set_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    _set_items(m, [key, value])


def _dict(m: Machine) -> None:
    items = m.popped()
    m.push({})
    _set_items(m, items)


def _add_items(m: Machine) -> None:
    items = m.popped()
    m.top(set).update(map(checked_key, items))


def _global(m: Machine) -> None:
    m.push(m.find(m.line().decode(), m.line().decode()))


def _stack_global(m: Machine) -> None:
    name, module = m.pop(str), m.pop(str)
    m.push(m.find(module, name))


def _reduce(m: Machine) -> None:
    given = m.pop(tuple)
    m.push(m.call(m.pop(), given, {}))


def _new_with_names(m: Machine) -> None:
    named, given = m.pop(dict), m.pop(tuple)
    if not all(type(key) is str for key in named):
        raise ValueError("arguments whose names are no texts")
    m.spend(list(named.values()))
    m.push(m.call(m.pop(), given, named))


def _build(m: Machine) -> None:
    state = m.pop()
    m.spend(state)
    build(m.top(), state)


def _put(m: Machine, index: int) -> None:
    m.memo[index] = m.top()


def _get(m: Machine, index: int) -> None:
    if index not in m.memo:
        raise ValueError(f"it refers to its object {index}, which there is not")
    m.push(m.memo[index])


STOP = ord(".")
ACTIONS: dict[int, Callable[[Machine], Any]] = {
    0x80: _proto, 0x95: lambda m: m.take(8), ord("("): _mark, ord("0"): _pop,
    ord("1"): lambda m: m.popped(), ord("2"): lambda m: m.push(m.top()),
    ord("N"): lambda m: m.push(None), 0x88: lambda m: m.push(True), 0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number("<i")), ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")), 0x8A: lambda m: _long(m, m.number("<B")),
    0x8B: lambda m: _long(m, m.number("<i")), ord("I"): _int,
    ord("L"): lambda m: m.push(m.integer()), ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(m.number(">d")), ord("S"): _string,
    ord("V"): lambda m: m.push(m.line().decode("raw_unicode_escape")),
    ord("T"): _text("<i", "latin1"), ord("U"): _text("<B", "latin1"),
    ord("X"): _text("<I", "utf-8", "surrogatepass"), 0x8C: _text("<B", "utf-8", "surrogatepass"),
    0x8D: _text("<Q", "utf-8", "surrogatepass"), ord("B"): lambda m: _data(m, m.number("<I")),
    ord("C"): lambda m: _data(m, m.number("<B")), 0x8E: lambda m: _data(m, m.number("<Q")),
    ord(")"): _tuple(0), 0x85: _tuple(1), 0x86: _tuple(2), 0x87: _tuple(3),
    ord("t"): lambda m: m.push(tuple(m.popped())), ord("]"): lambda m: m.push([]),
    ord("l"): lambda m: m.push(m.popped()), ord("a"): lambda m: _append(m, [m.pop()]),
    ord("e"): lambda m: _append(m, m.popped()), ord("}"): lambda m: m.push({}), ord("d"): _dict,
    ord("s"): _set_item, ord("u"): lambda m: _set_items(m, m.popped()),
    0x8F: lambda m: m.push(set()), 0x90: _add_items,
    0x91: lambda m: m.push(frozenset(map(checked_key, m.popped()))),
    ord("c"): _global, 0x93: _stack_global, ord("R"): _reduce, 0x81: _reduce, 0x92: _new_with_names,
    ord("b"): _build, ord("P"): lambda m: m.push(m.persistent(m.line().decode())),
    ord("Q"): lambda m: m.push(m.persistent(m.pop())), ord("p"): lambda m: _put(m, m.integer()),
    ord("q"): lambda m: _put(m, m.number("<B")), ord("r"): lambda m: _put(m, m.number("<I")),
    0x94: lambda m: _put(m, len(m.memo)), ord("g"): lambda m: _get(m, m.integer()),
    ord("h"): lambda m: _get(m, m.number("<B")), ord("j"): lambda m: _get(m, m.number("<I")),
}  # fmt: skip
