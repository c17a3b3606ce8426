"""Known anomalies from any data set: how many, which, never masks, never leaked."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import AnomalibDataModule, Folder, get_datamodule
from anomalib.engine import Engine
from anomalib.models import Padim
from jsonargparse import ArgumentParser

from anomalib_ckaad.data.known.batches import KnownAnomalyBatches
from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.data.known.selection import count_for_ratio
from anomalib_ckaad.data.reading.anomaly_types import type_of
from anomalib_ckaad.errors import ConfigurationError, IntensityError, KnownAnomaliesError
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.metrics.seen_unseen import SeenUnseenEvaluator, seen_and_unseen
from tests.conftest import make_folder_data, write_images


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve normal training images, four normal test images, six cracks and five holes, all with masks."""
    root = tmp_path_factory.mktemp("types")
    for name, count in (("good", 12), ("test_good", 4), ("test/crack", 6), ("test/hole", 5)):
        write_images(root / name, count, size=64)
    for kind in ("crack", "hole"):
        shutil.copytree(root / "test" / kind, root / "masks" / kind)
    write_images(root / "mine" / "scratch", 3, size=64)
    write_images(root / "mine" / "dent", 2, size=64)
    return root


def inner(root: Path, **arguments: Any) -> Folder:
    kinds = ("crack", "hole")
    defaults = {
        "abnormal_dir": [f"test/{kind}" for kind in kinds],
        "mask_dir": [f"masks/{kind}" for kind in kinds],
        "train_batch_size": 4,
        "val_split_ratio": 0.25,
    }
    return make_folder_data(root, **{**defaults, **arguments})


def ready(root: Path, data: AnomalibDataModule | None = None, **arguments: Any) -> KnownAnomalies:
    known = KnownAnomalies(data or inner(root), **arguments)
    known.setup()
    return known


def paths(dataset: Any) -> set[str]:
    return set(dataset.samples.image_path)


def test_drawn_ones_leave_test_and_validation(root: Path) -> None:
    plain = inner(root)
    plain.setup()
    data = ready(root, count=4)
    known = paths(data.known_data)
    assert len(known) == 4
    assert known < paths(plain.test_data)
    assert paths(data.test_data) == paths(plain.test_data) - known
    assert not known & paths(data.val_data)
    assert paths(data.train_data) == paths(plain.train_data)
    assert sum(data.known_types.values()) == 4


def test_from_a_test_set_that_is_validated_on(root: Path) -> None:
    data = ready(root, inner(root, val_split_mode="same_as_test"), count=4)
    assert not paths(data.known_data) & (paths(data.val_data) | paths(data.test_data))
    assert len(data.val_data) == len(data.test_data) == 15 - 4


def test_seed_decides_which(root: Path) -> None:
    assert paths(ready(root, count=4).known_data) == paths(ready(root, count=4).known_data)
    assert paths(ready(root, count=4).known_data) != paths(ready(root, count=4, seed=1).known_data)


@pytest.mark.parametrize(("normal", "ratio", "expected"), [(1281, 0.05, 67), (1281, 0.01, 13), (209, 0.1, 23)])
def test_ratio_counts_as_the_paper(normal: int, ratio: float, expected: int) -> None:
    assert count_for_ratio(normal, ratio) == expected


def test_ratio_takes_at_most_what_there_is(root: Path) -> None:
    assert len(ready(root, ratio=0.2).known_data) == count_for_ratio(9, 0.2) == 2
    assert len(ready(root, ratio=0.9).known_data) == 11


def test_types_by_name_and_by_number(root: Path) -> None:
    assert ready(root, count=5, types=["hole"]).known_types == {"hole": 5}
    drawn = [ready(root, count=2, types=1, seed=seed).known_types for seed in range(6)]
    assert {tuple(types) for types in drawn} == {("crack",), ("hole",)}


def test_folder_of_ones_own(root: Path) -> None:
    data = ready(root, known_anomaly_dir=root / "mine")
    assert data.known_types == {"dent": 2, "scratch": 3}
    assert len(data.test_data) == 15
    assert ready(root, known_anomaly_dir=root / "mine" / "dent").known_types == {"dent": 2}
    assert ready(root, known_anomaly_dir=root / "mine", count=1, types=["scratch"]).known_types == {"scratch": 1}


