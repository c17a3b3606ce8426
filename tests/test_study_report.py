"""What a study's results become: tables, ranks, pictures, a page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomalib_ckaad.cli import main as cli
from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.metrics.per_type import ALL_TYPES
from anomalib_ckaad.study.gallery import make_cards
from anomalib_ckaad.study.jobs import Job, Study
from anomalib_ckaad.study.results import SEEN, UNSEEN, Results
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.study.store import FILE_NAME, Store
from anomalib_ckaad.study.tables import Table, all_tables, difference_table, main_table, ranks_of, type_table

PATHS = [f"{kind}/{number}.png" for kind in ("good", "crack", "hole") for number in range(10)]
LABELS = np.array([False] * 10 + [True] * 20)
EVIL = "<script>alert(1)</script>"


def write_study(folder: Path, *, seeds: int = 2) -> Path:
    """Two methods and one failure on two data sets; `good` is better than `bad` by far."""
    for path in PATHS:
        (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (90, 60, 30)).save(folder / "images" / path)
    for data in ("tile", EVIL):
        for seed in range(seeds):
            for method, gap in (("fine", 3.0), ("poor", 0.2)):
                generator = np.random.default_rng([seed, int(10 * gap)])
                scores = generator.normal(size=30) + gap * LABELS
                write_job(folder, Job(method, data, seed, {}), scores, auroc=0.9 - 0.3 * (method == "poor") + seed / 50)
    row = {"method": "broken", "data": "tile", "seed": 0, "fingerprint": "x", "folder": "jobs/none"}
    Store(folder).append("mine", {**row, "status": "failed", "error": "Traceback\nValueError: it broke"})
    return folder


def write_job(folder: Path, job: Job, scores: Any, auroc: float, known: int = 4) -> None:
    place = folder / "jobs" / job.folder
    place.mkdir(parents=True)
    types = [path.split("/")[0] for path in PATHS]
    maps = np.random.default_rng(0).random((30, 8, 8)).astype(np.float16)
    np.savez(
        place / "scores.npz",
        paths=np.array([str(folder / "images" / path) for path in PATHS]),
        masks=np.array([""] * 30),
        types=np.array(types),
        scores=scores,
        labels=LABELS,
        threshold=np.array(1.0),
        maps=maps,
        **{f"pro_rate/{ALL_TYPES}": np.linspace(0, 1, 5), f"pro_overlap/{ALL_TYPES}": np.linspace(0, 1, 5) ** 0.5},
    )
    metrics = {"images": 10.0, "image_AUROC": auroc, "pixel_AUPRO": auroc / 2}
    row = {
        "scores": {"crack": {**metrics, "image_AUROC": auroc + 0.05}, "hole": metrics, ALL_TYPES: metrics},
        "seen": ["crack"],
        "known": {"crack": known} if known else {},
        "images": {"train": 20, "validation": 2, "test": 30},
        "seconds_fit": 1.5,
        "seconds_image": 0.01,
        "memory_MiB": 900.0,
        "threads": 1,
        "machine": "some, 2 cores",
    }
    about = {"method": job.method, "data": job.data, "seed": job.seed, "fingerprint": job.fingerprint}
    Store(folder).append("mine", {**about, "folder": f"jobs/{job.folder}", "status": "done", **row})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


def test_means_and_spreads(study: Path) -> None:
    rows = main_table(Results.read(study), "tile").rows
    assert [row["method"] for row in rows] == ["fine", "poor"]
    assert rows[0]["image AUROC"] == "91.0 ± 1.4"
    assert rows[1]["AUPRO"] == "30.5 ± 0.7"
    assert (rows[0]["seeds"], rows[0]["known (given)"], rows[0]["training, s"]) == ("2", "4 ± 0", "2 ± 0")


def test_seen_and_unseen_types_apart(study: Path) -> None:
    results = Results.read(study)
    table = type_table(results, "tile", "image_AUROC")
    assert table is not None
    assert [row["type"] for row in table.rows] == ["crack (seen)", "hole", SEEN, UNSEEN]
    assert results.values("tile", "fine", "image_AUROC", SEEN) == pytest.approx([0.95, 0.97])
    assert results.values("tile", "fine", "image_AUROC", UNSEEN) == pytest.approx([0.9, 0.92])


def test_differences_are_to_the_best_and_say_whether_they_are_any(study: Path) -> None:
    table = difference_table(Results.read(study), "tile")
    assert table is not None
    (row,) = table.rows
    assert row["method"] == "poor"
    assert row[""] == "worse"
    assert float(row["difference to fine"]) < -20


def test_one_seed_tells_nothing_of_others(tmp_path: Path) -> None:
    table = difference_table(Results.read(write_study(tmp_path, seeds=1)), "tile")
    assert table is not None
    assert [row[""] for row in table.rows] == ["one seed"]
    assert "as if these were independent" in table.note


def test_images_of_one_part_are_drawn_together(tmp_path: Path) -> None:
    def table() -> Table:
        found = difference_table(Results.read(tmp_path), "tile")
        assert found is not None
        return found

    write_study(tmp_path)
    alone = table().rows
    paths = sorted((tmp_path / "jobs").glob("*/scores.npz"))
    for number, path in enumerate(paths):
        np.savez(path, **dict(np.load(path)), groups=np.array([f"part {index // 2}" for index in range(30)]))
        if number == 0:  # the others were run by an earlier version
            assert table().rows == alone
            assert "as if these were independent" in table().note
    assert "those of one part together (5 parts have normal ones, 10 anomalous ones)" in table().note
    assert table().rows[0]["95 % interval"] != alone[0]["95 % interval"]
    assert table().rows[0][""] == "too few to tell"


def test_what_a_gpu_held_and_what_bins_cost_is_said(tmp_path: Path) -> None:
    store = write_study(tmp_path) / FILE_NAME
    assert "peak MiB of the GPU" not in main_table(Results.read(tmp_path), "tile").rows[0]
    errors = '"errors": {"mF1": 0.004, "mAcc": 0.0, "mIoU": 0.0, "mIoU_max": 0.0}, "gpu_memory_MiB": 300.0, "seen"'
    store.write_text(store.read_text().replace('"seen"', errors).replace('"pixel_AUPRO"', '"mF1": 0.5, "pixel_AUPRO"'))
    table = main_table(Results.read(tmp_path), "tile")
    assert table.rows[0]["peak MiB of the GPU"] == "300 ± 0"
    assert "values may be off: mF1 by 0.4 points at most" in table.note


def test_nothing_is_unseen_where_known_types_have_no_name(tmp_path: Path) -> None:
    store = write_study(tmp_path) / FILE_NAME
    store.write_text(store.read_text().replace('"seen": ["crack"]', '"seen": ["untyped"]'))
    results = Results.read(tmp_path)
    assert results.values("tile", "fine", "image_AUROC", UNSEEN) == []
    assert results.values("tile", "fine", "image_AUROC", "hole") == pytest.approx([0.9, 0.92])


def test_names_do_not_break_tables() -> None:
    assert markdown_table([{"a|b": "c|d"}]).splitlines() == ["| a\\|b |", "|---|", "| c\\|d |"]


def test_ranks_count_blocks_of_data_seed_and_type(study: Path) -> None:
    ranks = ranks_of(Results.read(study), "image_AUROC")
    assert ranks is not None
    assert ranks.mean == {"fine": 1, "poor": 2}
    assert ranks.blocks == 2 * 2 * 2


def test_failures_come_first(study: Path) -> None:
    results = Results.read(study)
    first = all_tables(results, "image_AUROC", None)[0]
    assert first.rows == [{"method": "broken", "data": "tile", "seed": "0", "error": "ValueError: it broke"}]


def test_jobs_that_were_not_run_are_named(tmp_path: Path) -> None:
    write_study(tmp_path)
    results = Results.read(tmp_path)
    assert not results.missing
    planned = tuple(Job(row["method"], row["data"], row["seed"], {}) for row in [*results.done, *results.failed])
    Store(tmp_path).plan(Study("mine", (*planned, Job("late", "tile", 7, {}))))
    (table, *_) = all_tables(Results.read(tmp_path), "image_AUROC", None)
    assert table.rows[-1] == {"method": "late", "data": "tile", "seed": "7", "error": "not run"}
    assert table.note.startswith(f"{len(results.done)} of {len(planned) + 1} jobs are done.")


def test_methods_tested_on_other_images_are_not_compared(study: Path, tmp_path: Path) -> None:
    write_study(tmp_path, seeds=1)
    path = next((tmp_path / "jobs").glob("tile-poor*")) / "scores.npz"
    stored = dict(np.load(path))
    stored["paths"][0] = "another.png"
    np.savez(path, **stored)
    with pytest.raises(StudyError, match=r"^Expected poor and fine to be tested on the same images of tile"):
        difference_table(Results.read(tmp_path), "tile")


def test_cards_show_the_worst(study: Path) -> None:
    cards = make_cards(Results.read(study), "tile")
    assert {card.kind for card in cards} == {"miss", "false alarm"}
    worst = max(cards, key=lambda card: card.badness["poor"])
    assert worst.badness["poor"] > 0.5
    assert all(card.image.startswith("data:image/jpeg;base64,") for card in cards)
    assert all(set(card.maps) == {"fine", "poor"} for card in cards)


def test_both_reports_are_written(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = tmp_path / "results.md"
    assert cli.main(["report", str(study), "--output", str(tmp_path / "out"), "--section", str(section)]) == 0
    markdown, page = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".md", ".html", ".png"}
    assert "ValueError: it broke" in markdown.read_text()
    assert "<!-- begin mine -->" in section.read_text()
    text = page.read_text()
    assert EVIL not in text  # names are escaped
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    for number in range(1, 5):
        with Image.open(tmp_path / "out" / f"plot_{number}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "Expected the results of a study in 'nowhere', got none. Do run"),
        (["STUDY", "--metric", "beauty"], "Expected a metric among image_AUROC, pixel_AUPRO, got 'beauty'. Do give"),
    ],
)
def test_bad_requests(arguments: list[str], message: str, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", *[str(study) if word == "STUDY" else word for word in arguments]]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_study_of_failures_alone(tmp_path: Path) -> None:
    lines = [{"study": "mine", "format": 1}, {"method": "a", "data": "b", "seed": 0, "status": "failed", "error": "x"}]
    lines[1]["fingerprint"] = "y"
    (tmp_path / "study.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(StudyError, match=r"got 1 that failed\. Do run"):
        Results.read(tmp_path)


def test_failures_of_methods_that_the_config_no_longer_has_are_no_gaps(tmp_path: Path) -> None:
    write_study(tmp_path)
    assert [row["method"] for row in Results.read(tmp_path).failed] == ["broken"]
    Store(tmp_path).plan(Study("mine", tuple(Job(method, "tile", 0, {}) for method in ("fine", "poor"))))
    results = Results.read(tmp_path)
    assert results.failed == []


def test_results_of_methods_that_the_config_no_longer_has_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_study(tmp_path)
    Store(tmp_path).plan(Study("mine", tuple(Job("fine", "tile", seed, {}) for seed in (0, 1))))
    results = Results.read(tmp_path)
    assert (results.methods, results.data_sets) == (["fine"], ["tile"])
    assert "Left out what the study's config no longer has: broken on tile, fine on <script>" in caplog.text


def test_a_damaged_file_of_scores_is_named_and_costs_its_plots_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_study(tmp_path)
    path = next((tmp_path / "jobs").glob("tile-poor*")) / "scores.npz"
    path.write_bytes(path.read_bytes()[:100])
    results = Results.read(tmp_path)
    assert len(results.pairs("tile", "fine", "poor")) == 1
    assert f"Expected scores of test images in {path}, got " in caplog.text


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "study")
    (tmp_path / "file").write_text("")
    assert cli.main(["report", str(tmp_path / "study"), "--output", str(tmp_path / "file")]) == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert str(tmp_path / "file") in message


def test_a_full_disk_is_named_with_the_file(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path, _: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    assert cli.main(["report", str(study), "--output", str(tmp_path / "out")]) == 2
    assert re.match(r"Expected to write .*plot_1\.png, got No space left on device\. Do make", capsys.readouterr().err)
    assert not list((tmp_path / "out").iterdir())
