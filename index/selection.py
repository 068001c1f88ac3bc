"""Selection: which images of an index may be results of a query.

A condition is ``KEY=VALUE``: the key ``label`` is the image's label, any other one of its metadata.
Conditions of one key are alternatives, and one of each key must hold, as with filters in a shop:
``room=12``, ``room=13``, ``artist=Vermeer`` selects what is by Vermeer in either room. Values are
compared exactly, in whichever Unicode form they are written; an empty value stands for images that
have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from delg.errors import UsageError
from delg.paths import name_forms

LABEL = "label"
# Conditions as people give them: "KEY=VALUE", or values by key.
Where = Iterable[str] | Mapping[str, str | Iterable[str]]
_VALUE_OF_KEY = "SELECT 1 FROM json_each(metadata) AS each WHERE each.key = ?"


@dataclass(frozen=True)
class Selection:
    """A selection of images; as it is, all of them. It is made of plain values, so that it can be
    hashed and sent elsewhere.

    Attributes:
        where: (key, value) of each condition, see above.
        without: ids of images that are left out.
    """

    where: tuple[tuple[str, str], ...] = ()
    without: frozenset[str] = frozenset()

    @classmethod
    def of(cls, where: Where = (), without: Iterable[str] = ()) -> Selection:
        """From conditions as people give them.

        Args:
            where: ``KEY=VALUE`` each, or one value or several by key.
            without: see above.

        Raises:
            UsageError: a condition has another form.
        """
        if isinstance(where, Mapping):
            pairs = [
                (key, value)
                for key, values in where.items()
                for value in ([values] if isinstance(values, str) else values)
            ]
        else:
            pairs = [parse_condition(text) for text in where]
        return cls(tuple(pairs), frozenset(without))

    def except_for(self, key: str) -> Selection:
        """Without the conditions of that key."""
        return Selection(tuple(each for each in self.where if each[0] != key), self.without)

    def as_sql(self) -> tuple[str, list[str]]:
        """The conditions over the catalog's table ``images``, among the images that can be found,
        and the values of its question marks. What is left out by id is not part of it."""
        parts, values = ["state = 'ok'"], []
        for key in dict.fromkeys(key for key, _ in self.where):
            alternatives = []
            for value in (value for name, value in self.where if name == key):
                text, marks = _condition(key, value)
                alternatives.append(text)
                values += marks
            parts.append(f"({' OR '.join(alternatives)})")
        return " AND ".join(parts), values


def parse_condition(text: str) -> tuple[str, str]:
    """The key and value of ``KEY=VALUE``.

    Raises:
        UsageError: it has another form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"where {text!r}: expected KEY=VALUE, such as label=Vermeer or room=12")
    return key, value


def _condition(key: str, value: str) -> tuple[str, list[str]]:
    forms = list(name_forms(value))
    marks = ", ".join("?" * len(forms))
    if key == LABEL:
        return (f"label IN ({marks})", forms) if value else ("COALESCE(label, '') = ''", [])
    if not value:
        return f"NOT EXISTS ({_VALUE_OF_KEY} AND each.value <> '')", [key]
    if value.isascii() and value.isprintable() and not set(value) & {*'"\\'}:
        # JSON has such a value as it is; most images are ruled out without reading theirs.
        contains = f"(instr(metadata, ?) AND EXISTS ({_VALUE_OF_KEY} AND each.value = ?))"
        return contains, [value, key, value]
    return f"EXISTS ({_VALUE_OF_KEY} AND each.value IN ({marks}))", [key, *forms]
