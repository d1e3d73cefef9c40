"""Data folders and repositories of a test's own; nothing is written beside tmp_path."""

import csv
import datetime as dt
import random
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent / "repository"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder that this process and its children use."""
    folder = tmp_path / "home"
    monkeypatch.setenv("PUNCTUAL_HOME", str(folder))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return folder


@pytest.fixture
def shop(home, tmp_path, monkeypatch):
    """The throw-away domain in a repository of its own, with two years of sales of twelve shops; returns the home."""
    repository = tmp_path / "repository"
    shutil.copytree(REPOSITORY, repository, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PUNCTUAL_REPOSITORY", str(repository))
    write_sales(home / "raw" / "sales.csv")
    return home


def write_sales(path: Path) -> None:
    """Sales that depend on the shop, the day of the week and promotions, with noise; always the same."""
    noise = random.Random(7)
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["shop_id", "day", "cents", "is_promotion"])
        for number in range(730):
            day = dt.date(2019, 1, 1) + dt.timedelta(days=number)
            for shop_id in range(1, 13):
                promotion = noise.random() < 0.1
                level = 20_000 * shop_id * (1.4 if day.weekday() == 5 else 1.0) * (1.2 if promotion else 1.0)
                rows.writerow([shop_id, day, round(level * noise.uniform(0.9, 1.1)), str(promotion).lower()])
