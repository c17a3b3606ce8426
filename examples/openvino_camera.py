"""Score a camera, a video or a folder of images with an exported model, and write each image with its anomaly map.

Needs ``openvino`` and ``opencv-python-headless`` only. 0 is the first camera:

    python examples/openvino_camera.py results/weights/openvino/model.xml 0 --output overlays
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import openvino

THRESHOLD = 0.5  # of exported scores and maps


def frames(source: str) -> Iterator[tuple[str, np.ndarray]]:
    """Names and images (H, W, 3), BGR, of a folder, a camera's number or a video."""
    if Path(source).is_dir():
        paths = sorted(path for path in Path(source).rglob("*") if path.is_file())
        if not paths:
            msg = f"The folder {source!r} is empty."
            raise SystemExit(msg)
        for path in paths:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                print(f"Skipped {path}: not an image.")
                continue
            yield "_".join(path.relative_to(source).with_suffix("").parts), image
        return
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not capture.isOpened():
        msg = f"Cannot open {source!r}. Pass a folder, a video or the number of a camera."
        raise SystemExit(msg)
    for number in itertools.count():
        read, image = capture.read()
        if not read:
            return
        yield f"{number:06}", image


def overlay(image: np.ndarray, anomaly_map: np.ndarray, text: str) -> np.ndarray:
    """Lay a map in [0, 1] over an image, with a line around what exceeds the threshold and a text above it."""
    heat = cv2.resize(anomaly_map, image.shape[1::-1])
    colors = cv2.applyColorMap((255 * heat.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_JET)
    drawn = cv2.addWeighted(image, 0.6, colors, 0.4, 0)
    outlines, _ = cv2.findContours((heat > THRESHOLD).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    drawn = cv2.drawContours(drawn, outlines, -1, (255, 255, 255), max(1, min(heat.shape) // 256))
    bar = np.zeros((max(16, heat.shape[0] // 16), *drawn.shape[1:]), np.uint8)
    place, size = (4, int(0.75 * bar.shape[0])), bar.shape[0] / 32
    cv2.putText(bar, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([bar, drawn])


def main() -> None:
    """Print a line for each image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model.xml or model.onnx")
    parser.add_argument("source", help="a folder, a video or the number of a camera")
    parser.add_argument("--output", type=Path, required=True, help="folder that images with their maps are written to")
    parser.add_argument("--device", default="CPU", help="OpenVINO's name of a device; default: %(default)s")
    options = parser.parse_args()
    if not options.model.is_file():
        parser.error(f"{options.model} is not a file. Pass the exported model.")
    # Without f32, OpenVINO may compute in bf16, and scores near the threshold may change sides.
    model = openvino.compile_model(options.model, options.device, {"INFERENCE_PRECISION_HINT": "f32"})
    height, width = model.inputs[0].partial_shape[2:]
    options.output.mkdir(parents=True, exist_ok=True)
    for name, frame in frames(options.source):
        image = frame
        if height.is_static and width.is_static:  # exported with --input_size
            image = cv2.resize(frame, (width.get_length(), height.get_length()), interpolation=cv2.INTER_AREA)
        batch = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None].astype(np.float32) / 255
        found = model(batch)
        score, is_bad = float(found["pred_score"].squeeze()), bool(found["pred_label"].squeeze())
        text = f"{'BAD' if is_bad else 'good'} {score:.3f}"
        print(name, text, flush=True)
        cv2.imwrite(str(options.output / f"{name}.png"), overlay(image, found["anomaly_map"].squeeze(), text))


if __name__ == "__main__":
    main()
