"""The gallery: which images it shows, on which scale, and that what it draws is in the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_ckaad.cli.gallery import Scale, choose, draw_gallery
from anomalib_ckaad.metrics.per_type import Scored


def make_scored(folder: Path, kinds: list[str], scores: list[float], *, masks: bool = True) -> Scored:
    paths = []
    for index, kind in enumerate(kinds):
        path = folder / kind / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30), 100, dtype=np.uint8)).save(path)
        paths.append(str(path))
    maps = torch.zeros(len(kinds), 32, 32)
    maps[:, 8:16, 8:16] = torch.tensor(scores)[:, None, None]
    labels = torch.tensor([kind != "good" for kind in kinds])
    truth = (maps > 0) & labels[:, None, None]
    values = torch.tensor(scores)
    return Scored(paths, values, labels, maps, truth if masks else None, predicted=values > 0.25)


KINDS = ["good", "stain", "good", "stain", "crack", "stain", "good"]
SCORES = [0.1, 0.7, 0.3, 0.9, 0.5, 0.2, 0.2]


def test_highest_and_lowest_score_of_each_type_are_chosen(tmp_path: Path) -> None:
    assert choose(make_scored(tmp_path, KINDS, SCORES)) == [("crack", [4]), ("stain", [3, 5]), ("normal", [2, 0])]


def test_scale_spans_from_the_usual_to_the_most_anomalous(tmp_path: Path) -> None:
    scored = make_scored(tmp_path, KINDS, SCORES)
    scale = Scale.of(scored)
    assert scale.low == 0
    assert scale.high == pytest.approx(0.9)
    unit = scale.apply(scored.maps[3])
    assert unit.min() == 0
    assert unit.max() == pytest.approx(1)


def test_scale_of_equal_scores_does_not_divide_by_zero(tmp_path: Path) -> None:
    scored = make_scored(tmp_path, ["good", "stain"], [0.0, 0.0])
    assert np.isfinite(Scale.of(scored).apply(scored.maps[0])).all()


@pytest.mark.parametrize("masks", [True, False])
def test_gallery_is_a_readable_picture_with_a_row_a_type(tmp_path: Path, *, masks: bool) -> None:
    scored = make_scored(tmp_path, KINDS, SCORES, masks=masks)
    file = tmp_path / "new" / "gallery.png"
    draw_gallery(scored, file)
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] > 1000
    assert pixels.shape[0] > 3 * 150
    dark = (pixels.sum(axis=2) < 60).mean()
    assert 0.05 < dark < 0.9
    cyan = (pixels[..., 0] < 80) & (pixels[..., 1] > 180) & (pixels[..., 2] > 180)
    assert cyan.any() == masks


def test_gallery_shows_the_map_and_not_something_else(tmp_path: Path) -> None:
    pictures = []
    for level in (0.9, 0.0):
        scored = make_scored(tmp_path, ["good", "good", "stain"], [0.1, 0.2, level])
        scored.maps[0, :4, :4] = 1.0  # so that both pictures have one scale
        draw_gallery(scored, tmp_path / "gallery.png")
        with Image.open(tmp_path / "gallery.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    bright = [(picture[..., 0] > 200) & (picture[..., 2] < 190) for picture in pictures]
    assert bright[0].sum() > bright[1].sum() + 500


def test_a_folder_of_anomalous_images_called_good_does_not_confuse(tmp_path: Path) -> None:
    scored = make_scored(tmp_path, ["normal", "good"], [0.1, 0.8])
    scored = Scored(scored.paths, scored.scores, torch.tensor([False, True]), scored.maps, scored.masks)
    draw_gallery(scored, tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").stat().st_size > 1000
    assert sorted(index for _, indices in choose(scored) for index in indices) == [0, 1]
