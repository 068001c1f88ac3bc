"""``delg match``: compare two photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from delg.cli.console import plural, print_json, print_result
from delg.cli.options import DEFAULT_MODEL, AsJson, Config, Model
from delg.errors import DelgError
from delg.remote_path import as_location


def match(
    a: Annotated[Any, typer.Argument(metavar="A", parser=as_location, help="One photo.")],
    b: Annotated[Any, typer.Argument(metavar="B", parser=as_location, help="Another photo.")],
    model: Model = DEFAULT_MODEL,
    config: Config = None,
    as_json: AsJson = False,
    draw: Annotated[
        Path | None, typer.Option(help="PNG or JPEG file to draw the matching points into.")
    ] = None,
) -> None:
    """Match two photos and verify that they show the same thing."""
    from delg.images.decode import ImageError, decode
    from delg.settings import parse, read_yaml
    from delg.zoo.registry import find_model, load_model
    from index import IndexSettings
    from index.results import as_percent
    from index.verification.calibration import read_calibration
    from index.verification.match_photos import match_photos

    settings = parse(IndexSettings, read_yaml(config) if config else {}, str(config))
    files = find_model(model)
    extractor = load_model(model, extraction=settings.extraction, images=settings.images)
    settings = settings.of_model(extractor.settings)
    pixels = []
    for photo in (a, b):
        try:
            pixels.append(decode(photo, settings.images))
        except ImageError as error:
            raise DelgError(f"{photo}: {error}") from None
    features_b = extractor.extract(pixels[1])
    calibration = read_calibration(files.calibration)
    pair = match_photos(extractor, pixels[0], features_b, settings, calibration)
    features_a, verification = pair.query, pair.verification
    similarity = float(features_a.global_descriptor @ features_b.global_descriptor)
    points_a, points_b = (
        features.local.keypoints[verification.matches[:, column]]
        for column, features in enumerate((features_a, features_b))
    )
    if draw is not None:
        from index.visualize.draw_matches import draw_matches, save_drawing

        save_drawing(draw, draw_matches(pixels[0], pixels[1], points_a, points_b))
    if as_json:
        transform = verification.transform
        values = {
            "a": str(a), "b": str(b), "model": model, "similarity": round(similarity, 6),
            "inliers": verification.inliers, "probability": round(verification.probability, 6),
            "verified": verification.verified,
            "transform": None if transform is None else transform.tolist(),
            "matches": [
                {"a": a_point, "b": b_point}
                for a_point, b_point in zip(points_a.tolist(), points_b.tolist(), strict=True)
            ],
        }  # fmt: skip
        print_json(values)
        return
    verdict = "the same thing, verified" if verification.verified else "not verified"
    print_result(
        f"{verdict}: probability {as_percent(verification.probability)}, "
        f"{plural(verification.inliers, 'inlier')}, similarity {similarity:.3f}"
    )
