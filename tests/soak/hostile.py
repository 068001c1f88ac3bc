"""Mutated files for every reader of a user's files."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile

import numpy as np
from dots import DotModel, gallery
from PIL import Image
from stage import Stage

from delg.images.decode import decode
from delg.limits import MAX_ARRAY_BYTES, read_array
from delg.zoo.unpack import unpack
from index import ImageIndex
from index.formats import read


def photos(stage: Stage) -> None:
    """Photos of every format."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    files = []
    for kind, options in (
        *(("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})),
        *(("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {})),
    ):
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, kind, **options)
        files.append((kind, data.getvalue()))
    while stage.runs():
        kind, intact = stage.chance.choice(files)
        data = stage.mutated(intact)
        stage.expect(lambda data=data: decode(data), kind)


def arrays(stage: Stage) -> None:
    """Arrays in NumPy's format."""
    stream = io.BytesIO()
    np.save(stream, np.arange(600, dtype=np.float32).reshape(20, 30))
    while stage.runs():
        data = stage.mutated(stream.getvalue())
        try:
            values = read_array(io.BytesIO(data), "fiu")
            stage.count(values.nbytes <= MAX_ARRAY_BYTES, "too large")
        except MemoryError as error:
            stage.count(False, repr(error))
        except Exception:  # Its callers name the file.
            stage.count(True, "")


def archives(stage: Stage) -> None:
    """Archives of models."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(5):
            member = tarfile.TarInfo(f"model/{'long/' * 30 * (number % 2)}{number}")
            member.size = 700
            tar.addfile(member, io.BytesIO(bytes(700)))
    archive, folder = stage.folder / "a.tar.gz", stage.folder / "unpacked"
    while stage.runs():
        archive.write_bytes(gzip.compress(stage.mutated(stream.getvalue()), 1))
        stage.expect(lambda: unpack(archive, folder), "archive")
        shutil.rmtree(folder, ignore_errors=True)
        if list(stage.folder.glob(".unpacked.*")):
            stage.count(False, "an archive left something behind")


def feature_files(stage: Stage) -> None:
    """Feature files of other tools."""
    gallery(stage.folder / "photos", 4)
    with ImageIndex.create(stage.folder / "i", str(stage.model)) as images:
        images.use(DotModel(stage.model))
        images.add(stage.folder / "photos")
        files = {"npz": stage.folder / "f.npz", "hloc": stage.folder / "f.h5"}
        for kind, path in files.items():
            images.export(path, kind)
    intact = {kind: path.read_bytes() for kind, path in files.items()}
    with zipfile.ZipFile(files["npz"]) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    while stage.runs():
        kind = stage.chance.choice(["hloc", "npz", "entry"])
        path = stage.folder / f"mutant.{'h5' if kind == 'hloc' else 'npz'}"
        if kind == "entry":
            # The archive is sound, and one array in it is not.
            name = stage.chance.choice(list(entries))
            with zipfile.ZipFile(path, "w") as archive:
                for entry, data in entries.items():
                    archive.writestr(entry, stage.mutated(data) if entry == name else data)
        else:
            path.write_bytes(stage.mutated(intact[kind]))
        stage.expect(
            lambda path=path, kind=kind: list(read([path], "hloc" if kind == "hloc" else "npz")[1]),
            kind,
        )
