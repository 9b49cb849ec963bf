"""A release is what its tag says: prints its notes from CHANGELOG.md, or refuses in a sentence. For `make release`."""

import os
import re
import sys
import tomllib
from pathlib import Path


def notes(tag: str, project: str, changelog: str) -> str:
    """The section of `tag`'s version; ValueError, in one sentence, when the project's files tell of another one."""
    version = str(tomllib.loads(project)["project"]["version"])
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag or 'not given (TAG=v1.2.3)'}, but pyproject.toml has version {version}.")
    head = rf"^## \[{re.escape(version)}\][^\n]*\n"
    found = re.search(rf"{head}(.*?)(?=^## \[|^\[[^\]]+\]: |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no section [{version}], or nothing in it: say there what is new.")
    return found[1].strip() + "\n"


def main() -> None:
    """Notes for the tag in the variable TAG, on stdout."""
    try:
        told = notes(os.environ.get("TAG", ""), Path("pyproject.toml").read_text(), Path("CHANGELOG.md").read_text())
    except ValueError as error:
        sys.exit(f"release: {error}")
    print(told, end="")


if __name__ == "__main__":
    main()
