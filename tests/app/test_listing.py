"""What there is, listed."""

import json

import pytest

import jaxdiff as jd
from jaxdiff.app import config as configs
from jaxdiff.app.listing import KINDS, OTHERS, listing, plain, rows
from jaxdiff.app.main import main


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_everything_has_a_line(kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = list(rows(kind))
    assert all(name and summary for name, summary, _ in found)
    lines = listing(configs.List(kind=kind)).splitlines()
    assert [line.split()[0] for line in lines] == [row[0] for row in found]
    assert json.loads(listing(configs.List(kind=kind, json=True)))[0]["name"] == found[0][0]


def test_names_and_papers():
    found = {row[0]: row for row in rows("solvers")}
    assert set(found) == {entry.name for entry in jd.solvers.SOLVERS}
    assert found["unipc"][2] == "2302.04867" and found["deis"][2] == "2204.13902"
    guidance = {row[0]: row[2] for row in rows("guidance")}
    assert guidance["classifier_free"] == "2207.12598" and "check" not in guidance
    steers = {"dps", "ddnm_plus", "ddrm", "sinsr", "flow_edit", "prompt_to_prompt"}
    assert steers <= set(guidance)


def test_summaries_are_plain():
    text = "One :func:`jaxdiff.x` of\n``y`` (Ho, arXiv 2207.12598), (arXiv 1111.22222).\n\nM"
    assert plain(text) == "One jaxdiff.x of y (Ho),."


def test_the_command(capsys):
    assert main(["list", "grids"]) == 0
    assert "karras" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["list", "nothing"])


def test_every_kind_can_be_asked_for():
    from jaxdiff.app.parsing import kinds_of_lists

    assert set(kinds_of_lists()) == {*KINDS, *OTHERS}
    networks = {row[0] for row in rows("networks")}
    assert {"UNet", "DiT", "SongUNet"} <= networks and "init" not in networks


def test_adapters_are_listed_and_what_handles_them_is_not():
    adapters = {row[0]: row[2] for row in rows("adapters")}
    assert adapters["LowRank"] == "2106.09685" and adapters["SpectralShift"] == "2303.11305"
    assert adapters["custom_diffusion"] == "2212.04488"
    assert {"TextualInversion", "dreambooth", "custom_diffusion", "controlnet_of"} <= set(adapters)
    assert not {"Adapter", "Adapted", "paths", "load_lora", "check_adapter"} & set(adapters)
