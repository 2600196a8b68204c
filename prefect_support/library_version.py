"""Stop at once if the flows and the installed library are different versions.

Flows import it first. With a `git_clone` pull step the flows are as new as the branch, but `i2v` is what the worker's
environment has installed, and an older library fails in the middle of a run, or is wrong about money.
"""

from filecmp import cmpfiles
from pathlib import Path

import i2v


def check_library_version(checkout: Path, installed: Path) -> None:
    """Raise `ImportError` if the library in a checkout and the installed one have different files."""
    source = checkout / "src" / "i2v"
    if not source.is_dir() or source.resolve() == installed.resolve():
        return
    names = sorted({str(file.relative_to(root)) for root in (source, installed) for file in root.rglob("*.py")})
    _, changed, missing = cmpfiles(source, installed, names, shallow=False)
    if differing := sorted(changed + missing):
        raise ImportError(
            f"The flows in {checkout} need their own version of i2v, but {installed} differs in {len(differing)} files "
            f"({', '.join(differing[:3])}, …). Install the same version in the worker's environment: "
            f"pip install {checkout}, or check out the installed version in the pull step"
        )


check_library_version(Path(__file__).resolve().parents[1], Path(i2v.__file__).parent)
