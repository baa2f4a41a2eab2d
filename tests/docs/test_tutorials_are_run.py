"""Every command of the tutorials, and of the pages that need no fleet, does what the page says."""

from pathlib import Path

import pytest
from blocks import ROOT
from marks import READ, steps
from reader import READY, Page, reader
from test_guides_are_run import EXAMPLES, OF_THE_FLEET

pytestmark = pytest.mark.timeout(600)
FIRST_ID = "$(flctl alerts | sed -n 's/^ *\\([0-9]\\+\\) .*/\\1/p' | head -1)"
TABLE = {
    "docs/how-to/alerts.md": Page(
        given=("export FLCTL_STATE=$PWD/fleet",),
        instead={
            "^mkdir fleet$": "python3 receiver.py & mkdir fleet",  # in another terminal
            # The alert of the next token is another one, so this one must have resolved.
            "--close-all": "--close-all && until ! flctl alerts | grep open_token; do :; done"
            " && flctl keys token >again && flctl keys new a.key && flctl keys add pi-03 a.pub",
            "ack 17": f"ack {FIRST_ID}",
        },
        until={"flctl alerts --state|flctl alerts +#": "open_token"},
    ),
    "docs/explanation/ecg.md": Page(
        given=(
            'ln -s "$SHARED/mitdb" mitdb',
            "flctl train --task ecg --virtual 4 --rounds 1 --save-model model.safetensors",
            "flctl data split --task ecg --agents 2 --out shares",
            'python -c \'import numpy as np; X = np.load("shares/pi-01/beats.npz")["X"][:9];'
            ' np.savetxt("beats.csv", X, "%d", ","); np.savetxt("sensor.csv", X, "%d", ",")\'',
        ),
        instead={"--virtual 16": "--virtual 3"},
    ),
    "docs/explanation/strategies.md": Page(
        instead={r"--local 5 (?=--strategy trimmed)": "--local 3 "}
    ),
    "docs/how-to/own-strategies.md": Page(given=(EXAMPLES,)),
    "docs/how-to/data.md": Page(
        given=("flctl data split --task ecg --agents 2 --out two && cp two/pi-01/beats.npz .",)
    ),
    "docs/how-to/daily-data.md": Page(
        given=("export FLCTL_STATE=~/own-csv/pumps-fleet/fleet", "mkdir ~/flctl")
    ),
    "docs/how-to/virtual.md": Page(instead={"--task mnist": '--task mnist --data "$SHARED/mnist"'}),
    # Who goes on before all are ready has a round without one of them.
    "docs/tutorials/own-camera.md": Page(until={"flctl status": READY}),
    "docs/tutorials/own-csv.md": Page(
        until={"flctl status": READY.replace("pi-", "pump-") + ".*pump-04 +ready"}
    ),
    # What its last step asks for.
    "docs/reference/tasks.md": Page(instead={"photo.jpg": "shapes/circle/080.png"}),
}
# Whose reader goes on with another page.
GO_ON = {"docs/tutorials/own-csv.md": "docs/how-to/daily-data.md"}
ALONE = [page for page in READ if any(step.not_run is None for step in steps(page))]
ALONE = [
    page for page in ALONE if str(page.relative_to(ROOT)) not in {*OF_THE_FLEET, *GO_ON.values()}
]
DATA = {"docs/explanation/ecg.md": "mitdb_dir", "docs/how-to/virtual.md": "mnist_dir"}


@pytest.mark.parametrize("path", ALONE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page(path: Path, request: pytest.FixtureRequest):
    name = str(path.relative_to(ROOT))
    if name in DATA:
        request.getfixturevalue(DATA[name])
    with reader() as someone:
        someone.read(path, TABLE.get(name, Page()))
        if after := GO_ON.get(name):
            someone.read(ROOT / after, TABLE[after])
