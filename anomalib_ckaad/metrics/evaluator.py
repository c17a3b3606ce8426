"""The metrics that Ckaad reports unless told otherwise."""

from anomalib.metrics import AUPRO, Evaluator, F1Max, F1Score

from anomalib_ckaad.metrics.auroc import AUROC
from anomalib_ckaad.metrics.raw_scores import RAW_MAP, RAW_SCORE

IMAGE = [RAW_SCORE, "gt_label"]
PIXEL = [RAW_MAP, "gt_mask"]


def default_evaluator() -> Evaluator:
    """Image and pixel AUROC, AUPRO, F1 at the validation threshold, and F1 at the best threshold of the test set.

    Ranking metrics read the raw scores that Ckaad keeps in ``raw_pred_score`` and ``raw_anomaly_map``: anomalib's
    post-processor clamps the others, and the ties change a ranking metric. Pixel metrics are skipped without masks.
    ``image_oracle_F1Max`` chooses its threshold on the test set itself, so it is too good to be true for new images.
    """
    return Evaluator(
        test_metrics=[
            AUROC(fields=IMAGE, prefix="image_"),
            F1Score(fields=["pred_label", "gt_label"], prefix="image_"),
            F1Max(fields=IMAGE, prefix="image_oracle_"),
            AUROC(fields=PIXEL, prefix="pixel_", strict=False),
            AUPRO(fields=PIXEL, prefix="pixel_", strict=False),
            F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False),
        ]
    )
