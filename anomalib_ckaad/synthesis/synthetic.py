"""When anomalies are made of normal images, and by which maker."""

from collections.abc import Mapping

from anomalib_ckaad.synthesis.elastic import ElasticAnomalies
from anomalib_ckaad.synthesis.maker import AnomalyMaker


class SyntheticAnomalies:
    """What ``Ckaad`` makes anomalies with, and for which batches.

    Args:
        synthesis: True makes anomalies in every batch, beside known ones, and False never. A maker makes them for
            batches without known ones. None leaves that to ``usual``.
        usual: Whether batches without known anomalies get elastic ones where nothing was asked for.

    Example:
        >>> SyntheticAnomalies(None, usual=True).are_wanted(has_known=False)
        True
        >>> SyntheticAnomalies(None, usual=True).are_wanted(has_known=True)
        False
        >>> SyntheticAnomalies(True, usual=False).are_wanted(has_known=True)
        True
    """

    def __init__(self, synthesis: AnomalyMaker | bool | None, *, usual: bool) -> None:  # noqa: FBT001 - three values
        self.maker: AnomalyMaker = ElasticAnomalies() if isinstance(synthesis, bool | None) else synthesis
        self.always = synthesis is True
        self._sometimes = usual if synthesis is None else synthesis is not False

    def are_wanted(self, *, has_known: bool, known_types: Mapping[str, int] | None = None) -> bool:
        """Whether a batch gets synthetic anomalies.

        Args:
            has_known: Whether it has known ones.
            known_types: What the data say is known, by type: where they say that nothing is, none are made unless
                asked for. None for data that do not say.
        """
        return self.always or (self._sometimes and not has_known and known_types != {})
