"""The paper's data sets: counts, labels, types and splits; validation from training images; known anomalies; errors."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.engine import Engine
from jsonargparse import ArgumentParser
from PIL import Image

from anomalib_ckaad import ISIC2018, OCT2017, Br35H, ChestXray, CIFAR10OneClass, Ckaad, KnownAnomalies
from anomalib_ckaad.data.known.selection import count_for_ratio
from anomalib_ckaad.data.paper.labeled_data import LabeledData
from anomalib_ckaad.data.paper.labeled_images import LabeledImage, held_out_count, make_samples
from anomalib_ckaad.errors import ConfigurationError, DataError, KnownAnomaliesError, MissingDataError
from tests import paper_data

MAKERS: dict[type[LabeledData], Callable[[Path], Path]] = {
    ISIC2018: paper_data.isic2018,
    ChestXray: paper_data.chest_xray,
    OCT2017: paper_data.oct2017,
    Br35H: paper_data.br35h,
    CIFAR10OneClass: paper_data.cifar10,
}
# normal and anomalous images of the training split, of the test split, and those held out of each kind
COUNTS = {
    ISIC2018: ((45, 25), (5, 3), 2),
    ChestXray: ((40, 40), (4, 5), 3),
    OCT2017: ((60, 40), (3, 9), 3),
    Br35H: ((20, 16), (5, 4), 1),
    CIFAR10OneClass: ((15, 135), (2, 18), 1),
}
TYPES = {
    ISIC2018: {"MEL", "BCC", "AKIEC", "BKL", "DF", "VASC"},
    ChestXray: {"bacteria", "virus"},
    OCT2017: {"CNV", "DME", "DRUSEN"},
    Br35H: {"tumor"},
    CIFAR10OneClass: set(paper_data.CIFAR_CLASSES) - {"airplane"},
}
ALL = pytest.mark.parametrize("kind", list(MAKERS), ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True)
def checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature of CIFAR-10 cannot have the real one's checksums."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets in one folder."""
    root = tmp_path_factory.mktemp("datasets")
    for make in MAKERS.values():
        make(root)
    return root


def ready(kind: type[LabeledData], root: Path, **arguments: Any) -> LabeledData:
    data = kind(root=root, num_workers=0, **arguments)
    data.prepare_data()
    data.setup()
    return data


def paths(samples: Any) -> set[str]:
    return set(samples.image_path)


@ALL
def test_counts_labels_types_and_splits(kind: type[LabeledData], root: Path) -> None:
    data = ready(kind, root)
    (normal, anomalous), (test_normal, test_anomalous), held_out = COUNTS[kind]
    assert held_out == held_out_count(normal, anomalous, 0.05)
    assert Counter(data.train_data.samples.label_index) == {0: normal - held_out}
    assert Counter(data.train_anomalies.label_index) == {1: anomalous - held_out}
    assert Counter(data.val_data.samples.label_index) == {0: held_out, 1: held_out}
    assert Counter(data.test_data.samples.label_index) == {0: test_normal, 1: test_anomalous}
    assert set(data.train_data.samples.type) == {""}
    assert set(data.train_anomalies.type) | set(data.val_data.samples.type) == TYPES[kind] | {""}
    everything = [data.train_data.samples, data.train_anomalies, data.val_data.samples, data.test_data.samples]
    for samples, split in zip(everything, ("train", "train", "val", "test"), strict=True):
        assert set(samples.split) == {split}
        assert ((samples.type == "") == (samples.label_index == 0)).all()
    assert len(set.union(*map(paths, everything))) == sum(map(len, everything))
    assert data.task == "classification"
    assert data.name == kind.__name__


@ALL
def test_validation_is_of_training_images_only_and_the_same_every_time(kind: type[LabeledData], root: Path) -> None:
    first, again, other = ready(kind, root), ready(kind, root), ready(kind, root, seed=1)
    train_split = {str(image.path) for image in first.images() if image.split == "train"}
    assert paths(first.val_data.samples) < train_split
    assert not paths(first.test_data.samples) & train_split
    assert paths(first.val_data.samples) == paths(again.val_data.samples) != paths(other.val_data.samples)
    assert paths(first.test_data.samples) == paths(other.test_data.samples)


