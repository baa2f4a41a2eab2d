"""Several parameter files read as one model: its shared tensors, and those that travel once."""

from collections.abc import Sequence

from flctl.errors import ParametersError
from flctl.wire.parameters import (
    SLICE,
    Array,
    ParameterFile,
    ParameterWriter,
    TensorSpec,
    canonical,
)


class Merged:
    """Reads as one file; no tensor is in two of them. Raises ParametersError."""

    def __init__(self, files: Sequence[ParameterFile]) -> None:
        self.where, self.metadata = files[0].where, files[0].metadata
        self._files = files
        self._of = {spec.name: file for file in files for spec in file.specs}
        self.specs = canonical(spec for file in files for spec in file.specs)
        if len(self._of) < len(self.specs):
            raise ParametersError(f"{self.where}: a tensor of it is in {files[-1].where} too")

    def read(self, spec: TensorSpec, start: int = 0, count: int | None = None) -> Array:
        return self._of[spec.name].read(spec, start, count)

    def write(self, fd: int, model: str) -> tuple[str, int]:
        """One file of all, which says that it is of the shared tensors `model`, a digest; its own
        sha256 and size."""
        metadata = {k: v for k, v in self.metadata.items() if k != FROZEN}
        buffers = sorted(name for file in self._files for name in file.buffers)
        metadata |= {"model": model, **({"buffers": buffers} if buffers else {})}
        writer = ParameterWriter(fd, self.specs, metadata)
        for spec in writer.specs:
            for start in range(0, spec.count, SLICE):
                writer.write(self.read(spec, start, min(SLICE, spec.count - start)))
        return writer.finish()


FROZEN = "frozen"
"""In the metadata of a file of shared tensors: the digest of the file with the frozen ones."""
PRIVATE = "private"
"""The same: names of the tensors that each agent has for itself."""
