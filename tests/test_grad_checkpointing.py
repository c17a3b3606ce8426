"""Activations computed again: the same training in less memory."""

import contextlib
import copy
import gc
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from torch import Tensor, nn

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.network.auto_encoder import NormName
from anomalib_ckaad.network.discriminator import make_discriminator
from anomalib_ckaad.network.grad_checkpointing import set_grad_checkpointing
from anomalib_ckaad.network.objective import STRATEGIES, Objective, StrategyName, alternating_step
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.optimizer import make_adam
from tests.conftest import make_folder_data, write_images
from tests.models import make_ckaad


def three_steps(
    *,
    saving: bool,
    bfloat16: bool = False,
    norm: NormName = "instance",
    dtype: torch.dtype = torch.float32,
    strategy: StrategyName = "cka_patch",
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], int]:
    """Losses of three steps, the weights after them, and the bytes that the last step kept for its backward passes."""
    torch.manual_seed(0)
    model = CkaadModel("resnet18", (2, 3), norm).to(dtype)
    kind = STRATEGIES[strategy].discriminator
    discriminator = make_discriminator(kind, model.auto_encoder.architecture, (64, 64))
    trained = nn.ModuleList(filter(None, [model.auto_encoder, discriminator])).to(dtype)
    if saving:
        set_grad_checkpointing(model.auto_encoder, discriminator)
    optimizers = [make_adam(module.parameters(), 1e-3) for module in trained]
    generator = torch.Generator().manual_seed(1)
    losses: list[dict[str, Tensor]] = []
    for _ in range(3):
        images = torch.rand(4, 3, 64, 64, generator=generator).to(dtype)
        kept: dict[int, int] = {}

        def pack(one: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[one.data_ptr()] = one.nbytes
            return one

        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one),
        ):
            losses.append(
                alternating_step(
                    model.backbone(images),
                    torch.tensor([False, False, True, True]),
                    auto_encoder=model.auto_encoder,
                    discriminator=discriminator,
                    objective=Objective(STRATEGIES[strategy]),
                    auto_encoder_optimizer=optimizers[0],
                    discriminator_optimizer=optimizers[-1],
                )
            )
    return losses, trained.state_dict(), sum(kept.values())


@pytest.mark.parametrize(
    ("strategy", "norm", "dtype", "bfloat16"),
    [
        *((strategy, "instance", torch.float32, False) for strategy in STRATEGIES),
        ("cka_patch", "batch", torch.float64, False),
        ("cka_image", "batch", torch.float64, False),
        ("cka_patch", "instance", torch.float32, True),
    ],
)
def test_same_training_and_less_is_kept(
    strategy: StrategyName, norm: NormName, dtype: torch.dtype, bfloat16: bool
) -> None:
    """Running statistics of batch norms among what is the same."""
    usual, saving = (
        three_steps(saving=one, bfloat16=bfloat16, norm=norm, dtype=dtype, strategy=strategy) for one in (False, True)
    )
    torch.testing.assert_close(saving[0], usual[0], rtol=0, atol=0)
    torch.testing.assert_close(saving[1], usual[1], rtol=0, atol=0)
    weights = sum(one.nbytes for one in usual[1].values())
    if not bfloat16:  # where copies of the weights are kept as well
        assert saving[2] - weights < 0.6 * (usual[2] - weights)


def test_copied_and_pickled() -> None:
    model = make_ckaad("resnet18", (2, 3), pre_trained=False, image_size=64, grad_checkpointing=True)
    again = pickle.loads(pickle.dumps(model.model))  # noqa: S301 - its own
    for copied in (copy.deepcopy(model), again):
        parts = (copied.model if isinstance(copied, Ckaad) else copied).auto_encoder.modules()
        assert {part.grad_checkpointing for part in parts if hasattr(part, "grad_checkpointing")} == {True}


@pytest.mark.parametrize(
    "arguments",
    [
        {"grad_checkpointing": "false"},
        {"autocast": "false"},
        {"synthesis": "maybe"},
        {"synthesis": 1},
        {"synthesis": "elastic"},
    ],
)
def test_switches_are_true_or_false(arguments: dict[str, Any]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ConfigurationError, match=rf"^`{name}` must be True, False.*|True or False, not {value!r}"):
        make_ckaad("resnet18", pre_trained=False, **arguments)


def test_through_a_training(folder_root: Path, tmp_path: Path) -> None:
    states = []
    for saving in (False, True):
        model = make_ckaad("resnet18", (2, 3), pre_trained=False, image_size=64, seed=0, grad_checkpointing=saving)
        engine = Engine(
            default_root_dir=tmp_path / str(saving), accelerator="cpu", enable_progress_bar=False, max_epochs=1
        )
        engine.fit(model, datamodule=make_folder_data(folder_root))
        states.append(model.state_dict())
    (path,) = (tmp_path / "True").glob("**/model.ckpt")
    states.append(Ckaad.load_from_checkpoint(path).state_dict())
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0, equal_nan=True)


def bytes_held() -> int:
    """Of all tensors, each storage once."""
    gc.collect()
    found: dict[int, int] = {}
    for one in gc.get_objects():
        if isinstance(one, Tensor) and one.layout == torch.strided:
            with contextlib.suppress(RuntimeError):  # compilers and exports of other tests leave some without a storage
                found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(found.values())


@pytest.mark.filterwarnings("ignore")  # gc.get_objects touches what is deprecated
def test_tensors_without_a_storage_hold_nothing() -> None:
    before = bytes_held()
    functional = torch._to_functional_tensor(torch.rand(1000))
    kept: list[Tensor] = []
    torch.func.vmap(lambda one: kept.append(one) or one)(torch.rand(2, 1000))  # type: ignore[func-returns-value]
    assert type(functional) is type(kept[0]) is Tensor
    assert before <= bytes_held() <= before + 20_000


class Held(Callback):
    """The most bytes that a training holds at the end of a step, of a batch of its validation, or of that."""

    def __init__(self) -> None:
        self.before, self.bytes = bytes_held(), 0

    def on_train_batch_end(self, *_: object) -> None:
        """Count again; the most counts."""
        self.bytes = max(self.bytes, bytes_held() - self.before)

    on_validation_batch_end = on_validation_end = on_train_batch_end


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
        model = make_ckaad(
            "resnet18",
            (2, 3),
            pre_trained=False,
            image_size=64,
            calibrate=True,
            cache={"memory": 0},
            seed=0,
            visualizer=False,
        )
        engine = Engine(
            default_root_dir=root, accelerator="cpu", enable_progress_bar=False, callbacks=[held], max_epochs=2
        )
        engine.fit(model, datamodule=make_folder_data(root, train_batch_size=6))
        assert model.model.calibration.is_set
        found.append(held.bytes)
        del model, engine, held  # a callback holds its model; what is there before the next training does not count
    assert found[0] > 2**20
    assert abs(found[1] - found[0]) < 2**17  # less than three images
