"""Flows stop if the installed library is not their own version."""

from pathlib import Path

import pytest

import i2v
from prefect_support.library_version import check_library_version
from tests.support.paths import ROOT


def put_library(folder: Path, **files: str) -> Path:
    """Write the files of a library; return its folder."""
    (folder / "ledger").mkdir(parents=True)
    for name, text in files.items():
        (folder / "ledger" / f"{name}.py").write_text(text)
    return folder


def test_this_checkout_has_its_own_library() -> None:
    """The flows of the checkout that i2v is installed from start."""
    check_library_version(ROOT, Path(i2v.__file__).parent)

    assert (ROOT / "src/i2v/__init__.py").samefile(i2v.__file__)


def test_an_equal_installed_library_is_accepted(tmp_path: Path) -> None:
    """A wheel of the same version elsewhere has the same files."""
    put_library(tmp_path / "clone/src/i2v", job="x = 1")
    installed = put_library(tmp_path / "site-packages/i2v", job="x = 1")

    check_library_version(tmp_path / "clone", installed)

    assert installed.is_dir()


@pytest.mark.parametrize("files", [{"job": "x = 2"}, {"job": "x = 1", "new": ""}, {}], ids=["changed", "old", "newer"])
def test_another_version_is_named_before_anything_runs(tmp_path: Path, files: dict[str, str]) -> None:
    """A changed, additional or missing file ends the start with both folders and the command that helps."""
    put_library(tmp_path / "clone/src/i2v", job="x = 1")
    installed = put_library(tmp_path / "site-packages/i2v", **files)

    with pytest.raises(ImportError, match=r"differs in 1 files \(ledger/\w+\.py.*pip install \S+/clone") as caught:
        check_library_version(tmp_path / "clone", installed)
    assert str(installed) in str(caught.value)


def test_flows_without_a_library_beside_them_are_accepted(tmp_path: Path) -> None:
    """A folder with flows alone uses whatever is installed."""
    check_library_version(tmp_path, Path(i2v.__file__).parent)

    assert not (tmp_path / "src").exists()
