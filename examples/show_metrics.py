"""Print the test metrics of several trainings as a table, in percent.

python examples/show_metrics.py results/Ckaad/*/latest/weights/lightning/metrics.json
"""

import json
import sys
from pathlib import Path

import pandas as pd

rows = {}
for name in sys.argv[1:]:
    content = json.loads(Path(name).read_text(encoding="utf-8"))
    rows[content["data"] or name] = content["metrics"]  # "data" is the datamodule's name
print((100 * pd.DataFrame(rows).T).round(1).to_string())
