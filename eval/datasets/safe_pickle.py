"""Read pickles of plain data without running anything that they ask for.

The official ground truth of revisited Oxford/Paris comes as pickles, and :mod:`pickle` calls
whatever a pickle names. So this is not that machine with a guard, but a small machine of its own:
it understands the instructions that plain data need, and has no way to call anything else. Admitted
are lists, tuples, dicts, sets, strings, bytes, numbers, and NumPy arrays and scalars of numbers and
text. Strings of Python 2 are read as Latin-1.
"""

from __future__ import annotations

import codecs
import io
import math
import pickletools
import re
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from delg.errors import UsageError

# The official files have 0.3 MB and 24,000 instructions; these bounds keep bombs small.
MAX_BYTES = 32 << 20
MAX_INSTRUCTIONS = 2_000_000
# Bytes in arrays and copies. One byte of the file may stand in a few of them, but not in thousands.
_MAX_COPIED = 4 * MAX_BYTES

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ATOMS = (str, bytes, int, float, complex, np.generic, type(None))

# The names that a file may ask for; NumPy 2 moved its own, Python 3 renamed the builtins.
_NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("collections", "OrderedDict"): "OrderedDict",
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "reconstruct" for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): "scalar" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "frombuffer" for core in ("core", "_core")},
    **{
        (module, name): name
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "bytes", "complex")
    },
}
_DTYPE = re.compile(r"b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU][1-9]\d{0,6}")


class _RefusedError(Exception):
    """The file asks for something that plain data have no use for; the message says what."""


class _Part:
    """Something that only serves to build a value and may not stand in the data itself."""


class _Name(_Part):
    def __init__(self, name: str) -> None:
        self.name = name


class _Dtype(_Part):
    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise _RefusedError(f"holds an array of type {_shown(name)}, neither numbers nor text")
        self.value = np.dtype(name)

    def build(self, state: Any) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest[:3]):
            raise _RefusedError("holds an array of records, neither numbers nor text")
        if order in "<>":
            self.value = self.value.newbyteorder(order)


class _Blank(_Part):
    """An array before its values are known, and where the memo refers to it."""

    def __init__(self) -> None:
        self.memo_keys: list[int] = []


class _Arguments(tuple):
    """A tuple with parts in it, which is therefore one itself."""


def _shown(value: object) -> str:
    return repr(value)[:80] if isinstance(value, str | bytes) else type(value).__name__


def _is_part(value: object) -> bool:
    return isinstance(value, _Part | _Arguments)


def _plain(values: list) -> list:
    if any(map(_is_part, values)):
        raise ValueError("an unfinished array or a function stands among the data")
    return values


def _keys(values: list) -> list:
    """Check keys: hashing deep or much shared tuples would overflow the stack or never end."""
    for value in values:
        flat = value if type(value) is tuple else (value,)
        if not all(isinstance(item, _ATOMS) for item in flat):
            raise _RefusedError(f"has a key or set member of type {type(value).__name__}")
    return values


