"""One of the processes that :func:`._processes.run_processes` starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save_file

from scfcmi._device import FOLDER

from ._fit import fit_here
from ._processes import KNOWN, note_error, read_job, tell_caller


def work() -> None:
    """Fit together with the other processes; the first one leaves the result in the folder."""
    folder = Path(os.environ[FOLDER])
    try:
        fit = fit_here(**read_job(folder), tell=tell_caller)
    except tuple(KNOWN.values()) as error:
        note_error(error)
        raise
    if os.environ["RANK"] == "0":
        save_file(fit.tensors(), folder / "fit.safetensors")
        (folder / "fit.json").write_text(json.dumps(fit.meta()))


if __name__ == "__main__":
    work()
