"""KnownAnomalies: any data set of anomalib, with a few known anomalies in its training batches."""

import copy
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName
from lightning.pytorch.utilities.types import TRAIN_DATALOADERS
from torch.utils.data import DataLoader

from anomalib_ckaad.data.known.batches import KnownAnomalyBatches, NormalAndKnown
from anomalib_ckaad.data.known.groups import make_grouping
from anomalib_ckaad.data.known.selection import check_request, choose, find_overlap, read_folder, refuse_overlap
from anomalib_ckaad.data.known.wrapped import resolve, set_up
from anomalib_ckaad.data.reading.conversion import IMAGE_SUFFIXES
from anomalib_ckaad.data.reading.converted_samples import convert_samples
from anomalib_ckaad.data.reading.intensities import PERCENTILES, Intensities, IntensityRule, Limits, two_numbers
from anomalib_ckaad.errors import KnownAnomaliesError

logger = logging.getLogger(__name__)


class KnownAnomalies(AnomalibDataModule):
    r"""Wraps another image datamodule and lets its training batches carry known anomalies, without their masks.

    A training batch has ``train_batch_size`` normal images of the wrapped data and min(``train_batch_size``, known)
    known anomalies. They come from a folder of your own, or from the data set: from its training images where these
    hold anomalies (in ``train_data``, or apart from it in samples called ``train_anomalies``), else from its test
    images, which they then leave, as they leave the validation images. Validation and test are otherwise the wrapped
    data's.

    Args:
        data: The datamodule to wrap: an instance, or ``class_path`` and ``init_args``, or a name.
        data_args: Arguments of ``data`` where it is a name.
        known_anomaly_dir: A folder of known bad images, with or without a folder for each type.
        ratio: Known anomalies as a share of all training images, in (0, 1), counted as the paper does; at most what
            there is.
        count: Number of known anomalies. 0 trains on normal images alone. Without ``ratio`` and ``count``, all images
            of ``known_anomaly_dir`` or all anomalous training images are known.
        types: Types to take them from by name, or how many types to draw at random.
        reserve: Number of anomalies to draw and take out of the test set, of which the first ``count`` are used:
            trainings with different counts and the same reserve are tested on the same images, and a larger count
            adds to the smaller one's.
        use: ``train``; or ``drop``, which takes the same images out of the test set and trains without them, so that
            a model that must not see them is tested on the same images.
        groups: Where several images show the same part, patient or object: a regular expression that finds its name
            in the path, such as ``(person\d+)_``, or a ``.csv`` file with columns ``image`` and ``group``. Then whole
            groups are drawn as far as the count allows, and validation and test lose all images of theirs.
        seed: Of what is drawn, and of the batches' order where several processes train.
        intensities: How images of more than 8 bits a channel and DICOM become 8 bits: by low and high as two numbers;
            else by the window that DICOM states; else by percentiles of all normal training images (``dataset``) or of
            each image (``image``). They are written to a cache once, as are images that EXIF turns.
        percentiles: Which, in percent.
        pin_memory: Whether batches are put into pinned memory, for GPUs.

    Raises:
        KnownAnomaliesError: If known anomalies cannot be chosen as asked, or are among validation or test images.
        IntensityError: If low and high make no sense, or cannot be found.
    """

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
        types = (types,) if isinstance(types, str) else types
        check_request(ratio=ratio, count=count, types=types, reserve=reserve, use=use)
        self.rule = IntensityRule(
            intensities if isinstance(intensities, str) else two_numbers("intensities", intensities),
            two_numbers("percentiles", percentiles),
        )
        self.data = resolve(data, data_args)
        if isinstance(self.data, KnownAnomalies):
            msg = "Expected an ordinary datamodule to wrap, got KnownAnomalies. Do name its inner data."
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
        self.known_anomaly_dir = None if known_anomaly_dir is None else Path(known_anomaly_dir)
        self.ratio, self.count, self.use, self.draw_seed = ratio, count, use, seed
        self.reserve = reserve
        self.group_of = None if groups is None else make_grouping(groups)
        self.types = types if types is None or isinstance(types, int) else tuple(types)
        self.pin_memory = pin_memory
        self.known_types: dict[str, int] = {}  # the drawn ones, unless these are dropped
        self.drawn_types: dict[str, int] = {}

    @property
    def name(self) -> str:  # type: ignore[override]  # a property in anomalib's base class as well
        """Name of the wrapped data."""
        return self.data.name

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

    def _setup(self, _stage: str | None = None) -> None:
        """Set the wrapped data up, then divide known anomalies from all others."""
        set_up(self.data, _stage)
        self.train_data, self.val_data, self.test_data = (
            copy.deepcopy(subset) for subset in (self.data.train_data, self.data.val_data, self.data.test_data)
        )
        train = self.train_data.samples
        is_anomalous = train.label_index == LabelName.ABNORMAL
        # Data sets whose own training images are partly anomalous may keep those out of their training data.
        own, normal = getattr(self.data, "train_anomalies", train[is_anomalous]), train[~is_anomalous]
        known = self._choose_known(self._without_copies(own, normal), normal)
        self._set_samples("train_data", normal, masks=False)
        is_drawn = self.known_anomaly_dir is None and own.empty
        # What is drawn from test and validation images leaves them with its copies; nothing else may be among them.
        others = {"normal training": normal.image_path} if is_drawn else self._others(normal)
        refuse_overlap(known.image_path, others)
        self._take_out(known)
        if self.reserve is not None:
            known = known.sample(frac=1, random_state=self.draw_seed).iloc[: self.count]
        self.known_data = copy.deepcopy(self.train_data)
        self.drawn_types = dict(Counter(known["type"]))
        self.known_types = self.drawn_types if self.use == "train" else {}
        if self.known_types:
            self.known_data.samples = self._as_samples(known)
            self.known_data.samples.attrs["task"] = "classification"
        else:
            self.known_data = self.known_data.subsample([])
        names = ("train_data", "val_data", "test_data", "known_data")
        done = convert_samples({name.removesuffix("_data"): getattr(self, name) for name in names}, self.rule)
        if done:
            logger.info(done)
        if len(known) > len(normal):
            logger.warning("There are more known anomalies (%d) than normal images (%d).", len(known), len(normal))
        logger.info(self.describe())

    def _take_out(self, known: pd.DataFrame) -> None:
        """Leave the known anomalies out of validation and test, with their copies and what shows the same parts."""
        group_of = self.group_of or str
        taken = set(known.image_path.map(group_of))
        copies = find_overlap(known.image_path, self._others(self.train_data.samples.iloc[:0]))
        twins = {twin for pairs in copies.values() for _, twin in pairs}
        for subset in ("val_data", "test_data"):
            samples = getattr(self, subset).samples
            leaves = samples.image_path.map(group_of).isin(taken) | samples.image_path.isin(twins)
            self._set_samples(subset, samples[~leaves])
            others = int((leaves & ~samples.image_path.isin(known.image_path)).sum())
            if others:
                logger.info("Left %d copies or images of the known anomalies' groups out of %s.", others, subset)
        if self.group_of is not None and not known.empty and taken == set(known.image_path):
            msg = (
                f"Expected groups to find a part in the paths of known anomalies, got no match, such as in "
                f"{known.image_path.iloc[0]}. Do correct groups."
            )
            raise KnownAnomaliesError(msg)
        labels = set(self.test_data.samples.label_index)
        if labels != {LabelName.NORMAL, LabelName.ABNORMAL}:
            left = {LabelName.NORMAL: "normal", LabelName.ABNORMAL: "anomalous"}
            kinds = " and ".join(left[LabelName(label)] for label in labels) or "no"
            logger.warning("There are only %s test images left: nothing will tell how good the model is.", kinds)

    def describe(self) -> str:
        """What is learned from, in plain words."""
        if not self.known_types:
            return f"Learning from {len(self.train_data)} normal images; no anomaly is known."
        known = ", ".join(f"{count} {name}" for name, count in sorted(self.known_types.items()))
        total = sum(self.known_types.values())
        return f"Learning from {len(self.train_data)} normal images and {total} known anomalies ({known})."

    def _others(self, normal: pd.DataFrame) -> dict[str, pd.Series]:
        """Paths of the images that no known anomaly may be among."""
        return {
            "validation": self.val_data.samples.image_path,
            "test": self.test_data.samples.image_path,
            "normal training": normal.image_path,
        }

    def _without_copies(self, own: pd.DataFrame, normal: pd.DataFrame) -> pd.DataFrame:
        """Own training anomalies without those that are tested on as well: some public data sets have duplicates.

        Only the ones that would be chosen are read, as there may be many.
        """
        while self.known_anomaly_dir is None and not own.empty:
            chosen = self._choose_known(own, normal)
            overlap = find_overlap(chosen.image_path, self._others(normal))
            copies = {one for pairs in overlap.values() for one, _ in pairs}
            if not copies or len(copies) == len(own):
                break
            logger.warning(
                "Left out %d known anomalies, as the same images are among the %s images, such as %s.",
                *(len(copies), " and ".join(overlap), min(copies)),
            )
            own = own[~own.image_path.isin(copies)]
        return own

    def _choose_known(self, own: pd.DataFrame, normal: pd.DataFrame) -> pd.DataFrame:
        pool = own
        if self.known_anomaly_dir is not None:
            pool = read_folder(self.known_anomaly_dir, IMAGE_SUFFIXES)
        elif own.empty:
            if self.ratio is None and self.count is None:
                msg = (
                    "Expected ratio, count or known_anomaly_dir for data whose training images are all normal, got "
                    "none of them. Do say which anomalies are known."
                )
                raise KnownAnomaliesError(msg)
            both = pd.concat([self.test_data.samples, self.val_data.samples]).drop_duplicates("image_path")
            pool = both[both.label_index == LabelName.ABNORMAL]
        wanted = self.count if self.reserve is None else self.reserve
        if pool.empty and wanted != 0:
            msg = f"Expected anomalous images in {self.name}, got none. Do name a known_anomaly_dir."
            raise KnownAnomaliesError(msg)
        if pool.empty:
            return pool.assign(type=[])
        return choose(
            pool,
            len(normal),
            ratio=self.ratio,
            count=wanted,
            types=self.types,
            seed=self.draw_seed,
            group_of=self.group_of,
        )

    def _as_samples(self, known: pd.DataFrame) -> pd.DataFrame:
        """Rows for the training set's own kind of data set; no mask, so that none can be read."""
        rows = known.reindex(columns=list(dict.fromkeys([*self.train_data.samples.columns, "type"]))).assign(
            split="train", label_index=int(LabelName.ABNORMAL), mask_path=""
        )
        return rows.astype({"label_index": "Int64"})

    def _set_samples(self, subset: str, samples: pd.DataFrame, *, masks: bool = True) -> None:
        dataset = getattr(self, subset)
        task = dataset.samples.attrs["task"] if masks else "classification"
        dataset.samples = samples.reset_index(drop=True)
        dataset.samples.attrs["task"] = task

    def _create_test_split(self) -> None:
        """Nothing: the wrapped data have split themselves."""

    def _create_val_split(self) -> None:
        """Nothing: the wrapped data have split themselves."""

    def _update_augmentations(self) -> None:
        super()._update_augmentations()
        if hasattr(self, "known_data"):
            self.known_data.augmentations = self.train_data.augmentations

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Batches of normal images and known anomalies; the wrapped data's own batches where nothing is known."""
        if not self.known_types:
            return super().train_dataloader()
        model = getattr(self.trainer, "lightning_module", None)
        if model is not None and not getattr(model, "learns_from_known_anomalies", False):
            msg = (
                f"Expected a model that learns from known anomalies, got {type(model).__name__}, which would take them "
                "for normal images. Do pass use: drop, which leaves them out of training and test."
            )
            raise KnownAnomaliesError(msg)
        return DataLoader(
            NormalAndKnown(self.train_data, self.known_data),
            sampler=KnownAnomalyBatches(
                len(self.train_data), len(self.known_data), self.train_batch_size, seed=self.draw_seed
            ),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
        )
