"""Mutated files for every reader of a user's files."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import scipy.io
import yaml
from dots import DotModel, dots, gallery
from pages import ranking, retrieval
from pages import run as make_run
from PIL import Image
from stage import Stage

from delg.delf_files import write_datum, write_local
from delg.images.decode import decode
from delg.limits import MAX_ARRAY_BYTES, read_array
from delg.network.weights import read_weights
from delg.settings import read_settings
from delg.zoo.unpack import unpack
from eval.datasets.mat_file import read_mat
from eval.predictions import Predictions
from eval.run import load_run, rescore, save_run
from index import ImageIndex
from index.formats import read
from index.labels import FileLabels
from index.settings import IndexSettings, record
from index.storage.codebook import read_codebook, write_codebook
from index.storage.product_quantizer import CENTROIDS, ProductQuantizer


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


def delf_files(stage: Stage) -> None:
    """Files of the published tools."""
    local = DotModel(stage.model).extract(dots(3).pixels()).local
    write_local(stage.folder / "x.delf", local)
    write_datum(stage.folder / "x.delg_global", np.ones(64, np.float32))
    intact = {path.suffix: path.read_bytes() for path in stage.folder.glob("x.*")}
    place = stage.folder / "mutants"
    place.mkdir()
    while stage.runs():
        suffix = stage.chance.choice([".delf", ".delg_local", ".delg_global"])
        data = intact[".delf" if suffix == ".delg_local" else suffix]
        path = place / f"m{suffix}"
        path.write_bytes(stage.mutated(data))
        stage.expect(lambda: list(read([place], "delg")[1]), suffix)
        path.unlink()


def colmap_folders(stage: Stage) -> None:
    """Folders of HDF5 files for COLMAP."""
    gallery(stage.folder / "photos", 3)
    with ImageIndex.create(stage.folder / "i", str(stage.model)) as images:
        images.use(DotModel(stage.model))
        images.add(stage.folder / "photos")
        images.export(stage.folder / "colmap", "colmap")
    files = {path: path.read_bytes() for path in (stage.folder / "colmap").iterdir()}
    while stage.runs():
        path = stage.chance.choice(list(files))
        path.write_bytes(stage.mutated(files[path]))
        stage.expect(lambda: list(read([stage.folder / "colmap"], "colmap")[1]), path.name)
        path.write_bytes(files[path])


def weights(stage: Stage) -> None:
    """Weight files and codebooks."""
    path = stage.folder / "weights.h5"
    with h5py.File(path, "w") as file:
        file["layer/kernel"] = np.ones((30, 20), np.float16)
        file["other/bias"] = np.ones(7, np.float32)
    write_codebook(stage.folder / "codebook.h5", tiny_codebook())
    intact = {name: (stage.folder / name).read_bytes() for name in ("weights.h5", "codebook.h5")}
    while stage.runs():
        name = stage.chance.choice(list(intact))
        (stage.folder / name).write_bytes(stage.mutated(intact[name]))
        place = stage.folder / name
        if name == "weights.h5":
            stage.expect(lambda place=place: read_weights(place), name)
        else:
            stage.expect(lambda place=place: read_codebook(place, 16), name)


def tiny_codebook() -> ProductQuantizer:
    """A codebook for descriptors of 16 numbers."""
    return ProductQuantizer(np.eye(16, dtype=np.float16), np.ones((4, CENTROIDS, 4), np.float16))


def runs(stage: Stage) -> None:
    """Folders of benchmark runs."""
    folder = stage.folder / "run"
    benchmark = retrieval({"q0": {"a", "b"}, "q1": {"c"}})
    rankings = {"reranked": {"q0": ranking("a", "c"), "q1": ranking("b", "c", "a")}}
    save_run(folder, make_run(benchmark, Predictions(rankings)))
    files = {path: path.read_bytes() for path in folder.iterdir()}
    while stage.runs():
        path = stage.chance.choice(list(files))
        path.write_bytes(stage.mutated(files[path]))
        stage.expect(lambda: rescore(load_run(folder)), path.name)
        path.write_bytes(files[path])


def mat_files(stage: Stage) -> None:
    """MATLAB files."""
    path = stage.folder / "x.mat"
    cells = np.array([["a", 3.0], ["b", np.ones(4)]], object)
    forms = []
    for compressed in (False, True):
        scipy.io.savemat(path, {"gnd": cells, "n": np.eye(5)}, do_compression=compressed)
        forms.append(path.read_bytes())
    while stage.runs():
        path.write_bytes(stage.mutated(stage.chance.choice(forms)))
        stage.expect(lambda: read_mat(path, ["gnd", "n"]), "mat")


def settings_files(stage: Stage) -> None:
    """Settings in YAML, and label files."""
    text = yaml.safe_dump(IndexSettings().model_dump(mode="json"))
    odd = [".inf", "1e999", "&a [*a]", "!!int 1_0", "2026-99-99", "[" * 3000, "? - b", "\x00", "-0"]
    path, labels = stage.folder / "x.yaml", stage.folder / "labels.csv"
    while stage.runs():
        lines = text.splitlines()
        place = stage.chance.randrange(len(lines))
        key, _, _ = lines[place].partition(":")
        lines[place] = f"{key}: {stage.chance.choice(odd)}"
        data = "\n".join(lines).encode()
        path.write_bytes(data if stage.chance.random() < 0.5 else stage.mutated(data))
        stage.expect(lambda: read_recorded(path), "settings")
        rows = b'id,label,x\n"a,b",c,d\n\xc3\xa9.jpg,"e\nf",g\n'
        labels.write_bytes(stage.mutated(rows))
        stage.expect(lambda: FileLabels(labels), "labels")


def read_recorded(path: Path) -> None:
    """Settings that are accepted can be recorded and read back."""
    record(read_settings(IndexSettings, path))
