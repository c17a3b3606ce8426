"""Do known anomalies of one type help on that type, and do they hurt on others? Each type known in turn.

For each seed ``recon`` is trained once and tested on each type's test images, which no known anomaly and no other image
of the same part is among. Options as in ``real_images.py``.

    python examples/each_type.py --data DATA/magnetic_tile --layers 2 3 --known 8 --groups groups.csv
"""

import argparse
import json
import logging
import statistics
import warnings
from pathlib import Path

from real_images import make_data, make_engine, make_model, parse, spread

from anomalib_ckaad.metrics.per_type import ALL_TYPES, Scored, score_types
from anomalib_ckaad.study.sections import markdown_table, write_section


def train(options: argparse.Namespace, strategy: str, types: list[list[str]], seed: int) -> list[dict]:
    """Train with known anomalies of ``types[0]`` (``recon``: with none), then test once for each of ``types``."""
    use = {"use": "drop"} if strategy == "recon" else {}
    model = make_model(options, strategy, options.discriminator_rates[0], seed)
    engine = make_engine(options)
    engine.fit(model, datamodule=make_data(options, types[0], seed, **use))
    rows = []
    for known in types:
        scored = Scored.collect(engine.predict(model, datamodule=make_data(options, known, seed, **use)))
        for name, row in score_types(scored).items():
            rows.append({"strategy": strategy, "known": known[0], "seed": seed, "type": name, **row})
    return rows


def differences(rows: list[dict], names: list[str], known: str, metric: str, *, seen: bool) -> list[float]:
    """Gain of each seed over ``recon`` on the known type, or in the mean of all others."""
    gains = []
    for seed in sorted({row["seed"] for row in rows}):
        value = {
            (row["strategy"], row["type"]): row[metric] for row in rows if (row["known"], row["seed"]) == (known, seed)
        }
        strategies = [name for name in dict.fromkeys(row["strategy"] for row in rows) if name != "recon"]
        of = [name for name in names if (name == known) == seen]
        gains.append(statistics.mean(value[strategies[0], name] - value["recon", name] for name in of))
    return gains


def table(rows: list[dict], metric: str) -> str:
    """Which type is known down, on which type it is tested across: values of ``recon`` and of the method."""
    names = [name for name in dict.fromkeys(row["type"] for row in rows) if name != ALL_TYPES]
    lines = []
    for known in names:
        line = {"known": known}
        for name in names:
            values = {
                strategy: [
                    row[metric]
                    for row in rows
                    if (row["strategy"], row["known"], row["type"]) == (strategy, known, name)
                ]
                for strategy in dict.fromkeys(row["strategy"] for row in rows)
            }
            cell = " → ".join(f"{100 * statistics.mean(each):.1f}" for each in values.values())
            line[name] = f"**{cell}**" if name == known else cell
        line["gain, seen"] = spread(differences(rows, names, known, metric, seen=True))
        line["gain, unseen"] = spread(differences(rows, names, known, metric, seen=False))
        lines.append(line)
    last = {"known": "mean"}
    for title, seen in (("gain, seen", True), ("gain, unseen", False)):
        of_seeds = zip(*[differences(rows, names, known, metric, seen=seen) for known in names], strict=True)
        last[title] = spread([statistics.mean(each) for each in of_seeds])
    return markdown_table([*lines, last])


def main() -> None:
    """Train, keeping rows in the output folder so that a call that was cut off goes on, and print the tables."""
    warnings.filterwarnings("ignore")
    options = parse()
    logging.disable(logging.WARNING)
    options.output.mkdir(parents=True, exist_ok=True)
    store: Path = options.output / "each_type.jsonl"
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    names = sorted(path.name for path in (options.data / "test").iterdir() if path.name != options.normal)
    for seed in range(options.seeds):
        jobs = [("recon", [[name] for name in names]), *[(options.strategies[-1], [[name]]) for name in names]]
        for strategy, types in jobs:
            key = {"strategy": strategy, "known": types[0][0], "seed": seed}
            if not any(key.items() <= row.items() for row in rows):
                new = train(options, strategy, types, seed)
                with store.open("a") as file:
                    file.write("".join(json.dumps(row) + "\n" for row in new))
                rows += new
                print(json.dumps(new), flush=True)
    text = "\n\n".join(
        f"{title}\n\n{table(rows, metric)}"
        for metric, title in (("image_AUROC", "Image AUROC:"), ("pixel_AUPRO", "AUPRO:"))
        if metric in rows[0]
    )
    print(text)
    if options.report:
        write_section(options.report, options.section or f"{options.data.name}_each_type", text)


if __name__ == "__main__":
    main()
