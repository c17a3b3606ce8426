"""Elastic anomalies: torchvision's displacement law, batched, scaled with the image and without black borders."""

import time

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad
from torchvision.transforms.v2 import ElasticTransform

from anomalib_ckaad.errors import ConfigurationError, DataError, UnsupportedTypeError
from anomalib_ckaad.synthesis import AnomalyMaker, ElasticAnomalies
from anomalib_ckaad.synthesis.elastic import blur_matrix, elastic_displacement, gaussian_kernel, warp


def torchvision_displacement(count: int, size: int = 256) -> Tensor:
    """Return (count, 2, size, size) fields in pixels as torchvision draws them."""
    transform = ElasticTransform(alpha=200.0, sigma=5.0)
    image = torch.zeros(3, size, size)
    fields = [transform.make_params([image])["displacement"] for _ in range(count)]
    # torchvision's are in units in which the image is 2 wide
    return torch.cat(fields).permute(0, 3, 1, 2) * size / 2


@pytest.fixture(scope="module")
def fields() -> Tensor:
    """24 fields of 256x256 pixels of our own."""
    return elastic_displacement(24, (256, 256), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def torchvision_fields() -> Tensor:
    """24 fields of 256x256 pixels of torchvision's."""
    torch.manual_seed(0)
    return torchvision_displacement(24)


def autocorrelation(field: Tensor, lag: int, axis: int) -> float:
    """Return the correlation of ``field`` with itself ``lag`` pixels on along ``axis``."""
    length = field.shape[axis]
    a, b = field.narrow(axis, 0, length - lag), field.narrow(axis, lag, length - lag)
    return float((a * b).mean() / field.square().mean())


@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
def test_displacement_has_the_statistics_of_torchvision(axis: int, fields: Tensor, torchvision_fields: Tensor) -> None:
    ours, theirs = fields[:, axis], torchvision_fields[:, axis]
    assert abs(ours.mean()) < 0.05
    assert abs(theirs.mean()) < 0.05
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.02)
    # alpha / 2 pixels, a uniform's sqrt(1 / 3), a Gaussian's 1 / (2 sigma sqrt(pi))
    assert float(ours[:, 40:-40, 40:-40].std()) == pytest.approx(100 / 3**0.5 / (10 * torch.pi**0.5), rel=0.03)
    for lag in (3, 7, 10, 20):
        for direction in (-2, -1):
            expected = autocorrelation(theirs, lag, direction)
            assert autocorrelation(ours, lag, direction) == pytest.approx(expected, abs=0.03)


def test_border_has_the_statistics_of_torchvision() -> None:
    torch.manual_seed(1)
    ours, theirs = elastic_displacement(64, (128, 128), reference_size=128), torchvision_displacement(64, 128)
    for edge in ((..., slice(0, 3), slice(None)), (..., slice(None), slice(-3, None))):
        assert float(ours[edge].std()) == pytest.approx(float(theirs[edge].std()), rel=0.05)


def test_same_field_warps_as_torchvision_inside_the_image() -> None:
    torch.manual_seed(2)
    image = torch.rand(1, 3, 64, 64)
    transform = ElasticTransform(alpha=200.0, sigma=5.0)
    params = transform.make_params([image[0]])
    expected = transform.transform(image, params)
    ours = warp(image, params["displacement"].permute(0, 3, 1, 2) * 32)
    inside = (..., slice(16, -16), slice(16, -16))
    torch.testing.assert_close(ours[inside], expected[inside], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (128, 512), (384, 96)])
def test_displacement_scales_with_the_image(size: tuple[int, int], fields: Tensor) -> None:
    torch.manual_seed(3)
    scale = (size[0] * size[1]) ** 0.5 / 256
    ours = elastic_displacement(24, size)
    for axis in (0, 1):
        assert float(ours[:, axis].std()) / scale == pytest.approx(float(fields[:, axis].std()), rel=0.05)
        lag = autocorrelation(ours[:, axis], round(8 * scale), -1)
        assert lag == pytest.approx(autocorrelation(fields[:, axis], 8, -1), abs=0.06)


def test_blur_matrix_equals_a_convolution_with_reflecting_border() -> None:
    signal = torch.rand(32, dtype=torch.float64)
    kernel = gaussian_kernel(2.0)
    padded = pad(signal[None, None], (len(kernel) // 2, len(kernel) // 2), mode="reflect")
    expected = conv1d(padded, kernel[None, None])[0, 0]
    torch.testing.assert_close(blur_matrix(32, 2.0) @ signal, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 200), (5, 5)])
