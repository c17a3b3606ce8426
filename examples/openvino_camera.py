"""Score a camera, a video or a folder of pictures with an exported model, and draw where it looks wrong.

Needs ``openvino`` and ``opencv-python-headless`` only. Shown windows need a build of OpenCV with windows.

    python examples/openvino_camera.py results/weights/openvino/model.xml 0 --output overlays
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import openvino

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
THRESHOLD = 0.5  # anomalib's post-processor puts it there


def frames(source: str) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pictures (H, W, 3), blue first, of a folder, a camera's number, or a video."""
    if Path(source).is_dir():
        paths = sorted(path for path in Path(source).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            msg = f"Expected pictures in the folder {source!r}, got none. Do check it."
            raise SystemExit(msg)
        for path in paths:
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is None:
                print(f"Expected a picture, got {path}, which cannot be read. Do look at it; it is left out.")
                continue
            yield "_".join(path.relative_to(source).with_suffix("").parts), picture
        return
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not capture.isOpened():
        msg = f"Expected a folder, a video or a camera's number, got {source!r}. Do check it."
        raise SystemExit(msg)
    for number in itertools.count():
        read, picture = capture.read()
        if not read:
            return
        yield f"{number:06}", picture


def overlay(picture: np.ndarray, anomaly_map: np.ndarray, text: str) -> np.ndarray:
    """Lay a map in [0, 1], where 0.5 is the threshold, over a picture, with a line around what exceeds it."""
    heat = cv2.resize(anomaly_map, picture.shape[1::-1])
    colored = cv2.applyColorMap((255 * heat.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_JET)
    drawn = cv2.addWeighted(picture, 0.6, colored, 0.4, 0)
    contours, _ = cv2.findContours((heat > THRESHOLD).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    drawn = cv2.drawContours(drawn, contours, -1, (255, 255, 255), max(1, min(heat.shape) // 256))
    bar = np.zeros(
        (max(16, heat.shape[0] // 16), *drawn.shape[1:]), np.uint8
    )  # above the picture, which it leaves free
    size = bar.shape[0] / 32
    cv2.putText(
        bar, text, (4, int(0.75 * bar.shape[0])), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA
    )
    return np.vstack([bar, drawn])


def main() -> None:
    """Print a line for each picture, and write or show it with its map."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model.xml, or model.onnx")
    parser.add_argument("source", help="a folder, a video, or a camera's number")
    parser.add_argument("--output", type=Path, help="a folder for pictures with their maps")
    parser.add_argument("--show", action="store_true", help="show them in a window; q ends")
    parser.add_argument("--device", default="CPU", help="OpenVINO's name of a device; default: %(default)s")
    parser.add_argument("--precision", default="f32", help="f32 gives training's scores, bf16 may be faster")
    options = parser.parse_args()
    if not options.model.is_file():
        msg = f"Expected an exported model, got {str(options.model)!r}, which is no file. Do check the path."
        raise SystemExit(msg)
    settings = {"INFERENCE_PRECISION_HINT": options.precision}
    try:
        model = openvino.compile_model(options.model, options.device, settings)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        msg = f"Expected an exported model for {options.device}, got {options.model}: {reason}. Do export it again."
        raise SystemExit(msg) from None
    height, width = model.inputs[0].partial_shape[2:]
    fixed = height.is_static and width.is_static  # exported with --input_size
    for name, taken in frames(options.source):
        size = (width.get_length(), height.get_length()) if fixed else taken.shape[1::-1]
        picture = cv2.resize(taken, size, interpolation=cv2.INTER_AREA)
        batch = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None].astype(np.float32) / 255
        found = model(batch)
        score, bad = float(found["pred_score"].squeeze()), bool(found["pred_label"].squeeze())
        text = f"{'BAD' if bad else 'good'} {score:.3f}"
        print(name, text, flush=True)
        drawn = overlay(picture, found["anomaly_map"].squeeze(), text)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(options.output / f"{name}.png"), drawn)
        if options.show:
            try:
                cv2.imshow("anomalies", drawn)
            except cv2.error:
                msg = "Expected an OpenCV with windows, got a headless one. Do use --output."
                raise SystemExit(msg) from None
            if cv2.waitKey(1) == ord("q"):
                return


if __name__ == "__main__":
    main()
