"""Put ``metrics.json`` files that Ckaad wrote beside its checkpoints into a section of a Markdown file.

python examples/show_metrics.py results/Ckaad/*/latest/weights/lightning/metrics.json --report docs/results.md
"""

import argparse
import json
from pathlib import Path

from anomalib_ckaad.study.sections import markdown_table, write_section


def main() -> None:
    """Print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--report", type=Path, help="the Markdown file")
    parser.add_argument("--section", default="metrics", help="its section")
    options = parser.parse_args()
    rows = []
    for file in options.files:
        content = json.loads(file.read_text(encoding="utf-8"))
        metrics = {name: f"{100 * value:.1f}" for name, value in content["metrics"].items()}
        rows.append({"data": content["data"] or "", **metrics})
    text = markdown_table(rows)
    print(text)
    if options.report:
        write_section(options.report, options.section, text)


if __name__ == "__main__":
    main()