@ALL
def test_root_may_be_the_data_sets_own_folder(kind: type[LabeledData], root: Path) -> None:
    assert len(ready(kind, root / kind.layout.folder).test_data) == sum(COUNTS[kind][1])


@ALL
def test_plain_training_batches_are_normal(kind: type[LabeledData], root: Path) -> None:
    data = ready(kind, root, train_batch_size=8)
    for batch in data.train_dataloader():
        assert not batch.gt_label.any()
        assert batch.gt_mask is None
    assert any(batch.gt_label.any() for batch in data.val_dataloader())


@ALL
def test_known_anomalies_come_from_the_training_split(kind: type[LabeledData], root: Path) -> None:
    plain = ready(kind, root, train_batch_size=8)
    data = KnownAnomalies(plain, ratio=0.2)
    data.setup()
    (normal, anomalous), test, held_out = COUNTS[kind]
    expected = min(count_for_ratio(normal - held_out, 0.2), anomalous - held_out)
    assert len(data.known_data) == sum(data.known_types.values()) == expected
    assert set(data.known_types) <= TYPES[kind]
    assert paths(data.known_data.samples) < paths(plain.train_anomalies)
    assert (len(data.train_data), len(data.test_data)) == (normal - held_out, sum(test))
    batch = next(iter(data.train_dataloader()))
    assert batch.gt_label.tolist() == [False] * 8 + [True] * min(8, expected)
    assert batch.gt_mask is None


def test_known_anomalies_of_one_type(root: Path) -> None:
    data = KnownAnomalies(ready(ISIC2018, root), ratio=0.05, types=["MEL"])
    data.setup()
    assert data.known_types == {"MEL": count_for_ratio(43, 0.05)} == {"MEL": 2}
    with pytest.raises(KnownAnomaliesError, match=r"`types` names NV, .*BCC"):
        KnownAnomalies(ready(ISIC2018, root), ratio=0.05, types=["NV"]).setup()


def test_without_ratio_all_training_anomalies_are_known(root: Path) -> None:
    data = KnownAnomalies(ready(Br35H, root))
    data.setup()
    assert data.known_types == {"tumor": 15}


def test_copies_of_test_images_are_not_learned_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = paper_data.br35h(tmp_path)
    plain = ready(Br35H, tmp_path)
    copied = plain.train_anomalies.image_path[0]
    shutil.copy(copied, folder / "yes" / "y9.jpg")  # y9 is the last by name: a test image
    data = KnownAnomalies(ready(Br35H, tmp_path))
    data.setup()
    assert data.known_types == {"tumor": 14}
    assert copied not in paths(data.known_data.samples)
    assert f"Ignored 1 known anomalies that are also among the test images, such as {copied}." in caplog.text
    drawn = KnownAnomalies(ready(Br35H, tmp_path), count=14)
    drawn.setup()
    assert copied not in paths(drawn.known_data.samples)


def test_training_anomalies_that_are_all_tested_on_are_refused(tmp_path: Path) -> None:
    folder = paper_data.br35h(tmp_path)
    for copied in ready(Br35H, tmp_path).train_anomalies.image_path:
        shutil.copy(folder / "yes" / "y9.jpg", copied)  # a test image
    with pytest.raises(KnownAnomaliesError, match=r"also among the (validation|test) images: \d+"):
        KnownAnomalies(ready(Br35H, tmp_path)).setup()


def test_a_model_trains_and_tests(root: Path, tmp_path: Path) -> None:
    model = Ckaad(backbone="resnet18", layers=(2, 3), image_size=64, pre_trained=False, visualizer=False)
    engine = Engine(default_root_dir=tmp_path, max_steps=2, accelerator="cpu", enable_progress_bar=False)
    data = KnownAnomalies(ready(ChestXray, root, train_batch_size=4), ratio=0.05, types=["virus"])
    engine.fit(model, datamodule=data)
    (results,) = engine.test(model, datamodule=data)
    assert "image_AUROC" in results


