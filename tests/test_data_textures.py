"""Embedded textures: real photographs, painted defects with exact masks, honest splits, one whole write."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from anomalib.data import MVTecAD
from anomalib.data.utils import ValSplitMode
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_ckaad.data import KnownAnomalies, Textures
from anomalib_ckaad.data.textures import files as texture_files
from anomalib_ckaad.data.textures import images as texture_images
from anomalib_ckaad.data.textures.files import TextureParameters, check_textures, write_textures
from anomalib_ckaad.data.textures.images import (
    CATEGORIES,
    CROP,
    DEFECTS,
    PARTS,
    PHOTO_SIZE,
    REGIONS,
    Category,
    Part,
    draw_view,
    make_image,
    photograph,
    render,
)
from anomalib_ckaad.data.textures.painters import PAINTERS, paint
from anomalib_ckaad.errors import ConfigurationError, FileError, MissingDataError
from anomalib_ckaad.files import PART, write_folder_whole

SMALL: dict[str, Any] = {
    "image_size": 64,
    "train_images": 20,
    "validation_images": 4,
    "test_good_images": 3,
    "images_per_defect": 2,
}


def parameters(**changes: int) -> TextureParameters:
    arguments: dict[str, Any] = {"category": "brick", "seed": 0, **SMALL, **changes}
    return TextureParameters(**arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the small set of bricks, which no test changes."""
    root = tmp_path_factory.mktemp("textures")
    write_textures(root, parameters())
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("category", CATEGORIES)
def test_photographs_are_installed_real_and_read_only(category: Category) -> None:
    photo = photograph(category)
    assert photo.shape == (512, 512)
    assert 0 <= photo.min() < 0.3
    assert 0.7 < photo.max() <= 1
    assert photo.std() > 0.08
    with pytest.raises(ValueError, match="read-only"):
        photo[0, 0] = 0


def test_a_missing_photograph_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(texture_images, "files", lambda _: tmp_path)
    photograph.cache_clear()
    with pytest.raises(MissingDataError, match=r"scikit-image .*data/brick\.png\. Install"):
        photograph("brick")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_images_of_a_part_read_nothing_else_of_the_photograph(category: Category, part: Part) -> None:
    photo = photograph(category)
    spoiled = np.full_like(photo, np.nan)
    spoiled[REGIONS[part]] = photo[REGIONS[part]]
    rng = np.random.default_rng(0)
    for _ in range(20):
        view = draw_view(category, part, rng)
        image = render(spoiled, part, view, 32)
        assert np.isfinite(image).all()
        assert np.array_equal(image, render(photo, part, view, 32))


def test_parts_do_not_overlap() -> None:
    share = np.zeros((PHOTO_SIZE, PHOTO_SIZE), dtype=int)
    for region in REGIONS.values():
        share[region] += 1
    assert share.max() == 1


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("part", PARTS)
def test_every_pixel_of_a_view_lies_within_its_part(category: Category, part: Part) -> None:
    height, width = photograph(category)[REGIONS[part]].shape
    rng = np.random.default_rng(1)
    centers = []
    for _ in range(300):
        view = draw_view(category, part, rng)
        angle = np.deg2rad(view.rotation)
        corners = np.array([(y, x) for y in (-CROP / 2, CROP / 2) for x in (-CROP / 2, CROP / 2)])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        places = corners @ turn.T + view.center
        assert places.min() >= -1e-9
        assert places[:, 0].max() <= height - 1 + 1e-9
        assert places[:, 1].max() <= width - 1 + 1e-9
        centers.append(view.center)
    spread = np.ptp(centers, axis=0)
    assert spread[0] > 0.8 * (height - 1.1 * CROP)
    assert spread[1] > 0.8 * (width - 1.1 * CROP)


