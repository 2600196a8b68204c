"""Parquet files: `write_rows` and `read_rows`. pyarrow is imported here alone, and only when it is needed."""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from i2v.errors import UsageError
from i2v.export.schemas import COLUMNS

ROWS_AT_ONCE = 5_000
"""Rows in memory, and in a row group."""
SMALLEST = Decimal("1e-10")
NO_PYARROW = "Install pyarrow, the extra export of i2v: pip install pyarrow"


class BadParquet(Exception):
    """A file is not one that `write_rows` wrote."""


def has_pyarrow() -> bool:
    """Return whether tables can be written and read."""
    return find_spec("pyarrow") is not None


def require_pyarrow() -> None:
    """Raise `UsageError` without pyarrow."""
    if not has_pyarrow():
        raise UsageError("Parquet tables need pyarrow, which is not installed", NO_PYARROW)


def write_rows(path: Path, table: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a table's rows and return how many. Equal rows give equal bytes."""
    import pyarrow as pa  # noqa: PLC0415 - an extra
    from pyarrow.parquet import ParquetWriter  # noqa: PLC0415 - an extra

    columns, count, waiting = COLUMNS[table], 0, iter(rows)
    schema = pa.schema([(name, _type(pa, kind)) for name, kind in columns.items()])
    with ParquetWriter(path, schema, compression="zstd") as writer:
        while some := list(islice(waiting, ROWS_AT_ONCE)):
            stored = [{name: _value(row[name], kind) for name, kind in columns.items()} for row in some]
            writer.write_table(pa.Table.from_pylist(stored, schema=schema))
            count += len(some)
    return count


def read_rows(path: Path, table: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file in its order. Raise `BadParquet` if it cannot be read."""
    import pyarrow as pa  # noqa: PLC0415 - an extra
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - an extra

    columns = COLUMNS[table]
    maps = [name for name, kind in columns.items() if kind == "map"]
    amounts = [name for name, kind in columns.items() if kind == "money"]
    try:
        with ParquetFile(path) as file:
            if missing := columns.keys() - set(file.schema_arrow.names):
                raise BadParquet(f"it has no column {', '.join(sorted(missing))}")
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns), use_threads=False):
                for row in batch.to_pylist():
                    short = {name: _short(row[name]) for name in amounts}
                    yield row | short | {name: dict(row[name]) for name in maps}
    except (pa.ArrowException, OSError) as error:
        raise BadParquet(str(error)) from None


def _short(amount: Decimal) -> Decimal:
    """Return the amount without the zeros that fill the column's ten digits."""
    return amount.quantize(Decimal(1)) if amount == amount.to_integral_value() else amount.normalize()


def check_file(path: Path, table: str) -> None:
    """Raise `BadParquet` unless this is a file of a table."""
    next(read_rows(path, table), None)


def _type(pa: Any, kind: str) -> Any:
    return {
        "string": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "money": pa.decimal128(20, 10),
        "time": pa.timestamp("us", tz="UTC"),
        "map": pa.map_(pa.string(), pa.string()),
        "strings": pa.list_(pa.string()),
    }[kind]


def _value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "money":
        return Decimal(value).quantize(SMALLEST)
    return sorted(value.items()) if kind == "map" else value
