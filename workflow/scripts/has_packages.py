"""Exit with 0 if this Python has couplet, from this folder, with the packages of the extras that are named.

python workflow/scripts/has_packages.py pipeline dev
"""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(name for extra in sys.argv[1:] for name in extras[extra])]
    couplet = find_spec("couplet")
    if couplet is None or couplet.origin is None or not Path(couplet.origin).is_relative_to(ROOT):
        return 1
    try:
        for requirement in needed:
            version(re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0])
    except PackageNotFoundError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
