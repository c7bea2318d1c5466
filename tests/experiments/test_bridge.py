"""The study of smaller denoisers: its page and its options."""

import pytest

from experiments.bridge import __main__ as study
from experiments.bridge.report import page, summaries


def made(method, seed, distance, parameters, **more):
    return {
        "method": method, "seed": seed, "Frechet distance": distance, "agreement": 0.5,
        "seconds": 2.0, "nfe": 17, "parameters": parameters, "multiplications": 2e6, **more,
    }  # fmt: skip


def test_the_page_has_means_by_size():
    rows = [
        made("teacher 24", 1, 3.0, 900, real=1.5), made("simkd-1 8", 1, 5.0, 300),
        made("simkd-1 8", 2, 7.0, 300), made("alone 8", 1, 9.0, 100),
    ]  # fmt: skip
    assert [r["method"] for r in summaries(rows)] == ["alone 8", "simkd-1 8", "teacher 24"]
    text = page({"settings": {"count": 500, "updates": 7}, "machine": "a machine", "rows": rows})
    assert "| simkd-1 8 | 300 | 2.00 | 6.00 ± 1.41 | 50.0 | 2 | 2 |" in text
    assert "| alone 8 | 100 | 2.00 | 9.00 | 50.0 | 1 | 2 |" in text
    assert "--count 500 --updates 7 --seeds 1 2" in text and "there are, 1.50" in text


def test_unknown_methods_are_refused(capsys):
    options = study.arguments_of(["--method", "simkd-1", "--widths", "4"])
    assert options.method == ["simkd-1"] and options.widths == [4]
    assert len(study.arguments_of([]).method) == 8
    for given in (["--method", "nothing"], ["--updates", "0"]):
        with pytest.raises(SystemExit):
            study.arguments_of(given)
    said = capsys.readouterr().err
    assert "no method is called nothing" in said and "--updates must be at least 1" in said
