"""Rows of predictions: names, the longest capsules, and what is too short; Parquet too."""

import io
import json

import pytest

from capsnet.errors import OutputError
from capsnet.runtime.predict import Prediction
from capsnet.runtime.rows import Shown, csv_to_parquet, write_csv, write_jsonl

PREDICTIONS = [Prediction("a.png", 1, (0.25, 0.75, 0.5)), Prediction("b,c.png", 0, (0.3, 0.1, 0.2))]
NAMES = ("ant", "bee", "cat")


def csv_of(**shown):
    file = io.StringIO()
    assert write_csv(PREDICTIONS, file, Shown(**shown)) == 2
    return file.getvalue().splitlines()


def json_of(**shown):
    file = io.StringIO()
    assert write_jsonl(PREDICTIONS, file, Shown(**shown)) == 2
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_names_stand_beside_numbers():
    assert csv_of(names=NAMES) == [
        "source,label,name,length_0,length_1,length_2",
        "a.png,1,bee,0.25,0.75,0.5",
        '"b,c.png",0,ant,0.3,0.1,0.2',
    ]
    assert json_of(names=NAMES)[0] == {
        "source": "a.png",
        "label": 1,
        "name": "bee",
        "lengths": [0.25, 0.75, 0.5],
    }


def test_the_longest_come_first():
    assert csv_of(names=NAMES, top=2) == [
        "source,label,name,label_1,name_1,length_1,label_2,name_2,length_2",
        "a.png,1,bee,1,bee,0.75,2,cat,0.5",
        '"b,c.png",0,ant,0,ant,0.3,2,cat,0.2',
    ]
    assert json_of(top=9)[1]["top"] == [
        {"label": 0, "length": 0.3},
        {"label": 2, "length": 0.2},
        {"label": 1, "length": 0.1},
    ]


def test_what_is_too_short_has_no_class():
    assert csv_of(names=NAMES, top=1, min_length=0.5)[1:] == [
        "a.png,1,bee,1,bee,0.75",
        '"b,c.png",,,0,ant,0.3',
    ]
    assert [row["label"] for row in json_of(min_length=0.75)] == [1, None]


def test_parquet_has_the_same_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    text = io.StringIO()
    write_csv(PREDICTIONS, text, Shown(NAMES, min_length=0.5))
    csv_to_parquet(io.BytesIO(text.getvalue().encode()), tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert [str(kind) for kind in table.schema.types] == [
        "string",
        "int64",
        "string",
        *["float"] * 3,
    ]
    first, second = table.to_pylist()
    assert first == {
        "source": "a.png",
        "label": 1,
        "name": "bee",
        "length_0": 0.25,
        "length_1": 0.75,
        "length_2": 0.5,
    }
    assert (second["source"], second["label"], second["name"]) == ("b,c.png", None, None)


def test_parquet_refuses_a_name_that_is_no_text(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(OutputError, match=r"no Parquet table: .*write \.csv or \.jsonl"):
        csv_to_parquet(io.BytesIO(b"source,label\n\xff.png,1\n"), tmp_path / "a.parquet")
