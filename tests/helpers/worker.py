"""Commands on an index of dots, each in a process of its own that can be killed.

Each line of stdin is a JSON list of words:

    MODEL_FOLDER COMMAND INDEX [ARGUMENT…] [--kill POINT:TIMES] [--disk BYTES]
              [--files NUMBER] [--pause SECONDS]

A fork of this process, which has imported everything and done nothing, does it. It prints "ready"
and its number when the work begins and a JSON object when it is done; then "exit" follows and its
exit code. With ``--kill`` it kills itself, as ``kill -9`` would, when it gets to that point so many
times. With ``--disk`` no file may grow beyond that size, which makes writes fail as a full disk
does. With ``--files`` it may not have more files open than that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, NoReturn

import numba  # noqa: F401
from dots import DotModel

import index.formats.feature_file
import index.storage.maintenance
import index.storage.merge
import index.storage.store
from delg.errors import DelgError
from index import ImageIndex
from index.storage.ann_index import AnnIndex
from index.storage.store import Store


def _ends(suffix: str) -> Callable[..., bool]:
    return lambda *arguments: str(arguments[-1]).endswith(suffix)


def _always(*arguments: object) -> bool:
    return True


def _any_rows(store: Store, *rows: Sized) -> bool:
    return any(map(len, rows))


# Point: owner and name of the function, whether to die before or after it, and for which calls.
POINTS: dict[str, tuple[Any, str, str, Callable[..., bool]]] = {
    "create": (Path, "replace", "before", _ends("catalog.sqlite")),
    "before segment rename": (Path, "replace", "before", _ends(".h5")),
    "after segment rename": (Path, "replace", "after", _ends(".h5")),
    "inside the transaction": (index.storage.store, "put_images", "after", _always),
    "after the transaction": (Store, "update_ann_index", "before", _any_rows),
    "before the shortlist": (AnnIndex, "save", "before", _always),
    "inside the shortlist": (Path, "replace", "before", _ends("global.faiss")),
    "inside the words": (Path, "replace", "before", _ends("words.h5")),
    "inside the parts": (Path, "replace", "before", _ends("regions.faiss")),
    "inside the export": (index.formats.feature_file, "new_group", "after", _always),
    "before the export": (Path, "replace", "before", _ends("features.h5")),
    "inside the removal": (index.storage.store, "trash_images", "after", _always),
    "inside the adaptation": (index.storage.store, "count_change", "after", _always),
    "inside the compaction": (index.storage.maintenance, "insert_segment", "after", _always),
    "before the merge": (index.storage.merge, "insert_segment", "before", _always),
    "inside the merge": (index.storage.merge, "delete_segments", "after", _always),
    "before old segments go": (Path, "unlink", "before", lambda path, **_: path.suffix == ".h5"),
    "after an old segment went": (Path, "unlink", "after", lambda path, **_: path.suffix == ".h5"),
}


def die_at(point: str, times: int) -> None:
    """Kill this process the n-th time it gets there."""
    owner, name, when, matches = POINTS[point]
    function = getattr(owner, name)
    count = 0

    def watched(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += bool(matches(*arguments))
        last = count == times and matches(*arguments)
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, watched)


def run(options: argparse.Namespace, model_folder: Path) -> dict[str, Any]:
    """Do it."""
    place, arguments = options.index, options.arguments
    if options.command == "create":
        ImageIndex.create(place, str(model_folder))
        return {}
    images = ImageIndex.open(place)
    images.use(DotModel(model_folder, options.pause))
    if options.command == "add":
        return vars(images.add(arguments)) | {"failed": []}
    if options.command == "remove":
        return {"removed": images.remove(arguments)}
    if options.command == "compact":
        return {"freed": images.compact()}
    if options.command == "export":
        return {"exported": images.export(Path(arguments[0]), "hdf5")}
    if options.command == "check":
        return vars(images.check())
    if options.command == "adapt":
        return vars(images.adapt("folders", force=True))
    if options.command == "churn":
        gone, source = arguments
        for _ in range(4):
            images.remove([gone])
            images.compact()
            images.add(source)
        return {}
    if options.command == "query":
        return {"hits": [hit.as_json() for hit in images.query(arguments[0])]}
    raise ValueError(options.command)


def main() -> None:
    """Do what stdin says until it ends."""
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            end_with(obey, json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print("exit", code, flush=True)  # noqa: T201


def end_with(work: Callable[..., None], *arguments: Any) -> NoReturn:
    """Do it, and end this process without what its parent has yet to do."""
    code = 1
    try:
        work(*arguments)
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def obey(words: list[str]) -> None:
    """Read a command line and do it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("command")
    parser.add_argument("index", type=Path)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--kill")
    parser.add_argument("--disk", type=int)
    parser.add_argument("--files", type=int)
    parser.add_argument("--pause", type=float, default=0)
    options = parser.parse_args(words)
    if options.kill:
        point, times = options.kill.split(":")
        die_at(point, int(times))
    if options.disk is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.disk, resource.RLIM_INFINITY))
    if options.files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, options.files))
    print("ready", os.getpid(), flush=True)  # noqa: T201
    try:
        result = run(options, options.model)
    except DelgError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main()
