"""The anomaly map and the image score against scipy and by hand."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from anomalib_ckaad.scoring.anomaly_map import anomaly_map, image_score, stage_map


@pytest.mark.parametrize("size", [(64, 64), (40, 70), (9, 33), (1, 20)])
@pytest.mark.parametrize("positions", [(8, 8), (5, 1), (1, 33)])
@pytest.mark.parametrize("sigma", [4, 1.5, 0])
def test_map_equals_interpolation_and_scipys_blur(
    size: tuple[int, int], positions: tuple[int, int], sigma: float
) -> None:
    f, g = torch.randn(2, 3, 4, *positions, dtype=torch.float64)
    large = functional.interpolate(stage_map(f, g), size, mode="bilinear", align_corners=True)[:, 0].numpy()
    expected = np.stack([gaussian_filter(one, sigma) if sigma else one for one in large])
    np.testing.assert_allclose(anomaly_map([f], [g], size, sigma)[:, 0].numpy(), expected, atol=1e-12)


def test_stage_map_ranges_from_zero_to_two() -> None:
    f = torch.randn(1, 5, 3, 3)
    assert stage_map(f, 3 * f).abs().max() < 1e-6
    assert (stage_map(f, -f) - 2).abs().max() < 1e-6


def test_map_shows_the_place_and_sums_the_stages() -> None:
    f = torch.ones(1, 4, 16, 16)
    g = f.clone()
    g[..., 12, 4] *= -1
    scores = anomaly_map([f, f[..., ::2, ::2]], [g, f[..., ::2, ::2]], size=(64, 80))
    assert scores.shape == (1, 1, 64, 80)
    row, column = divmod(scores.flatten().argmax().item(), 80)
    assert abs(row - 12 / 15 * 63) <= 2
    assert abs(column - 4 / 15 * 79) <= 2


def test_score_does_not_depend_on_the_batch() -> None:
    maps = torch.rand(5, 1, 20, 20)
    together = image_score(maps, 10)
    alone = torch.cat([image_score(one[None], 10) for one in maps])
    assert torch.equal(together, alone)
    assert image_score(maps, "all") == pytest.approx(maps.mean(dim=(1, 2, 3)))
    assert image_score(maps, 400) == pytest.approx(maps.mean(dim=(1, 2, 3)))


def test_power_mean_of_large_and_empty_maps() -> None:
    maps = torch.rand(3, 1, 20, 20, dtype=torch.float64)
    expected = maps.pow(16).mean(dim=(1, 2, 3)).pow(1 / 16)
    torch.testing.assert_close(image_score(maps, "power_mean"), expected)
    for scale in (1e-30, 1e30):
        scaled = image_score((scale * maps).float(), "power_mean")
        torch.testing.assert_close(scaled, (scale * expected).float(), rtol=1e-5, atol=0)
    assert torch.equal(image_score(torch.zeros(2, 1, 4, 4), "power_mean"), torch.zeros(2))


def test_power_mean_sees_small_anomalies_and_spread_ones() -> None:
    normal = torch.ones(1, 1, 100, 100)
    small, spread = normal.clone(), 1.1 * normal
    small[..., :5, :5] = 2
    assert image_score(normal, "power_mean") == pytest.approx(1)
    assert image_score(small, "power_mean") > 1.3
    assert image_score(spread, "power_mean") == pytest.approx(1.1)


def test_more_pixels_than_the_map_has() -> None:
    with pytest.raises(ValueError, match=r"`score_top_k` is 17, but the anomaly map has only 16 pixels\. Lower it"):
        image_score(torch.rand(1, 1, 4, 4), 17)
