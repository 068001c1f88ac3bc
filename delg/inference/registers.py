"""Registers of several numbers in LLVM's language: what the innermost loops are written with.

All take the builder first; addresses are 64-bit numbers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()


def load(build: Any, address: Any, kind: Any, align: int = 4) -> Any:
    """What is of that kind at an address."""
    return build.load(build.inttoptr(address, kind.as_pointer()), align=align)


def store(build: Any, value: Any, address: Any, align: int = 4) -> None:
    """A value to an address."""
    build.store(value, build.inttoptr(address, value.type.as_pointer()), align=align)


def moved(build: Any, address: Any, index: Any, step: Any) -> Any:
    """``address + index * step``; both may be numbers."""
    index, step = (I64(one) if isinstance(one, int) else one for one in (index, step))
    return build.add(address, build.mul(index, step))


def everywhere(build: Any, value: Any, kind: Any) -> Any:
    """A register of that kind with the value in all lanes."""
    unset, lanes = ir.Constant(kind, ir.Undefined), ir.VectorType(I32, kind.count)
    first = build.insert_element(unset, value, ir.Constant(I32, 0))
    return build.shuffle_vector(first, unset, ir.Constant(lanes, None))


def times_plus(build: Any, x: Any, y: Any, z: Any) -> Any:
    """``x * y + z``, float32, rounded once."""
    # Said outright: what LLVM makes of a product and a sum differs from place to place.
    kind = ir.FunctionType(x.type, [x.type] * 3)
    name = f"llvm.fma.v{x.type.count}f32"
    return build.call(cgutils.get_or_insert_function(build.module, kind, name), [x, y, z])