def test_tiny_and_narrow_images_work(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    made = ElasticAnomalies(sigma=20.0)(images)
    assert made.shape == images.shape
    assert bool(made.isfinite().all())


def test_each_image_gets_its_own_field() -> None:
    torch.manual_seed(4)
    image = torch.rand(1, 3, 64, 64)
    made = ElasticAnomalies()(image.expand(4, -1, -1, -1))
    differences = [(made[i] - made[j]).abs().mean() for i in range(4) for j in range(i)]
    assert min(differences) > 0.05


def test_constant_image_is_unchanged_and_the_border_repeats_the_edge() -> None:
    images = torch.tensor([0.1, 0.37, 1.0]).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    assert torch.equal(ElasticAnomalies()(images), images)


def test_input_is_not_changed_and_the_range_is_kept() -> None:
    images = torch.rand(2, 3, 48, 48).round()
    before = images.clone()
    made = ElasticAnomalies(alpha=1000.0)(images)
    assert torch.equal(images, before)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert not torch.equal(made, images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_device_are_kept(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 32, 40).to(dtype)
    made = ElasticAnomalies()(images)
    assert made.dtype == dtype
    assert made.device == images.device
    assert made.shape == images.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_with_and_without_a_cpu_generator() -> None:
    images = torch.rand(2, 3, 64, 64, device="cuda")
    for generator in (None, torch.Generator().manual_seed(0), torch.Generator("cuda").manual_seed(0)):
        made = ElasticAnomalies()(images, generator=generator)
        assert made.device == images.device
        assert float((made - images).abs().mean()) > 0.05
    ours = elastic_displacement(16, (256, 256), device="cuda")
    assert float(ours.std()) == pytest.approx(float(torchvision_displacement(16).std()), rel=0.02)


def test_autocast_does_not_coarsen_the_field() -> None:
    images = torch.rand(1, 3, 64, 64)
    plain = ElasticAnomalies()(images, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ElasticAnomalies()(images, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain, cast)


def test_seed_reproduces_globally_and_by_generator() -> None:
    images, maker = torch.rand(2, 3, 32, 32), ElasticAnomalies()
    torch.manual_seed(5)
    first, second = maker(images), maker(images)
    torch.manual_seed(5)
    assert torch.equal(maker(images), first)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    a, b = (maker(images, generator=torch.Generator().manual_seed(6)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_do_not_flow_into_the_anomalies() -> None:
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    assert not ElasticAnomalies()(images).requires_grad


def test_alpha_zero_gives_the_image_back() -> None:
    images = torch.rand(2, 3, 33, 47)
    torch.testing.assert_close(ElasticAnomalies(alpha=0.0)(images), images, atol=1e-5, rtol=0)


def test_empty_batch_gives_an_empty_batch() -> None:
    assert ElasticAnomalies()(torch.rand(0, 3, 16, 16)).shape == (0, 3, 16, 16)


def test_elastic_anomalies_are_a_maker() -> None:
    assert isinstance(ElasticAnomalies(), AnomalyMaker)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(3, 8, 8), DataError, r"shape \(N, 3, H, W\), not \(3, 8, 8\)"),
        (torch.rand(2, 1, 8, 8), DataError, r"shape \(N, 3, H, W\), not \(2, 1, 8, 8\)"),
        (torch.rand(2, 3, 0, 8), DataError, r"no pixels.* \(2, 3, 0, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), UnsupportedTypeError, "floating point .*not torch.uint8"),
        ([[0.5]], UnsupportedTypeError, "torch.Tensor, not list"),
    ],
)
def test_bad_images_are_refused(images: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ElasticAnomalies()(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "`alpha` .*, not -1.0"),
        ({"alpha": float("nan")}, "`alpha` .*, not nan"),
        ({"sigma": 0.0}, "`sigma` .*, not 0.0"),
        ({"reference_size": 0}, "`reference_size` .*, not 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ElasticAnomalies(**arguments)  # type: ignore[arg-type]


def test_a_batch_is_cheaper_than_torchvision_image_by_image() -> None:
    images, maker, transform = torch.rand(8, 3, 256, 256), ElasticAnomalies(), ElasticTransform(alpha=200.0)
    ours, theirs = [], []
    for _ in range(3):
        start = time.perf_counter()
        maker(images)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        for image in images:
            transform(image)
        theirs.append(time.perf_counter() - start)
    assert min(ours) < min(theirs)