def test_batches_hold_both_kinds_and_no_mask(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a mask was read")

    monkeypatch.setattr("anomalib.data.datasets.base.image.read_mask", refuse)
    data = ready(root, count=3)
    seen = set()
    batches = list(data.train_dataloader())
    assert len(batches) == 2  # nine normal images in batches of four, the last partial one dropped
    for batch in batches:
        assert batch.gt_label.tolist() == [False] * 4 + [True] * 3
        assert batch.gt_mask is None
        assert not any(batch.mask_path or [])
        seen |= set(batch.image_path[4:])
    assert seen == paths(data.known_data)


def test_wrapped_masks_are_still_there_for_the_test(root: Path) -> None:
    data = ready(root, count=3)
    batch = next(iter(data.test_dataloader()))
    assert batch.gt_mask is not None


def test_workers(root: Path) -> None:
    data = ready(root, inner(root, num_workers=1), count=3)
    assert [len(batch.image) for batch in data.train_dataloader()] == [7, 7]


def test_no_more_known_ones_than_normal_ones_in_a_batch() -> None:
    batches = list(KnownAnomalyBatches(normal=8, known=50, batch_size=4))
    assert [sum(i >= 8 for i in batch) for batch in batches] == [4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normal": 0}, "normal images must be at least 1, not 0"),
        ({"known": -1}, "known anomalies must be at least 0, not -1"),
        ({"batch_size": 0}, "batch size must be at least 1, not 0"),
    ],
)
def test_bad_sizes_of_batches(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        KnownAnomalyBatches(**{"normal": 4, "known": 2, "batch_size": 2, **arguments})


def test_every_known_one_is_seen_before_any_is_seen_again() -> None:
    batches = KnownAnomalyBatches(normal=40, known=6, batch_size=4)
    drawn = [i for batch in batches for i in batch if i >= 40]
    for start in range(0, len(drawn) - 5, 6):
        assert sorted(drawn[start : start + 6]) == list(range(40, 46))


def test_order_of_epochs_differs_and_follows_the_global_seed() -> None:
    batches = KnownAnomalyBatches(normal=40, known=6, batch_size=4)
    torch.manual_seed(0)
    first, second = list(batches), list(batches)
    torch.manual_seed(0)
    assert list(batches) == first != second


def test_processes_share_the_normal_images(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = "torch.distributed"
    monkeypatch.setattr(f"{distributed}.is_initialized", lambda: True)
    monkeypatch.setattr(f"{distributed}.get_world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(f"{distributed}.get_rank", lambda rank=rank: rank)
        batches = KnownAnomalyBatches(normal=16, known=4, batch_size=4)
        batches.set_epoch(3)
        seen.append(list(batches))
        assert len(seen[-1]) == len(batches) == 2
    normal = [{i for batch in own for i in batch if i < 16} for own in seen]
    assert not normal[0] & normal[1]
    assert len(normal[0] | normal[1]) == 16


def test_reserve_keeps_the_test_set_and_adds_to_the_smaller_count(root: Path) -> None:
    sets = [ready(root, count=count, reserve=5) for count in (0, 2, 5)]
    assert len({frozenset(paths(data.test_data)) for data in sets}) == 1
    assert len(sets[0].test_data) == 15 - 5
    known = [paths(data.known_data) for data in sets]
    assert [len(each) for each in known] == [0, 2, 5]
    assert known[1] < known[2]


def test_drop_tests_on_the_same_images_and_trains_on_none(root: Path) -> None:
    used, dropped = ready(root, count=4), ready(root, count=4, use="drop")
    assert paths(used.test_data) == paths(dropped.test_data)
    assert paths(used.val_data) == paths(dropped.val_data)
    assert dropped.known_types == {}
    assert not any(batch.gt_label.any() for batch in dropped.train_dataloader())


@pytest.mark.parametrize("arguments", [{"count": 4, "use": "drop"}, {"count": 0}])
def test_nothing_known_means_nothing(root: Path, tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Without known anomalies Ckaad makes none of its own from data that say that none are known."""

    class Refuse:
        def __call__(self, images: torch.Tensor, **_: object) -> torch.Tensor:
            raise AssertionError("made an anomaly")

    model = Ckaad(
        backbone="resnet18", layers=(2, 3), image_size=64, pre_trained=False, visualizer=False, synthesis=Refuse()
    )
    engine = Engine(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    engine.fit(model, datamodule=KnownAnomalies(inner(root), **arguments))
    assert "generator" not in engine.trainer.callback_metrics


def test_trains_under_the_engine(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = Ckaad(backbone="resnet18", layers=(2, 3), image_size=64, pre_trained=False, visualizer=False)
    engine = Engine(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    data = KnownAnomalies(inner(root), count=3, types=["crack"])
    engine.fit(model, datamodule=data)
    (results,) = engine.test(model, datamodule=data)
    assert "pixel_AUPRO" in results
    sentence = "Training on 9 normal images and 3 known anomalies (3 crack)."
    assert caplog.text.count(sentence) == 1


def test_seen_and_unseen_types_apart(root: Path, tmp_path: Path) -> None:
    model = Ckaad(
        backbone="resnet18",
        layers=(2, 3),
        image_size=64,
        pre_trained=False,
        visualizer=False,
        evaluator=SeenUnseenEvaluator(),
    )
    engine = Engine(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    data = KnownAnomalies(inner(root), count=3, types=["crack"])
    engine.fit(model, datamodule=data)
    (results,) = engine.test(model, datamodule=data)
    for metric in ("image_AUROC", "image_F1Score", "pixel_AUPRO"):
        assert results[f"seen_{metric}"] == results[f"type_crack_{metric}"]
        assert results[f"unseen_{metric}"] == results[f"type_hole_{metric}"]
    assert "image_oracle_F1Max" in results
    (again,) = engine.test(model, datamodule=data)
    assert again == pytest.approx(results)


def test_means_over_types() -> None:
    rows = {name: {"image_AUROC": value} for name, value in (("a", 0.5), ("b", 0.7), ("c", 0.9), ("all", 0.6))}
    values = seen_and_unseen(rows, ["a", "b"])
    assert values["seen_image_AUROC"] == pytest.approx(0.6)
    assert values["unseen_image_AUROC"] == pytest.approx(0.9)
    assert "seen_image_AUROC" not in seen_and_unseen(rows, [])


def test_own_training_anomalies_come_first(root: Path) -> None:
    data = inner(root)
    data.setup()
    train = data.train_data.samples.copy()
    attributes = dict(data.train_data.samples.attrs)
    train.loc[:1, "label_index"] = 1
    data.train_data.samples = train
    data.train_data.samples.attrs.update(attributes)
    data._is_setup = True
    known = KnownAnomalies(data)
    known.setup()
    assert len(known.known_data) == 2
    assert len(known.train_data) == 7
    assert len(known.test_data) == 15


@pytest.mark.parametrize("form", ["mapping", "name", "benchmark"])
def test_named_data(root: Path, form: str) -> None:
    arguments = {"name": "x", "root": str(root), "normal_dir": "good", "abnormal_dir": "test/crack", "num_workers": 0}
    if form == "mapping":
        data = KnownAnomalies({"class_path": "Folder", "init_args": arguments}, count=2)
    elif form == "name":
        data = KnownAnomalies("anomalib.data.Folder", arguments, count=2)
    else:
        init = {"data": {"class_path": "Folder", "init_args": arguments}, "count": 2}
        data = get_datamodule({"class_path": "KnownAnomalies", "init_args": init})
    data.setup()
    assert data.known_types == {"crack": 2}
    assert data.name == "x"


def test_command_line(root: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    words = ["--data", "KnownAnomalies", "--data.count", "2", "--data.data", "Folder", "--data.data.name", "x"]
    words += ["--data.data.root", str(root), "--data.data.normal_dir", "good", "--data.data.abnormal_dir", "test/hole"]
    data = parser.instantiate_classes(parser.parse_args(words)).data
    data.setup()
    assert data.known_types == {"hole": 2}


def test_type_is_the_data_sets_own_name_or_the_folder() -> None:
    assert type_of({"image_path": "a/b/1.png", "label": "DirType.ABNORMAL"[8:].lower()}) == "b"
    assert type_of({"image_path": "a/b/1.png", "label": "crack"}) == "crack"
    assert type_of({"image_path": "a/b/1.png", "label": "crack", "type": "deep"}) == "deep"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 1.0}, r"`ratio` .*, not 1\.0"),
        ({"ratio": 0.0}, r"`ratio` .*, not 0\.0"),
        ({"ratio": 0.1, "count": 1}, r"either `ratio` or `count`, not both: ratio 0\.1, count 1"),
        ({"count": -1}, r"`count` must be at least 0, not -1"),
        ({"count": 99}, r"`count` is 99, but there are only 11 anomalies"),
        ({"count": 1, "reserve": 99}, r"`reserve` is 99, but there are only 11 anomalies"),
        ({"count": 1, "types": ["dent"]}, r"`types` names dent, .* crack, hole\."),
        ({"count": 1, "types": 3}, r"`types` .* 2 \(crack, hole\), not 3"),
        ({"count": 3, "reserve": 2}, r"`reserve` .* reserve 2, count 3"),
        ({"reserve": 2}, r"`reserve` .* reserve 2, count None"),
        ({}, r"All training images are normal.*`known_anomaly_dir`, `count` or `ratio`"),
        ({"use": "keep", "count": 1}, r"`use` must be 'train' or 'drop', not 'keep'"),
        ({"known_anomaly_dir": "missing"}, r"does not exist: missing\. Correct `known_anomaly_dir`"),
    ],
)
def test_bad_arguments(root: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(KnownAnomaliesError, match=message):
        ready(root, **arguments)


def test_bad_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(KnownAnomaliesError, match=rf"has no images: {tmp_path}"):
        ready(root, known_anomaly_dir=tmp_path)
    write_images(tmp_path / "a" / "good", 1)
    with pytest.raises(KnownAnomaliesError, match=r"images in a folder for normal ones, such as .*a/good/000\.png"):
        ready(root, known_anomaly_dir=tmp_path / "a")
    shutil.copytree(root / "test" / "crack", tmp_path / "b" / "copies")
    with pytest.raises(
        KnownAnomaliesError, match=r"among the test images: 6 \(.*copies/000\.png = .*crack/000\.png.*and 3 more\)"
    ):
        ready(root, known_anomaly_dir=tmp_path / "b")
    with pytest.raises(KnownAnomaliesError, match=r"among the test images: 6 "):  # by path
        ready(root, known_anomaly_dir=root / "test" / "crack")
    shutil.copytree(root / "good", tmp_path / "c" / "bad")
    with pytest.raises(KnownAnomaliesError, match=r"among the (normal training|validation) images: "):
        ready(root, known_anomaly_dir=tmp_path / "c")


def test_one_known_image_and_more_than_normal_ones(root: Path, tmp_path: Path, caplog: Any) -> None:
    write_images(tmp_path / "one", 1)
    data = ready(root, known_anomaly_dir=tmp_path / "one")
    assert [batch.gt_label.sum().item() for batch in data.train_dataloader()] == [1, 1]
    write_images(tmp_path / "many", 20)
    data = ready(root, known_anomaly_dir=tmp_path / "many")
    assert "There are more known anomalies (20) than normal images (9)." in caplog.text
    assert [batch.gt_label.sum().item() for batch in data.train_dataloader()] == [4, 4]


def test_data_without_anomalies(root: Path) -> None:
    data = make_folder_data(root, abnormal_dir=None, normal_test_dir="test_good")
    with pytest.raises(KnownAnomaliesError, match=r"The data set tiny has no anomalous images.*`known_anomaly_dir`"):
        ready(root, data, count=2)


def test_wrapping_itself(root: Path) -> None:
    with pytest.raises(KnownAnomaliesError, match=r"`data` is KnownAnomalies"):
        KnownAnomalies(KnownAnomalies(inner(root), count=1), count=1)


def test_images_of_one_part_stay_together(root: Path) -> None:
    """Three images of a part each: 000-002, 003-005 of crack and 000-002, 003-004 of hole."""
    table = root / "groups.csv"
    rows = [f"{kind}/{i:03}.png,{kind}{i // 3}" for kind, count in (("crack", 6), ("hole", 5)) for i in range(count)]
    table.write_text("\n".join(["image,group", *rows]))
    for seed in range(5):
        data = ready(root, count=4, types=["crack"], groups=str(table), seed=seed)
        known = paths(data.known_data)
        assert len(known) == 4  # all of one part, one of the other
        assert len(paths(data.test_data)) == 4 + 5  # no crack is left to test on
        data = ready(root, count=2, types=["hole"], groups=str(table), seed=seed)
        (part,) = {int(Path(path).stem) // 3 for path in paths(data.known_data)}
        left = {int(Path(path).stem) // 3 for path in paths(data.test_data) if Path(path).parent.name == "hole"}
        assert left == {1 - part}


def test_groups_by_an_expression(root: Path) -> None:
    data = ready(root, count=1, groups=r"test/(crack|hole)/")
    (known,) = data.known_types
    assert {Path(path).parent.name for path in paths(data.test_data)} == {"crack", "hole", "test_good"} - {known}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("none.csv", r"`groups` does not exist: none\.csv"),
        ("(", r"`groups` must be a regular expression or a \.csv file; '\(' is neither"),
    ],
)
def test_bad_groups(groups: str, message: str, root: Path) -> None:
    with pytest.raises(KnownAnomaliesError, match=message):
        KnownAnomalies(inner(root), count=1, groups=groups)


def test_groups_without_the_columns(root: Path, tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("path,part\n")
    with pytest.raises(KnownAnomaliesError, match=r"g\.csv .*image and group, not \['path', 'part'\]"):
        KnownAnomalies(inner(root), count=1, groups=str(tmp_path / "g.csv"))


def test_a_flat_folder_has_no_type(root: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "known", 2, size=64)
    data = ready(root, known_anomaly_dir=tmp_path / "known")
    assert data.known_types == {"untyped": 2}
    rows = {"crack": {"image_AUROC": 0.9}, "all": {"image_AUROC": 0.9}}
    assert seen_and_unseen(rows, data.known_types) == {"type_crack_image_AUROC": 0.9}  # seen or not: who knows


def test_type_is_the_outermost_folder(root: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "known" / "scratch" / "camera1", 2, size=64)
    assert ready(root, known_anomaly_dir=tmp_path / "known").known_types == {"scratch": 2}


def test_copies_in_the_test_images_leave_with_what_is_drawn(tmp_path: Path) -> None:
    for name, count in (("good", 6), ("test_good", 2), ("test/crack", 2)):
        write_images(tmp_path / name, count, size=64)
    shutil.copy(tmp_path / "test" / "crack" / "000.png", tmp_path / "test" / "crack" / "twin.png")
    for seed in range(4):
        folder = make_folder_data(tmp_path, abnormal_dir="test/crack", normal_test_dir="test_good")
        data = ready(tmp_path, folder, count=1, seed=seed)
        names = {Path(path).name for path in paths(data.known_data)}
        left = {Path(path).name for path in paths(data.test_data) if "crack" in path}
        assert left == ({"001.png"} if names & {"000.png", "twin.png"} else {"000.png", "twin.png"})


def test_other_models_are_not_given_known_anomalies(root: Path, tmp_path: Path) -> None:
    model = Padim(backbone="resnet18", layers=["layer2"], pre_trained=False, n_features=10, visualizer=False)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(KnownAnomaliesError, match=r"Padim does not learn from known anomalies.*`use` to 'drop'"):
        engine.fit(model, datamodule=KnownAnomalies(inner(root), count=2))
    engine.fit(model, datamodule=KnownAnomalies(inner(root), count=2, use="drop"))


def test_missing_masks(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    next((tmp_path / "copy" / "masks" / "crack").iterdir()).unlink()
    with pytest.raises(KnownAnomaliesError, match=r"data set tiny .*Check its folders.*each anomalous image needs one"):
        ready(tmp_path / "copy", count=2)


def test_nothing_left_to_test_on_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    ready(root, count=11)
    assert "There are only normal test images left" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": "3"}, r"`count` must be a whole number, not '3'"),
        ({"count": 2.5}, r"`count` must be a whole number, not 2\.5"),
        ({"count": 1, "reserve": True}, r"`reserve` must be a whole number, not True"),
        ({"count": 1, "types": True}, r"`types` must be names of types, or how many to draw, not True"),
        ({"count": 1, "types": []}, r"`types` must be names of types, or how many to draw, not \[\]"),
        ({"count": 1, "intensities": [1]}, r"`intensities` must be two numbers, low and high, not \[1\]"),
        ({"count": 1, "percentiles": (5,)}, r"`percentiles` must be two numbers, low and high, not \[5\]"),
        ({"ratio": 0.01}, r"`ratio` 0\.01 of 9 normal images"),
        ({"count": 1, "groups": "(zzz)"}, r"`groups` matches no path .*\.png"),
        ({"known_anomaly_dir": "normal"}, r"images in a folder for normal ones, such as .*normal/000\.png"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str, root: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "normal", 1, size=64)
    if "known_anomaly_dir" in arguments:
        arguments = {"known_anomaly_dir": tmp_path / "normal"}
    with pytest.raises((KnownAnomaliesError, IntensityError), match=message):
        ready(root, **arguments)


def test_one_type_by_name(root: Path) -> None:
    assert ready(root, count=2, types="crack").known_types == {"crack": 2}
