"""Predictions as rows: of CSV, of JSON Lines, and of Parquet."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from capsnet.errors import OutputError, first_line
from capsnet.runtime.predict import Prediction

__all__ = ["Shown", "check_parquet", "csv_to_parquet", "write_csv", "write_jsonl"]


@dataclass(frozen=True)
class Shown:
    """What rows show of a prediction.

    Attributes:
        names: of the classes, by number; empty where they have none.
        top: how many of the longest capsules are shown, longest first; None shows all lengths, in
            the order of the classes.
        min_length: an image whose longest capsule is shorter is given no class.
    """

    names: tuple[str, ...] = ()
    top: int | None = None
    min_length: float = 0.0

    def decided(self, prediction: Prediction) -> dict[str, Any]:
        """The source and the class: its number, and its name where it has one."""
        known = max(prediction.lengths) >= self.min_length
        row = {"source": prediction.source, **self._named(prediction.label)}
        return row if known else {key: row[key] if key == "source" else None for key in row}

    def longest(self, prediction: Prediction) -> Iterator[dict[str, Any]]:
        """Number, name and length of the longest capsules; of equals, the first."""
        order = sorted(range(len(prediction.lengths)), key=lambda i: -prediction.lengths[i])
        lengths = _shortest(prediction.lengths)
        for number in order[: self.top]:
            yield {**self._named(number), "length": lengths[number]}

    def _named(self, label: int) -> dict[str, Any]:
        return {"label": label} | ({"name": self.names[label]} if self.names else {})


def write_csv(
    predictions: Iterable[Prediction],
    file: TextIO,
    shown: Shown = Shown(),
    *,
    header: bool = True,
) -> int:
    """Write predictions as CSV, one line each.

    The columns are ``source,label,length_0,length_1,...``, with ``name`` behind ``label`` where the
    classes have names. With ``shown.top`` they are ``source,label,label_1,length_1,...``, each with
    its name. Lengths have the fewest digits that give the same float32 back. The number of columns
    comes from the first prediction; without one nothing is written, not even a header.

    Args:
        predictions: written as they come.
        file: open for text with ``newline=""``.
        shown: what is written of them.
        header: whether the names of the columns come first; not where rows are there already.

    Returns:
        The number of predictions written.

    Raises:
        OSError: if the file cannot be written.
    """
    writer = csv.writer(file, lineterminator="\n")
    count = 0
    for prediction in predictions:
        row = shown.decided(prediction)
        if shown.top is None:
            row |= {f"length_{i}": x for i, x in enumerate(_shortest(prediction.lengths))}
        else:
            for place, item in enumerate(shown.longest(prediction), 1):
                row |= {f"{key}_{place}": value for key, value in item.items()}
        if header and count == 0:
            writer.writerow(row)
        writer.writerow(row.values())
        count += 1
    return count


def write_jsonl(predictions: Iterable[Prediction], file: TextIO, shown: Shown = Shown()) -> int:
    """Write predictions as JSON Lines: ``{"source": ..., "label": ..., "lengths": [...]}`` each.

    ``"name"`` is behind ``"label"`` where the classes have names. With ``shown.top``, ``"top"`` has
    an object for each of the longest capsules in place of ``"lengths"``. Lengths have the fewest
    digits that give the same float32 back.

    Args:
        predictions: written as they come.
        file: open for text.
        shown: what is written of them.

    Returns:
        The number of predictions written.

    Raises:
        OSError: if the file cannot be written.
    """
    count = 0
    for prediction in predictions:
        row = shown.decided(prediction)
        if shown.top is None:
            row["lengths"] = _shortest(prediction.lengths)
        else:
            row["top"] = list(shown.longest(prediction))
        file.write(json.dumps(row) + "\n")
        count += 1
    return count


def check_parquet() -> None:
    """Raise OutputError where Parquet files cannot be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise OutputError(
            f"a Parquet file needs pyarrow ({first_line(error)}): pip install "
            "'capsnet-export[parquet]', or write .csv or .jsonl"
        ) from error


def csv_to_parquet(rows: BinaryIO, target: Path) -> None:
    """Write the rows of :func:`write_csv`, with their header, as a Parquet file, part by part.

    Args:
        rows: where they are read from.
        target: the file to write.

    Raises:
        OutputError: if they are no rows that Parquet can hold.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    start = rows.tell()
    columns = next(csv.reader([rows.readline().decode()]))
    rows.seek(start)
    kinds = {"label": pa.int64(), "length": pa.float32()}
    types = {name: kinds.get(name.partition("_")[0], pa.string()) for name in columns}
    try:
        reader = arrow_csv.open_csv(
            rows,
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=True
            ),
        )
        with reader, parquet.ParquetWriter(target, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    except pa.ArrowInvalid as error:
        raise OutputError(
            f"the rows are no Parquet table: {first_line(error)}; write .csv or .jsonl"
        ) from error


def _shortest(lengths: Iterable[float]) -> list[float]:
    """Floats whose decimal text is as short as float32 allows: 0.1, not 0.10000000149011612."""
    return [float(str(np.float32(length))) for length in lengths]
