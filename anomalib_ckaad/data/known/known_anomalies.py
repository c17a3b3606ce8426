"""KnownAnomalies: any data set of anomalib, with a few known anomalies in its training batches."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName
from lightning.pytorch.utilities.types import TRAIN_DATALOADERS
from torch.utils.data import DataLoader

from anomalib_ckaad.data.known.batches import KnownAnomalyBatches, NormalAndKnown
from anomalib_ckaad.data.known.groups import make_grouping
from anomalib_ckaad.data.known.overlap import find_overlap, refuse_overlap
from anomalib_ckaad.data.known.samples import as_training_samples, set_samples
from anomalib_ckaad.data.known.selection import Selection
from anomalib_ckaad.data.known.wrapped import resolve, set_up
from anomalib_ckaad.data.reading.anomaly_types import read_anomaly_folder
from anomalib_ckaad.data.reading.converted_samples import convert_samples
from anomalib_ckaad.data.reading.intensities import PERCENTILES, Intensities, IntensityRule, Limits, two_numbers
from anomalib_ckaad.errors import KnownAnomaliesError
from anomalib_ckaad.host.data_modules import SplitData

logger = logging.getLogger(__name__)


class KnownAnomalies(SplitData):
    r"""Wraps another image datamodule and adds known anomalies, without their masks, to its training batches.

    A training batch has ``train_batch_size`` normal images of the wrapped data and min(``train_batch_size``, known)
    known anomalies. They come from a folder of your own, or from the data set: from its training images if some of
    them are anomalous (in ``train_data``, or in samples called ``train_anomalies``), otherwise from its test and
    validation images, which then lose them. Apart from that, validation and test are those of the wrapped data.

    Args:
        data: The datamodule to wrap: an instance, or ``class_path`` and ``init_args``, or a name.
        data_args: Arguments of ``data`` if it is a name.
        known_anomaly_dir: A folder of known anomalies, with or without a folder for each type.
        ratio: Known anomalies as a share of all training images, in (0, 1), counted as in the paper; at most all there
            are.
        count: Number of known anomalies. 0 trains on normal images alone. Without ``ratio`` and ``count``, all images
            of ``known_anomaly_dir`` or all anomalous training images are known.
        types: Types to take them from by name, or how many types to draw at random.
        reserve: Number of anomalies to take out of the test set, of which the first ``count`` are used. Trainings with
            different counts and the same reserve are tested on the same images, and a larger count adds to a smaller
            one.
        use: ``train``; or ``drop``, which takes the same images out of the test set and trains without them, so that
            a model that must not see them is tested on the same images.
        groups: If several images show the same part, patient or object: a regular expression that finds its name in
            the path, such as ``(person\d+)_``, or a ``.csv`` file with columns ``image`` and ``group``. Whole groups
            are drawn as far as the count allows, and validation and test lose all their images.
        seed: Of all that is drawn, and of the order of batches if several processes train.
        intensities: How images of more than 8 bits per channel and DICOM become 8 bits: by low and high as two numbers;
            otherwise by the window that a DICOM file states; otherwise by percentiles of all normal training images
            (``dataset``) or of each image (``image``). They are written to a cache once, as are images that EXIF turns.
        percentiles: Which, in percent. Default 0.5 and 99.5.
        pin_memory: Whether batches are put into pinned memory, for GPUs. Default False.

    Attributes:
        known_data: The known anomalies, once set up.
        known_types: Number of known anomalies by type; empty if none are trained on.
        drawn_types: The same for the known anomalies with ``use: drop``, too.

    Raises:
        KnownAnomaliesError: If known anomalies cannot be chosen as asked, or are among validation or test images.
        IntensityError: If low and high make no sense, or cannot be found.
    """

    known_data: AnomalibDataset

    def __init__(
        self,
        data: AnomalibDataModule | Mapping[str, Any] | str,
        data_args: dict[str, Any] | None = None,
        known_anomaly_dir: str | Path | None = None,
        ratio: float | None = None,
        count: int | None = None,
        types: Sequence[str] | int | str | None = None,
        reserve: int | None = None,
        use: Literal["train", "drop"] = "train",
        groups: str | None = None,
        seed: int = 0,
        intensities: Intensities = "dataset",
        percentiles: Limits = PERCENTILES,
        pin_memory: bool = False,  # noqa: FBT001, FBT002 - keyword argument of a config file
    ) -> None:
        self.known_anomaly_dir = None if known_anomaly_dir is None else Path(known_anomaly_dir)
        self.selection = Selection(
            ratio=ratio,
            count=count,
            types=(types,) if isinstance(types, str) else types,
            reserve=reserve,
            seed=seed,
            group_of=None if groups is None else make_grouping(groups),
        )
        if use not in {"train", "drop"}:
            msg = f"`use` must be 'train' or 'drop', not {use!r}."
            raise KnownAnomaliesError(msg)
        self.use = use
        self.rule = IntensityRule(
            intensities if isinstance(intensities, str) else two_numbers("intensities", intensities),
            two_numbers("percentiles", percentiles),
        )
        self.data = resolve(data, data_args)
        if isinstance(self.data, KnownAnomalies):
            msg = "`data` is KnownAnomalies, which cannot be wrapped again. Pass the data that it wraps."
            raise KnownAnomaliesError(msg)
        super().__init__(
            train_batch_size=self.data.train_batch_size,
            eval_batch_size=self.data.eval_batch_size,
            num_workers=self.data.num_workers,
            train_augmentations=self.data.train_augmentations,
            val_augmentations=self.data.val_augmentations,
            test_augmentations=self.data.test_augmentations,
            seed=seed,
        )
        self.pin_memory = pin_memory
        self.known_types: dict[str, int] = {}
        self.drawn_types: dict[str, int] = {}

    @property
    def name(self) -> str:  # type: ignore[override]  # a property in anomalib's base class as well
        """Name of the wrapped data."""
        return self.data.name

    @property
    def group_of(self) -> Callable[[str], str] | None:
        """From an image's path to the part or patient that it shows; None where nothing says which images do."""
        return self.selection.group_of

    @property
    def category(self) -> str:
        """Category of the wrapped data."""
        return self.data.category

    @category.setter
    def category(self, category: str) -> None:
        self.data.category = category

    def prepare_data(self) -> None:
        """Let the wrapped data prepare themselves."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped data up, and take the known anomalies out of all other images."""
        super().setup(stage)
        self.known_data.augmentations = self.train_data.augmentations

    def _setup(self, _stage: str | None = None) -> None:
        set_up(self.data, _stage)
        self.train_data, self.val_data, self.test_data = (
            copy.deepcopy(subset) for subset in (self.data.train_data, self.data.val_data, self.data.test_data)
        )
        normal, training_anomalies = self._divide_training_images()
        set_samples(self.train_data, normal, masks=False)
        chosen = self._choose(training_anomalies)
        self._take_out(chosen)
        known = self.selection.use(chosen)
        self._make_known_data(known)
        self._convert_images()
        if len(known) > len(normal):
            logger.warning("There are more known anomalies (%d) than normal images (%d).", len(known), len(normal))
        logger.info(self.describe())

    def _divide_training_images(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Samples of the normal training images and of the anomalous ones.

        Data sets with anomalous training images may keep these out of ``train_data``, in ``train_anomalies``.
        """
        train = self.train_data.samples
        is_anomalous = train.label_index == LabelName.ABNORMAL
        return train[~is_anomalous], getattr(self.data, "train_anomalies", train[is_anomalous])

    def _choose(self, training_anomalies: pd.DataFrame) -> pd.DataFrame:
        """Choose the known anomalies, none of which may be among the images that stay in another subset."""
        others = self._other_images()
        if self.known_anomaly_dir is not None:
            pool = read_anomaly_folder(self.known_anomaly_dir)
        elif not training_anomalies.empty:
            pool = self._without_copies(training_anomalies)
        else:
            pool = self._evaluated_anomalies()
            # Those that are chosen leave validation and test afterwards.
            others = {"normal training": others["normal training"]}
        chosen = self._choose_from(pool)
        refuse_overlap(chosen.image_path, others)
        return chosen

    def _choose_from(self, pool: pd.DataFrame) -> pd.DataFrame:
        """Choose from samples of anomalous images; none if none are asked for."""
        if not pool.empty:
            return self.selection.choose(pool, len(self.train_data))
        if self.selection.wanted != 0:
            msg = f"The data set {self.name} has no anomalous images. Pass `known_anomaly_dir`."
            raise KnownAnomaliesError(msg)
        return pool.assign(type=[])

    def _without_copies(self, training_anomalies: pd.DataFrame) -> pd.DataFrame:
        """Anomalous training images without those that are also tested on: some public data sets have duplicates.

        Only those that would be chosen are compared, as there may be many.
        """
        while True:
            overlap = find_overlap(self._choose_from(training_anomalies).image_path, self._other_images())
            copies = {one for pairs in overlap.values() for one, _ in pairs}
            if not copies or len(copies) == len(training_anomalies):
                return training_anomalies
            logger.warning(
                "Ignored %d known anomalies that are also among the %s images, such as %s.",
                *(len(copies), " and ".join(overlap), min(copies)),
            )
            training_anomalies = training_anomalies[~training_anomalies.image_path.isin(copies)]

    def _evaluated_anomalies(self) -> pd.DataFrame:
        """Samples of the anomalous test and validation images."""
        if self.selection.ratio is None and self.selection.count is None:
            msg = (
                "All training images are normal, so nothing says which anomalies are known. Pass `known_anomaly_dir`, "
                "`count` or `ratio`."
            )
            raise KnownAnomaliesError(msg)
        both = pd.concat([self.test_data.samples, self.val_data.samples]).drop_duplicates("image_path")
        return both[both.label_index == LabelName.ABNORMAL]

    def _other_images(self) -> dict[str, pd.Series]:
        """Paths of the images that no known anomaly may be among, by subset."""
        return {
            "validation": self.val_data.samples.image_path,
            "test": self.test_data.samples.image_path,
            "normal training": self.train_data.samples.image_path,
        }

    def _take_out(self, chosen: pd.DataFrame) -> None:
        """Take the chosen anomalies out of validation and test, with their copies and all images of their groups."""
        group_of = self.selection.group_of or str
        groups = set(chosen.image_path.map(group_of))
        if self.selection.group_of is not None and not chosen.empty and groups == set(chosen.image_path):
            msg = f"`groups` matches no path of the known anomalies, such as {chosen.image_path.iloc[0]}. Correct it."
            raise KnownAnomaliesError(msg)
        subsets = {"validation": self.val_data, "test": self.test_data}
        evaluated = {name: subset.samples.image_path for name, subset in subsets.items()}
        copies = {copied for pairs in find_overlap(chosen.image_path, evaluated).values() for _, copied in pairs}
        for name, subset in subsets.items():
            paths = subset.samples.image_path
            leaves = paths.map(group_of).isin(groups) | paths.isin(copies)
            others = int((leaves & ~paths.isin(chosen.image_path)).sum())
            set_samples(subset, subset.samples[~leaves])
            if others:
                logger.info(
                    "Took %d more images out of the %s images: copies of known anomalies, or images of their groups.",
                    *(others, name),
                )
        labels = set(self.test_data.samples.label_index)
        if len(labels) == 1:
            kind = "normal" if LabelName.NORMAL in labels else "anomalous"
            logger.warning("There are only %s test images left, so no metric can tell how good the model is.", kind)
        elif not labels:
            logger.warning("There are no test images left, so no metric can tell how good the model is.")

    def _make_known_data(self, known: pd.DataFrame) -> None:
        """Make the data set of known anomalies, an empty one if they are only to be dropped."""
        self.drawn_types = dict(Counter(known["type"]))
        self.known_types = self.drawn_types if self.use == "train" else {}
        self.known_data = self.train_data.subsample([])
        if self.known_types:
            set_samples(self.known_data, as_training_samples(known, self.train_data.samples.columns), masks=False)

    def _convert_images(self) -> None:
        """Convert the images that anomalib would misread."""
        subsets = {"train": self.train_data, "val": self.val_data, "test": self.test_data, "known": self.known_data}
        report = convert_samples(subsets, self.rule)
        if report:
            logger.info(report)

    def describe(self) -> str:
        """Say how many images of which kind are trained on."""
        normal = f"Training on {len(self.train_data)} normal images"
        if not self.known_types:
            return f"{normal}; no anomaly is known."
        types = ", ".join(f"{count} {name}" for name, count in sorted(self.known_types.items()))
        total = sum(self.known_types.values())
        return f"{normal} and {total} known {'anomaly' if total == 1 else 'anomalies'} ({types})."

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Batches of normal images and known anomalies; anomalib's own batches of normal images if nothing is known.

        Raises:
            KnownAnomaliesError: If the model does not learn from known anomalies.
        """
        if not self.known_types:
            return super().train_dataloader()
        model = getattr(self.trainer, "lightning_module", None)
        if model is not None and not getattr(model, "learns_from_known_anomalies", False):
            msg = (
                f"The model {type(model).__name__} does not learn from known anomalies, and would take them for normal "
                "images. Set `use` to 'drop', which leaves them out of training and test."
            )
            raise KnownAnomaliesError(msg)
        return DataLoader(
            NormalAndKnown(self.train_data, self.known_data),
            sampler=KnownAnomalyBatches(
                len(self.train_data), len(self.known_data), self.train_batch_size, seed=self.selection.seed
            ),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
        )
