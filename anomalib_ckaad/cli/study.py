"""``anomalib-ckaad study``: a comparison of methods on data sets with several seeds."""

from pathlib import Path

from anomalib_ckaad.errors import FileError


def study(*, config: Path, output: Path | None = None, jobs: int | None = None, devices: str = "cpu") -> int:
    """Compare methods on data sets with several seeds; each job runs in its own process.

    Jobs that have a result are not run again. The exit status is 1 if a job failed.

    Args:
        config: The study's config; docs/studies.md describes the format.
        output: Folder of the study. Default: results/study/ and the config's name.
        jobs: Number of jobs that run at the same time. Default: one per device.
        devices: ``cpu``, or numbers of GPUs separated by commas.
    """
    if not config.is_file():
        msg = f"--config {config} is not a file. Pass the config of a study."
        raise FileError(msg)
    from anomalib_ckaad.study.runner import run_study

    output = output or Path("results") / "study" / config.stem
    rows = run_study(config, output, jobs, devices.split(","))
    failed = [row for row in rows if row["status"] != "done"]
    print(f"{len(rows) - len(failed)} of {len(rows)} jobs are done. Results: {output}")
    print(f"Write a report: anomalib-ckaad report {output}")
    for row in failed:
        print(f"failed: {row['method']} on {row['data']}, seed {row['seed']}: {output / row['folder'] / 'log.txt'}")
    return int(bool(failed))
