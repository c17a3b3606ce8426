"""Score pictures with an exported model and lay its map over them: `openvino_folder.py MODEL.xml PICTURES OUTPUT`.

Thirty lines to begin with; openvino_camera.py also takes cameras and videos, and says what is wrong.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import openvino

model_file, pictures, output = map(Path, sys.argv[1:])
model = openvino.compile_model(model_file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
output.mkdir(parents=True, exist_ok=True)
for path in sorted(pictures.iterdir()):
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        continue
    batch = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None].astype(np.float32) / 255
    found = model(batch)
    score, is_bad = float(found["pred_score"].squeeze()), bool(found["pred_label"].squeeze())
    heat = (255 * found["anomaly_map"].squeeze().clip(0, 1)).astype(np.uint8)
    colored = cv2.applyColorMap(cv2.resize(heat, picture.shape[1::-1]), cv2.COLORMAP_JET)
    cv2.imwrite(str(output / f"{path.stem}.png"), cv2.addWeighted(picture, 0.6, colored, 0.4, 0))
    print(path.name, "BAD" if is_bad else "good", f"{score:.3f}")
