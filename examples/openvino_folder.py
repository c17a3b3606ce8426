"""Score a folder of images with an exported model and lay its map over them.

    python examples/openvino_folder.py results/weights/openvino/model.xml IMAGES OUTPUT

Thirty lines to start from. openvino_camera.py also reads cameras and videos, and skips files that are not images.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import openvino

model_file, images, output = map(Path, sys.argv[1:])
model = openvino.compile_model(model_file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
output.mkdir(parents=True, exist_ok=True)
for path in sorted(images.iterdir()):
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        continue
    batch = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None].astype(np.float32) / 255
    found = model(batch)
    score, is_bad = float(found["pred_score"].squeeze()), bool(found["pred_label"].squeeze())
    heat = (255 * found["anomaly_map"].squeeze().clip(0, 1)).astype(np.uint8)
    colored = cv2.applyColorMap(cv2.resize(heat, image.shape[1::-1]), cv2.COLORMAP_JET)
    cv2.imwrite(str(output / f"{path.stem}.png"), cv2.addWeighted(image, 0.6, colored, 0.4, 0))
    print(path.name, "BAD" if is_bad else "good", f"{score:.3f}")