class _Machine:
    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self) -> Any:
        for _ in range(MAX_INSTRUCTIONS):
            code = self._stream.read(1)
            if not code:
                raise ValueError("it ends too early")
            opcode = _OPCODES[code]
            if opcode.name == "STOP":
                return _plain([self._stack.pop()])[0]
            if opcode.name == "STRING":
                # The reader of the standard library knows ASCII alone.
                quoted = pickletools.read_stringnl(self._stream, decode=False)
                argument: Any = codecs.escape_decode(quoted)[0].decode("latin-1")
            else:
                argument = opcode.arg.reader(self._stream) if opcode.arg else None
            self._step(opcode.name, argument)
        raise _RefusedError(f"has more than {MAX_INSTRUCTIONS:,} instructions")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _NUMBERS:
            if isinstance(argument, int) and argument.bit_length() > 64:
                raise _RefusedError("holds a number of more than 64 bits")
            stack.append(argument)
        elif name in _TEXTS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._put(len(self._memo) if name == "MEMOIZE" else argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            stack.append(self._name(*argument.split(" ", 1)))
        elif name == "INST":
            raise _RefusedError(f"asks for {argument.replace(' ', '.')[:200]}")
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self._name(module, attribute))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Name) or not isinstance(arguments, tuple):
                raise ValueError("something is called that is no function")
            stack.append(self._call(function.name, *arguments))
        elif name == "BUILD":
            self._build(stack.pop())
        else:
            self._collect(name)

    def _collect(self, name: str) -> None:
        """The instructions that put the values on the stack into containers."""
        stack = self._stack
        if name in _TUPLES:
            count = _TUPLES[name]
            if len(stack) < count:
                raise ValueError("the stack is empty")
            self._tuple([stack.pop() for _ in range(count)][::-1])
        elif name == "TUPLE":
            self._tuple(self._since_mark())
        elif name == "LIST":
            stack.append(_plain(self._since_mark()))
        elif name == "FROZENSET":
            stack.append(frozenset(_keys(self._since_mark())))
        elif name == "DICT":
            values = self._since_mark()
            stack.append({})
            self._set_items(values)
        elif name in ("APPEND", "APPENDS"):
            values = [stack.pop()] if name == "APPEND" else self._since_mark()
            self._top(list).extend(_plain(values))
        elif name in ("SETITEM", "SETITEMS"):
            pair = name == "SETITEM"
            self._set_items([stack.pop(), stack.pop()][::-1] if pair else self._since_mark())
        elif name == "ADDITEMS":
            values = _keys(self._since_mark())
            self._top(set).update(values)
        else:
            raise _RefusedError(f"uses the pickle instruction {name}")

    def _since_mark(self) -> list:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"a {type(self._stack[-1]).__name__} is filled like a {kind.__name__}")
        return self._stack[-1]

    def _tuple(self, values: list) -> None:
        self._stack.append((_Arguments if any(map(_is_part, values)) else tuple)(values))

    def _set_items(self, values: list) -> None:
        keys, items = _keys(values[::2]), _plain(values[1::2])
        self._top(dict).update(zip(keys, items, strict=True))

    def _put(self, key: int) -> None:
        self._memo[key] = self._stack[-1]
        if isinstance(self._stack[-1], _Blank):
            self._stack[-1].memo_keys.append(key)

    def _name(self, module: object, name: object) -> _Name:
        # Only text may be looked up: see _keys.
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        if (module, name) not in _NAMES:
            raise _RefusedError(f"asks for {module}.{name}"[:200])
        return _Name(_NAMES[module, name])

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, _Dtype):
            target.build(state)
        elif isinstance(target, _Blank):
            _, shape, dtype, is_fortran, values = state
            array = self._array(values, dtype, shape, "F" if is_fortran else "C")
            self._stack[-1] = array
            for key in target.memo_keys:
                self._memo[key] = array
            target.memo_keys.clear()
        else:
            raise _RefusedError(f"sets the state of a value of type {type(target).__name__}")

    def _call(self, name: str, *arguments: Any) -> Any:
        """The only functions there are."""
        if name == "dtype":
            return _Dtype(arguments[0])
        if name == "reconstruct":
            if not isinstance(arguments[0], _Name) or arguments[0].name != "ndarray":
                raise ValueError("an array of another class")
            return _Blank()
        if name == "scalar":
            dtype, values = arguments
            return self._array(values, dtype, (1,), "C")[0]
        if name == "frombuffer":
            values, dtype, shape, order, *axes = arguments
            array = self._array(values, dtype, shape, "C" if order == "K" else order)
            return array.transpose(axes[0]) if order == "K" and axes else array
        if name == "encode":
            text, encoding = arguments
            if encoding not in ("latin1", "latin-1"):
                raise _RefusedError(f"asks for the encoding {_shown(encoding)}")
            self._count(len(text))
            return text.encode("latin-1")
        if name == "complex":
            real, imaginary = arguments
            return complex(float(real), float(imaginary))
        if name == "bytes" and not arguments:
            return b""
        if name == "OrderedDict" and not arguments:
            return OrderedDict()
        if name in ("set", "frozenset"):
            values = [] if not arguments else arguments[0]
            if len(arguments) > 1 or not isinstance(values, list):
                raise ValueError("a set of something that is no list")
            self._count(8 * len(values))
            return (set if name == "set" else frozenset)(_keys(values))
        raise _RefusedError(f"calls {name} in a way that plain data do not")

    def _count(self, size: int) -> None:
        self._copied += size
        if self._copied > _MAX_COPIED:
            raise _RefusedError("unfolds to far more than its own size")

    def _array(self, values: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        if not isinstance(dtype, _Dtype) or type(shape) is not tuple or order not in ("C", "F"):
            raise _RefusedError("holds an array of objects or one without a type")
        if isinstance(values, str):
            values = values.encode("latin-1")  # The bytes of a pickle by Python 2.
        if not isinstance(values, bytes | bytearray):
            raise _RefusedError("holds an array of objects, neither numbers nor text")
        if len(shape) > 32 or any(type(side) is not int or side < 0 for side in shape):
            raise ValueError("an array has an impossible shape")
        if math.prod(shape) * dtype.value.itemsize != len(values):
            raise ValueError("an array declares another size than it has")
        self._count(len(values))
        if not values:
            return np.zeros(shape, dtype.value)
        array = np.frombuffer(values, dtype.value)
        if dtype.value.kind == "U" and array.view(dtype.value.byteorder + "u4").max() > 0x10FFFF:
            raise ValueError("an array of text holds what is no character")
        return array.reshape(shape, order=order).copy()


def load_plain_pickle(path: str | Path) -> Any:
    """Read a pickle that holds plain data, of any protocol and either Python.

    Returns:
        What the file holds; arrays of NumPy are copies that can be written to.

    Raises:
        UsageError: the file cannot be read, is too large or damaged, or asks for anything but plain
            data, which is named and not run.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise _RefusedError(f"is larger than {MAX_BYTES >> 20} MB")
        return _Machine(data).run()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except _RefusedError as error:
        raise UsageError(
            f"{path}: {error}; only plain data are read from a pickle, and nothing in it was run"
        ) from None
    except (
        ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError, AssertionError,
        AttributeError, struct.error,
    ) as error:  # fmt: skip
        raise UsageError(f"{path}: not a pickle, or damaged ({str(error)[:200]})") from None