def test_render_without_turn_at_the_scale_of_the_photograph_is_the_photograph() -> None:
    photo = photograph("gravel")
    view = texture_images.View(center=(199.5, 87.5), rotation=0.0, mirrored=False, gain=1.0)
    image = render(photo, "test", view, CROP)
    expected = photo[REGIONS["test"]][200 - CROP // 2 : 200 + CROP // 2, 88 - CROP // 2 : 88 + CROP // 2]
    np.testing.assert_allclose(image, expected, atol=1e-9)
    mirrored = render(
        photo, "test", texture_images.View(center=(199.5, 87.5), rotation=0.0, mirrored=True, gain=1.0), CROP
    )
    np.testing.assert_allclose(mirrored, expected[:, ::-1], atol=1e-9)


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_masks_are_exact_and_defects_visible_and_small(category: Category, kind: str) -> None:
    for index in range(8):
        image, mask, clean = make_image(category, kind, "test", index, 256, 0)
        assert image.shape == mask.shape == clean.shape == (256, 256)
        difference = np.abs(image.astype(int) - clean)
        assert not difference[~mask].any()
        assert (difference[mask] > 0).mean() > 0.85
        assert difference[mask].mean() > 12
        assert 0.001 < mask.mean() < 0.12


def test_good_images_are_undamaged() -> None:
    image, mask, clean = make_image("grass", "good", "train", 3, 64, 0)
    assert not mask.any()
    assert np.array_equal(image, clean)


def test_defects_scale_with_the_image() -> None:
    for kind in DEFECTS:
        small = np.mean([make_image("brick", kind, "test", i, 64, 0)[1].mean() for i in range(12)])
        large = np.mean([make_image("brick", kind, "test", i, 128, 0)[1].mean() for i in range(12)])
        assert small == pytest.approx(large, rel=0.6)


def test_every_kind_is_painted_by_its_painter_and_unknown_ones_are_refused() -> None:
    assert len(PAINTERS) >= 5
    image, foreign = np.full((64, 64), 0.5), np.random.default_rng(0).uniform(size=(64, 64))
    masks = {kind: paint(kind, image, np.random.default_rng(7), foreign)[1] for kind in DEFECTS}
    assert masks["patch"].sum() > masks["scratch"].sum()
    with pytest.raises(ConfigurationError, match="one of scratch, stain, hole, patch, seam, not 'rust'"):
        paint("rust", image, np.random.default_rng(0), foreign)


def test_images_differ_by_index_kind_part_and_seed_and_repeat_by_them() -> None:
    first = make_image("brick", "stain", "test", 0, 64, 0)[0]
    assert np.array_equal(first, make_image("brick", "stain", "test", 0, 64, 0)[0])
    others = [
        make_image("brick", "stain", "test", 1, 64, 0)[0],
        make_image("brick", "hole", "test", 0, 64, 0)[2],
        make_image("brick", "stain", "train", 0, 64, 0)[2],
        make_image("brick", "stain", "test", 0, 64, 1)[0],
        make_image("grass", "stain", "test", 0, 64, 0)[0],
    ]
    assert not any(np.array_equal(first, other) for other in others)


def test_layout_is_mvtec_ads_and_reads_as_such(tmp_path: Path) -> None:
    data = Textures(root=tmp_path, category="gravel", **SMALL)
    data.prepare_data()
    folder = tmp_path / "gravel"
    assert len(list(folder.glob("train/good/*.png"))) == 20
    assert len(list(folder.glob("validation/good/*.png"))) == 4
    assert len(list(folder.glob("test/good/*.png"))) == 3
    for kind in DEFECTS:
        images = sorted(path.stem for path in folder.glob(f"test/{kind}/*.png"))
        masks = sorted(path.stem for path in folder.glob(f"ground_truth/{kind}/*.png"))
        assert masks == [f"{stem}_mask" for stem in images] == ["000_mask", "001_mask"]
    with Image.open(folder / "ground_truth/hole/001_mask.png") as mask:
        assert set(np.unique(np.asarray(mask))) == {0, 255}
        assert np.array_equal(np.asarray(mask) > 0, make_image("gravel", "hole", "test", 1, 64, 0)[1])
    mvtec = MVTecAD(root=tmp_path, category="gravel", val_split_mode=ValSplitMode.NONE)
    mvtec.setup()
    assert len(mvtec.test_data) == 3 + 5 * 2


def paths_of(data: Textures) -> tuple[list[str], list[str], list[str]]:
    train, val, test = (sorted(part.samples.image_path) for part in (data.train_data, data.val_data, data.test_data))
    return train, val, test


def test_validation_is_normal_and_of_its_own(made: Path) -> None:
    data = Textures(root=made, **SMALL)
    data.setup()
    assert (data.train_data.samples.label_index == 0).all()
    assert (data.val_data.samples.label_index == 0).all()
    train, val, test = paths_of(data)
    assert (len(train), len(val), len(test)) == (20, 4, 13)
    assert all("/train/good/" in path for path in train)
    assert all("/validation/good/" in path for path in val)
    assert all("/test/" in path for path in test)
    assert next(iter(data.val_dataloader())).image.shape == (4, 3, 64, 64)


def test_validation_from_train_is_seeded_and_leaves_the_test_images_alone(made: Path) -> None:
    def split(seed: int) -> tuple[list[str], list[str], list[str]]:
        data = Textures(root=made, val_split_mode="from_train", seed=seed, **SMALL)
        data.setup()
        return paths_of(data)

    train, val, test = split(0)
    assert (len(train), len(val), len(test)) == (18, 2, 13)
    assert not set(train) & set(val)
    assert all("/train/good/" in path for path in train + val)
    assert split(0) == (train, val, test)
    assert split(1)[1] != val
    assert split(1)[2] == test


def test_batches_carry_masks_in_testing_and_the_folder_is_the_kind(made: Path) -> None:
    data = Textures(root=made, **SMALL)
    data.prepare_data()
    data.setup()
    assert data.name == "Textures"
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (16, 3, 64, 64)
    assert 0 <= float(batch.image.min()) <= float(batch.image.max()) <= 1
    kinds = set()
    for batch in data.test_dataloader():
        assert batch.gt_mask.shape == (len(batch.image_path), 64, 64)
        for path, label, mask in zip(batch.image_path, batch.gt_label, batch.gt_mask, strict=True):
            kind = Path(path).parent.name
            kinds.add(kind)
            assert bool(label) == (kind != "good") == bool(mask.any())
    assert kinds == {"good", *DEFECTS}


def test_setup_alone_makes_the_images(tmp_path: Path) -> None:
    data = Textures(root=tmp_path, **SMALL)
    data.setup()
    assert len(data.train_data) == 20


def test_known_anomalies_are_of_the_training_part_and_leave_all_others_alone(tmp_path: Path) -> None:
    plain, with_known = (Textures(root=tmp_path / str(known), known_per_defect=known, **SMALL) for known in (0, 2))
    plain.setup()
    data = KnownAnomalies(with_known, count=3, types=["stain", "hole"])
    data.setup()
    paths = [Path(path) for path in data.known_data.samples.image_path]
    assert len(paths) == 3
    assert {path.parent.parent for path in paths} == {tmp_path / "2/brick/known"}
    for path in paths:
        image, _, _ = make_image("brick", path.parent.name, "train", int(path.stem), SMALL["image_size"], 0)
        assert np.array_equal(np.asarray(Image.open(path)), image)
    before, after = contents(tmp_path / "0/brick"), contents(tmp_path / "2/brick")
    assert {name for name in after if name not in before} == {
        f"known/{kind}/{index:03d}.bmp" for kind in PAINTERS for index in range(2)
    }
    assert all(after[name] == before[name] for name in before if name != "textures.json")
    for subset in ("train_data", "val_data", "test_data"):
        names = [Path(path).name for path in getattr(data, subset).samples.image_path]
        assert names == [Path(path).name for path in getattr(plain, subset).samples.image_path]


def test_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert write_textures(tmp_path / name, parameters(seed=seed))
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert not any(a[name] == c[name] for name in a)


def test_more_images_leave_the_others_as_they_are(tmp_path: Path) -> None:
    write_textures(tmp_path / "a", parameters())
    write_textures(tmp_path / "b", parameters(images_per_defect=3, train_images=21))
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert len(b) == len(a) + 5 * 2 + 1
    assert all(b[name] == a[name] for name in a if name.endswith(".png"))


def test_a_second_call_writes_nothing(tmp_path: Path) -> None:
    assert write_textures(tmp_path, parameters())
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not write_textures(tmp_path, parameters())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_interruption_leaves_nothing_and_the_next_call_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def interrupted(*arguments: object) -> object:
        made.append(arguments)
        if len(made) == 10:
            raise KeyboardInterrupt
        return make_image(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(texture_files, "make_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_textures(tmp_path, parameters())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert write_textures(tmp_path, parameters())
    check_textures(tmp_path / "brick", parameters())


def test_a_killed_run_does_not_count_as_finished(tmp_path: Path) -> None:
    leftover = tmp_path / f"{PART}abc" / "train" / "good"
    leftover.mkdir(parents=True)
    (leftover / "000.png").write_bytes(b"half")
    data = Textures(root=tmp_path, **SMALL)
    data.setup()
    assert len(data.train_data) == 20


def test_runs_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs have found nothing before any of them begins to write."""
    barrier = Barrier(3)

    def at_once(folder: Path, write: Any) -> bool:
        barrier.wait(timeout=60)
        return write_folder_whole(folder, write)

    monkeypatch.setattr(texture_files, "write_folder_whole", at_once)
    with ThreadPoolExecutor(3) as pool:
        written = list(pool.map(lambda _: write_textures(tmp_path, parameters()), range(3)))
    assert sorted(written) == [False, False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["brick"]
    check_textures(tmp_path / "brick", parameters())


def test_other_parameters_are_refused_and_nothing_is_deleted(tmp_path: Path) -> None:
    write_textures(tmp_path, parameters())
    before = contents(tmp_path)
    with pytest.raises(FileError, match=r"brick .*image_size 64 instead of 96, seed 0 instead of 3\. Delete"):
        write_textures(tmp_path, parameters(image_size=96, seed=3))
    with pytest.raises(FileError, match="image_size 64 instead of 256"):
        Textures(root=tmp_path, **{**SMALL, "image_size": 256}).setup()
    assert contents(tmp_path) == before


def test_another_generator_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_textures(tmp_path, parameters())
    monkeypatch.setattr(texture_files, "GENERATOR_VERSION", texture_files.GENERATOR_VERSION + 1)
    with pytest.raises(FileError, match="generator_version 1 instead of 2"):
        write_textures(tmp_path, parameters())


def test_incomplete_crowded_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    write_textures(tmp_path, parameters())
    folder = tmp_path / "brick"
    (folder / "test/stain/001.png").unlink()
    with pytest.raises(FileError, match=r"1 missing and 0 too many, such as test/stain/001.png \(missing\)"):
        write_textures(tmp_path, parameters())
    (folder / "test/stain/001.png").write_bytes(b"")
    (folder / "test/stain/009.png").write_bytes(b"")
    with pytest.raises(FileError, match=r"0 missing and 1 too many, such as test/stain/009.png \(too many\)"):
        write_textures(tmp_path, parameters())
    (folder / "textures.json").write_text("{")
    with pytest.raises(FileError, match=r"Cannot read .*textures\.json"):
        write_textures(tmp_path, parameters())
    (folder / "textures.json").unlink()
    with pytest.raises(FileError, match=r"brick exists, but has no textures\.json"):
        write_textures(tmp_path, parameters())
    assert (folder / "test/stain/009.png").exists()


def test_parameters_are_recorded(made: Path) -> None:
    record = json.loads((made / "brick" / "textures.json").read_text())
    assert record == {"generator_version": 1, "category": "brick", "seed": 0, **SMALL}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "wood"}, "`category` must be one of brick, gravel, grass, not 'wood'"),
        ({"image_size": 16}, "`image_size` must be at least 32 pixels, not 16"),
        ({"image_size": (64, 96)}, r"`image_size` .*, not \(64, 96\)"),
        ({"train_images": 0}, "`train_images` must be at least 1, not 0"),
        ({"validation_images": 0}, "`validation_images` must be at least 1, not 0"),
        ({"images_per_defect": 0}, "`images_per_defect` must be at least 1, not 0"),
        ({"known_per_defect": -1}, "`known_per_defect` must be at least 0, not -1"),
        ({"texture_seed": -1}, "`texture_seed` must be at least 0, not -1"),
        ({"val_split_ratio": 0.0}, "`val_split_ratio` .*, not 0.0"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Textures(root=tmp_path, **{**SMALL, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_split_mode_is_refused_by_anomalib(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never"):
        Textures(root=tmp_path, val_split_mode="never", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_pair_as_image_size_works_since_anomalib_makes_pairs(tmp_path: Path) -> None:
    assert Textures(root=tmp_path, image_size=(64, 64)).parameters.image_size == 64


def test_image_augmentations_reach_the_images(made: Path) -> None:
    data = Textures(root=made, augmentations=Resize((32, 32)), **SMALL)
    data.setup()
    train_item, test_item = data.train_data[0], data.test_data[0]
    assert train_item.image is not None
    assert train_item.image.shape == (3, 32, 32)
    assert test_item.gt_mask is not None
    assert test_item.gt_mask.shape == (32, 32)