@pytest.mark.parametrize("name", ["ChestXray", "anomalib_ckaad.ChestXray"])
def test_command_line(name: str, root: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    words = ["--data", name, "--data.root", str(root), "--data.seed", "3", "--data.num_workers", "0"]
    data = parser.instantiate_classes(parser.parse_args(words)).data
    assert type(data) is ChestXray
    assert data.seed == 3


def test_benchmark(root: Path) -> None:
    init = {"root": str(root), "normal_class": "cat", "num_workers": 0}
    data = get_datamodule({"class_path": "CIFAR10OneClass", "init_args": init})
    data.setup()
    assert data.category == "cat"
    assert "airplane" in set(data.train_anomalies.type)


def test_chest_xray_types_by_both_kinds_of_names(tmp_path: Path) -> None:
    folder = paper_data.chest_xray(tmp_path)
    pneumonia = folder / "test" / "PNEUMONIA"
    paper_data.write(pneumonia / name for name in ("BACTERIA-1008087-0001.jpeg", "VIRUS-1-0001.jpeg", "other.jpeg"))
    types = Counter(ready(ChestXray, tmp_path).test_data.samples.type)
    assert types == {"": 4, "bacteria": 4, "virus": 3, "pneumonia": 1}


def test_br35h_splits_by_name(root: Path) -> None:
    data = ready(Br35H, root)
    names = {Path(path).name for path in paths(data.test_data.samples) if "/no/" in Path(path).as_posix()}
    assert names == set(sorted(f"no{i}.jpg" for i in range(25))[20:])


def test_isic_ground_truth_without_its_folder(tmp_path: Path) -> None:
    folder = paper_data.isic2018(tmp_path)
    for part in ("Training", "Validation"):
        truth = folder / f"ISIC2018_Task3_{part}_GroundTruth"
        (truth / f"{truth.name}.csv").rename(folder / f"{truth.name}.csv")
        truth.rmdir()
    assert len(ready(ISIC2018, tmp_path).test_data) == 8


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda text: text.replace("NV", "NEVUS"), DataError, r"\.csv .*image, MEL, NV, .*NEVUS"),
        (lambda text: text.replace("1.0", "0.0", 1), DataError, r"\.csv .*ISIC_0024306, but names none"),
        (lambda text: text.replace("0.0", "1.0", 2), DataError, r"\.csv .*ISIC_0024306, but names MEL, NV"),
        (lambda text: "", DataError, r"\.csv .*image, MEL, NV, .* has none\. Use the ground truth of task 3"),
        (
            lambda text: text.replace("ISIC_0024306", "ISIC_9999999"),
            MissingDataError,
            r"1 of the 70 images of ISIC2018_Task3_Training_GroundTruth\.csv are missing, such as ISIC_9999999\.",
        ),
    ],
)
def test_isic_ground_truth_that_is_wrong(
    change: Callable[[str], str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = paper_data.isic2018(tmp_path)
    name = "ISIC2018_Task3_Training_GroundTruth"
    file = folder / name / f"{name}.csv"
    file.write_text(change(file.read_text()))
    with pytest.raises(error, match=message):
        ready(ISIC2018, tmp_path)


@ALL
def test_nothing_there(kind: type[LabeledData], tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        ready(kind, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} does not hold the data set {kind.layout.folder}.")
    assert f"{kind.layout.folder}/{kind.layout.tree}" in message
    assert f"unpack {kind.layout.source} there" in message
    assert "https://" in message


@ALL
def test_a_missing_part_is_named(kind: type[LabeledData], tmp_path: Path) -> None:
    folder = MAKERS[kind](tmp_path)
    part = kind.layout.parts[-1][0]
    (shutil.rmtree if (folder / part).is_dir() else Path.unlink)(folder / part)
    with pytest.raises(MissingDataError, match=rf"{folder} has no {part}\. .*unpack .*https://"):
        ready(kind, tmp_path)


def test_an_empty_folder_is_missing(tmp_path: Path) -> None:
    folder = paper_data.oct2017(tmp_path)
    for name in ("CNV", "DME"):
        shutil.rmtree(folder / "test" / name)
        (folder / "test" / name).mkdir()
    with pytest.raises(MissingDataError, match=rf"{folder} has no test/CNV and no test/DME\."):
        ready(OCT2017, tmp_path)


def test_cifar_images_are_those_of_the_batches(root: Path) -> None:
    import torchvision  # noqa: PLC0415  # the fixture has to have patched it

    folder = root / "CIFAR10"
    ready(CIFAR10OneClass, root)
    batches = torchvision.datasets.CIFAR10(root=folder, train=False)
    for index, (pixels, label) in enumerate(zip(batches.data, batches.targets, strict=True)):
        file = folder / "cifar-10-png" / "test" / paper_data.CIFAR_CLASSES[label] / f"{index:05d}.png"
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(image), pixels)


def test_cifar_is_written_once_whole_and_then_needs_no_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = paper_data.cifar10(tmp_path)
    save = Image.Image.save

    def interrupted(self: Image.Image, path: Path, *args: Any) -> None:
        if path.name == "00040.png":
            raise KeyboardInterrupt
        save(self, path, *args)

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ready(CIFAR10OneClass, tmp_path)
    assert [path.name for path in folder.iterdir()] == ["cifar-10-batches-py"]
    monkeypatch.setattr(Image.Image, "save", save)
    ready(CIFAR10OneClass, tmp_path)
    shutil.rmtree(folder / "cifar-10-batches-py")
    assert len(ready(CIFAR10OneClass, tmp_path).test_data) == 20
    (folder / "cifar-10-png" / "test" / "cat" / "00003.png").unlink()
    with pytest.raises(DataError, match=r"cifar-10-png .*170 images were written, 169 images.*Delete it"):
        ready(CIFAR10OneClass, tmp_path)


def test_cifar_with_a_damaged_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper_data.cifar10(tmp_path)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"cifar-10-batches-py are damaged"):
        ready(CIFAR10OneClass, tmp_path)


def test_cifar_is_downloaded_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(self: Any) -> None:
        asked.append(self.root)
        shutil.move(paper_data.cifar10(tmp_path / "made") / "cifar-10-batches-py", self.root)

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", download)
    with pytest.raises(MissingDataError, match=r"or set download to true"):
        ready(CIFAR10OneClass, tmp_path)
    assert not asked
    assert len(ready(CIFAR10OneClass, tmp_path, download=True).test_data) == 20
    assert asked == [tmp_path]
    ready(CIFAR10OneClass, tmp_path, download=True)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Br35H, {"val_split_ratio": 0.0}, r"`val_split_ratio` .*, not 0\.0"),
        (Br35H, {"val_split_ratio": 1.0}, r"`val_split_ratio` .*, not 1\.0"),
        (CIFAR10OneClass, {"normal_class": "car"}, r"`normal_class` must be one of airplane, .*, not 'car'"),
    ],
)
def test_bad_arguments(kind: type[LabeledData], arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(root=tmp_path, **arguments)


@pytest.mark.parametrize(
    ("normal", "anomalous", "expected"), [(1349, 3883, 68), (6705, 3310, 166), (20, 1, 1), (100, 0, 6), (3, 900, 1)]
)
def test_held_out_count(normal: int, anomalous: int, expected: int) -> None:
    assert held_out_count(normal, anomalous, 0.05) == expected


def test_the_papers_number_of_known_x_rays() -> None:
    assert count_for_ratio(1349 - held_out_count(1349, 3883, 0.05), 0.05) == 67


def test_too_few_normal_images() -> None:
    images = [LabeledImage(Path("a.png"), "no", "", "train"), LabeledImage(Path("b.png"), "yes", "tumor", "train")]
    with pytest.raises(DataError, match=r"normal training images: 1, of which 1 "):
        make_samples(images, 0.05, seed=0)
