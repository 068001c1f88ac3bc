"""Labels and metadata of images: from folder names or from a CSV file."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from delg.errors import UsageError
from delg.paths import normal_form
from delg.plain_values import csv_reader


@dataclass(frozen=True)
class Label:
    """What is known of an image apart from its pixels.

    Attributes:
        label: what it shows; None if that is unknown.
        metadata: anything else, by key.
    """

    label: str | None
    metadata: dict[str, str] = field(default_factory=dict)


class FolderLabels:
    """The label of a photo is the name of its folder; a photo at the top has none.

    Args:
        prefix: stands before every id and is no folder.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = normal_form(prefix)

    def get(self, image_id: str) -> Label | None:
        """The label of an image."""
        relative = normal_form(image_id).removeprefix(self._prefix)
        parent = PurePosixPath(relative).parent.name
        return Label(parent or None)

    def ids(self) -> set[str]:
        """Ids of images that must exist; none, as every photo has a folder."""
        return set()


class FileLabels:
    """Labels from a CSV file with the columns ``id``, ``label`` and any others (metadata),
    separated by commas, semicolons or tabs.

    Raises:
        UsageError: the file cannot be read, lacks a column, or repeats an id.
    """

    def __init__(self, path: str | Path) -> None:
        self._labels: dict[str, Label] = {}
        try:
            with Path(path).open(newline="", encoding="utf-8-sig") as file:
                reader = csv_reader(file, strict=True)
                missing = {"id", "label"} - set(reader.fieldnames or ())
                if missing:
                    raise UsageError(f"{path}: no column called {' or '.join(sorted(missing))}")
                for values in reader:
                    self._add(dict(values), f"{path}, line {reader.line_num}")
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
        except (csv.Error, ValueError) as error:
            raise UsageError(f"{path}: not a UTF-8 CSV file: {error}") from None

    def _add(self, values: dict[str | None, str | None], where: str) -> None:
        if None in values or None in values.values():
            raise UsageError(f"{where}: has more or fewer fields than the header")
        texts = {str(key): normal_form(str(value)) for key, value in values.items()}
        image_id, label = texts.pop("id"), texts.pop("label")
        if image_id in self._labels:
            raise UsageError(f"{where}: {image_id!r} has a line already")
        self._labels[image_id] = Label(label or None, texts)

    def get(self, image_id: str) -> Label | None:
        """The label of an image; None if nothing is known of it."""
        return self._labels.get(normal_form(image_id))

    def ids(self) -> set[str]:
        """Ids of all images with a label."""
        return set(self._labels)


class GivenLabels:
    """Labels by id, given by a program."""

    def __init__(self, labels: dict[str, Label]) -> None:
        self._labels = {normal_form(image_id): label for image_id, label in labels.items()}

    def get(self, image_id: str) -> Label | None:
        """The label of an image; None if nothing is known of it."""
        return self._labels.get(normal_form(image_id))

    def ids(self) -> set[str]:
        """Ids of all images with a label."""
        return set(self._labels)


Labels = FolderLabels | FileLabels | GivenLabels


def read_labels(choice: str | Labels | None, prefix: str = "") -> Labels | None:
    """Labels as chosen on the command line: "folders", a CSV file or None; others stay as they are.

    Args:
        prefix: stands before every id.

    Raises:
        UsageError: the file cannot be used.
    """
    if choice is None or not isinstance(choice, str):
        return choice
    return FolderLabels(prefix) if choice == "folders" else FileLabels(choice)
