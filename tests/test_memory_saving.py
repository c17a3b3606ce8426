"""Activations computed again: the same training in less memory."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from torch import Tensor, nn

from anomalib_ckaad import memory_saving
from anomalib_ckaad.discriminator import PatchDiscriminator
from anomalib_ckaad.fast_training import bfloat16_if, make_adam
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.memory_saving import save_memory
from anomalib_ckaad.objectives import STRATEGIES, Objective, alternating_step
from anomalib_ckaad.reconstructor import NormName
from anomalib_ckaad.torch_model import CkaadModel
from tests.conftest import make_folder_data, write_images


def three_steps(
    *, saving: bool, bfloat16: bool = False, norm: NormName = "instance", dtype: torch.dtype = torch.float32
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], int]:
    """Losses of three steps, the weights after them, and the bytes that the last step kept for its backward passes."""
    torch.manual_seed(0)
    model = CkaadModel("resnet18", (2, 3), norm).to(dtype)
    discriminator = PatchDiscriminator(model.auto_encoder.architecture.channels).to(dtype)
    if saving:
        save_memory(model.auto_encoder, discriminator)
    optimizers = [make_adam(module.parameters(), 1e-3) for module in (model.auto_encoder, discriminator)]
    generator = torch.Generator().manual_seed(1)
    losses: list[dict[str, Tensor]] = []
    for _ in range(3):
        images = torch.rand(4, 3, 64, 64, generator=generator).to(dtype)
        kept: dict[int, int] = {}

        def pack(one: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[one.data_ptr()] = one.nbytes
            return one

        with bfloat16_if(bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
            losses.append(
                alternating_step(
                    model.backbone(images),
                    torch.tensor([False, False, True, True]),
                    auto_encoder=model.auto_encoder,
                    discriminator=discriminator,
                    objective=Objective(STRATEGIES["cka_patch"]),
                    auto_encoder_optimizer=optimizers[0],
                    discriminator_optimizer=optimizers[1],
                )
            )
    of_both = nn.ModuleList([model.auto_encoder, discriminator]).state_dict()
    return losses, of_both, sum(kept.values())


@pytest.mark.parametrize(
    ("bfloat16", "dtype", "norm"),
    [(False, torch.float32, "instance"), (False, torch.float64, "batch"), (True, torch.float32, "instance")],
)
def test_same_training(bfloat16: bool, dtype: torch.dtype, norm: NormName) -> None:
    usual, saving = (three_steps(saving=one, bfloat16=bfloat16, norm=norm, dtype=dtype) for one in (False, True))
    torch.testing.assert_close(saving[0], usual[0], rtol=0, atol=0)
    torch.testing.assert_close(saving[1], usual[1], rtol=0, atol=0)


def test_less_is_kept() -> None:
    usual, saving = (three_steps(saving=one)[2] for one in (False, True))
    weights = sum(one.nbytes for one in three_steps(saving=False)[1].values())
    assert saving - weights < 0.5 * (usual - weights)


def test_through_a_training(folder_root: Path, tmp_path: Path) -> None:
    states = []
    for saving in (False, True):
        model = Ckaad("resnet18", (2, 3), pre_trained=False, image_size=64, seed=0, max_epochs=1, save_memory=saving)
        engine = Engine(default_root_dir=tmp_path / str(saving), accelerator="cpu", enable_progress_bar=False)
        engine.fit(model, datamodule=make_folder_data(folder_root))
        states.append(model.state_dict())
    (path,) = (tmp_path / "True").glob("**/model.ckpt")
    states.append(Ckaad.load_from_checkpoint(path).state_dict())
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("library", [object(), None])
def test_where_nothing_gives_memory_back(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another C library than glibc, and another system than Linux."""
    monkeypatch.setattr(memory_saving.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(memory_saving.sys, "platform", "linux" if library else "darwin")
    memory_saving._trim.cache_clear()
    assert memory_saving._trim()(0) is None
    memory_saving._trim.cache_clear()


def test_memory_is_given_back_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    give: Callable[[], Callable[[int], object]] = lambda: calls.append  # noqa: E731
    monkeypatch.setattr(memory_saving, "_trim", give)
    module = PatchDiscriminator([4])
    save_memory(module)
    features = [torch.rand(1, 4, 3, 3)]
    module(features)
    assert len(calls) == 1
    with torch.no_grad():
        module(features)
    module.eval()(features)
    assert len(calls) == 1


def bytes_held() -> int:
    """Of all tensors, each storage once."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if isinstance(one, Tensor) and one.layout == torch.strided]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


class Held(Callback):
    """Bytes that a training holds at the end of its last step."""

    def __init__(self) -> None:
        self.before, self.bytes = bytes_held(), 0

    def on_train_batch_end(self, *_: object) -> None:
        """Count again."""
        self.bytes = bytes_held() - self.before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # gc.get_objects touches what is deprecated
def test_what_is_held_does_not_grow_with_images(tmp_path: Path) -> None:
    """Without the cache of features, which has a limit of its own; calibration and validation included."""
    found = []
    for count in (12, 48):
        root = tmp_path / str(count)
        for name, images in (("good", count), ("test_good", 1), ("bad", 1)):
            write_images(root / name, images, size=64)
        held = Held()
        model = Ckaad(
            "resnet18",
            (2, 3),
            pre_trained=False,
            image_size=64,
            max_epochs=2,
            calibrate=True,
            feature_cache=0,
            seed=0,
            visualizer=False,
        )
        engine = Engine(default_root_dir=root, accelerator="cpu", enable_progress_bar=False, callbacks=[held])
        engine.fit(model, datamodule=make_folder_data(root, train_batch_size=6))
        assert model.model.calibration.is_set
        found.append(held.bytes)
    assert found[0] > 2**20
    assert abs(found[1] - found[0]) < 2**17  # less than three images
