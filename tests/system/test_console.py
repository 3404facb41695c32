"""Who says something, before Lightning is imported and after."""

import os
import subprocess
import sys

import pytest

from mlcl.system import console

SAY = "import sys; from mlcl.system.console import say; say('x'); assert 'lightning' not in sys.modules"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "x\n"),
        ({"RANK": "0", "LOCAL_RANK": "1"}, "x\n"),
        ({"RANK": "1", "LOCAL_RANK": "0"}, ""),
        ({"SLURM_PROCID": "3"}, ""),
    ],
)
def test_a_launchers_variables_count_where_lightning_is_not_imported(variables, said):
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", SAY], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == said


def test_lightning_knows_of_the_processes_that_it_started(monkeypatch, capsys):
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    console.say("x")
    assert capsys.readouterr().err == "" and not console.is_first()
