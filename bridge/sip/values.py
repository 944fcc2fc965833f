"""Values that are made for every message: frozen for the type checker, which is asked, and cheap to make.

A frozen dataclass goes through `object.__setattr__` for each field: 2.7 µs for a `Trace` where this takes 0.9 µs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[_T]) -> type[_T]:
    """Make a slotted dataclass that compares and hashes by its fields and that nobody changes."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
