"""What the build adds to a wheel and a source distribution: build.json, and the manual pages.

hatchling runs it. An editable install gets neither: its version is asked of git each time. Where
the packages that the commands import are missing (an image's build), there are no manual pages.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NEEDED = ("msgspec", "platformdirs", "typer")
"""What `flctl --help` loads."""


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def dependencies(self) -> list[str]:
        wanted = self.metadata.core.dependencies
        return [text for text in wanted if text.startswith(NEEDED)]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from flctl.version import BUILT, version_of

        self._folder = tempfile.TemporaryDirectory(prefix="flctl-build-")
        folder = Path(self._folder.name)
        # Also where it is there already: a wheel from the sources has the bytes of one from git.
        (folder / BUILT).write_text(version_of().as_json())
        build_data["force_include"][str(folder / BUILT)] = f"flctl/{BUILT}"
        if self.target_name != "wheel":
            return
        sys.path.insert(0, str(Path(self.root, "scripts")))
        try:
            import man
        except ImportError as error:
            self.app.display_warning(f"no manual pages: {error}")
            return
        for path in man.write(folder / "man"):
            build_data["shared_data"][str(path)] = f"share/man/man1/{path.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if version != "editable":
            self._folder.cleanup()
