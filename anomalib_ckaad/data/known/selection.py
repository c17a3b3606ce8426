"""Which anomalous images are known: how many, of which types and groups."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pandas import DataFrame

from anomalib_ckaad.data.reading.anomaly_types import types_of
from anomalib_ckaad.errors import KnownAnomaliesError


def count_for_ratio(normal: int, ratio: float) -> int:
    """Number of known anomalies that make up ``ratio`` of all training images, as the paper counts them.

    Args:
        normal: Number of normal training images.
        ratio: Share of known anomalies, in (0, 1).

    Example:
        >>> count_for_ratio(1281, 0.05)
        67
    """
    return round(normal / (1 - ratio) - normal)


@dataclass(frozen=True)
class Selection:
    """What to choose as known from a pool of anomalous images; the same images for the same seed.

    Args:
        ratio: Share of known anomalies among the training images, in (0, 1); at most all there are.
        count: Number of known anomalies. Without ``ratio`` and ``count``, all are known.
        types: Types to choose from by name, or how many types to draw; None for all.
        reserve: Number of anomalies to choose, of which ``count`` are used; None chooses ``count``.
        seed: Of all that is drawn.
        group_of: From a path to its group, such as a part or a patient: whole groups are drawn as far as the count
            allows. None draws images.

    Raises:
        KnownAnomaliesError: If an argument is out of its range, of another type, or contradicts another.
    """

    ratio: float | None = None
    count: int | None = None
    types: Sequence[str] | int | None = None
    reserve: int | None = None
    seed: int = 0
    group_of: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        numbers: dict[str, object] = {"count": self.count, "reserve": self.reserve}
        for name, value in numbers.items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                msg = f"`{name}` must be a whole number, not {value!r}."
                raise KnownAnomaliesError(msg)
        if isinstance(self.types, bool) or (isinstance(self.types, Sequence) and not self.types):
            msg = (
                f"`types` must be names of types, or how many to draw, not {self.types!r}. Leave it out for all types."
            )
            raise KnownAnomaliesError(msg)
        if self.ratio is not None and not 0 < self.ratio < 1:
            msg = f"`ratio` must be greater than 0 and less than 1, not {self.ratio}."
            raise KnownAnomaliesError(msg)
        if self.ratio is not None and self.count is not None:
            msg = f"Pass either `ratio` or `count`, not both: ratio {self.ratio}, count {self.count}."
            raise KnownAnomaliesError(msg)
        if self.count is not None and self.count < 0:
            msg = f"`count` must be at least 0, not {self.count}."
            raise KnownAnomaliesError(msg)
        if self.reserve is not None and (self.count is None or self.reserve < self.count):
            msg = (
                f"`reserve` must be at least `count`, and both are needed: reserve {self.reserve}, count {self.count}."
            )
            raise KnownAnomaliesError(msg)

    @property
    def wanted(self) -> int | None:
        """Number of anomalies to choose, if a number was asked for."""
        return self.count if self.reserve is None else self.reserve

    def choose(self, pool: DataFrame, normal: int) -> DataFrame:
        """Choose the known anomalies, and those in reserve.

        Args:
            pool: Samples of anomalous images, with ``image_path``.
            normal: Number of normal training images, which ``ratio`` refers to.

        Returns:
            The chosen rows, with their type in a column ``type``.

        Raises:
            KnownAnomaliesError: If a type is unknown, or more are asked for than there are.
        """
        pool = pool.assign(type=types_of(pool)).sort_values("image_path", ignore_index=True)
        draw = random.Random(self.seed)
        types = self._choose_types(sorted(set(pool["type"])), draw)
        pool = pool[pool["type"].isin(types)].reset_index(drop=True)
        count = self._count(len(pool), normal)
        if self.group_of is None:
            positions = draw.sample(range(len(pool)), count)
        else:
            positions = _whole_groups(pool["image_path"].map(self.group_of).tolist(), count, draw)
        return pool.iloc[sorted(positions)].reset_index(drop=True)

    def use(self, chosen: DataFrame) -> DataFrame:
        """Those of the chosen anomalies that are known; the others stay in reserve."""
        if self.reserve is None:
            return chosen
        return chosen.sample(frac=1, random_state=self.seed).iloc[: self.count]

    def _choose_types(self, offered: Sequence[str], draw: random.Random) -> Sequence[str]:
        if self.types is None:
            return offered
        if isinstance(self.types, int):
            if not 1 <= self.types <= len(offered):
                msg = f"`types` must be between 1 and {len(offered)} ({', '.join(offered)}), not {self.types}."
                raise KnownAnomaliesError(msg)
            return draw.sample(offered, self.types)
        unknown = sorted(set(self.types) - set(offered))
        if unknown:
            msg = f"`types` names {', '.join(unknown)}, but the types of anomalies are {', '.join(offered) or 'none'}."
            raise KnownAnomaliesError(msg)
        return self.types

    def _count(self, available: int, normal: int) -> int:
        if self.ratio is not None:
            count = min(available, count_for_ratio(normal, self.ratio))
            if not count:
                msg = (
                    f"`ratio` {self.ratio} of {normal} normal images is less than one known anomaly. "
                    "Raise it, or pass `count`."
                )
                raise KnownAnomaliesError(msg)
            return count
        if self.wanted is None:
            return available
        if self.wanted > available:
            name = "count" if self.reserve is None else "reserve"
            msg = f"`{name}` is {self.wanted}, but there are only {available} anomalies to choose from. Lower it."
            raise KnownAnomaliesError(msg)
        return self.wanted


def _whole_groups(groups: Sequence[str], count: int, draw: random.Random) -> list[int]:
    """Positions of ``count`` images, taken group by group in a random order."""
    order = sorted(set(groups))
    draw.shuffle(order)
    rank = {name: position for position, name in enumerate(order)}
    return sorted(range(len(groups)), key=lambda position: rank[groups[position]])[:count]
