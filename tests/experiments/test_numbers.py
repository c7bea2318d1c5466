"""Numbers of the experiments' command lines."""

import argparse

import pytest

from experiments import numbers


@pytest.mark.parametrize(
    ("kind", "fits", "wrong"),
    [
        (numbers.count, {"1": 1, "12": 12}, ("0", "-1", "1.5", "x")),
        (numbers.natural, {"0": 0}, ("-1", "1e3")),
        (numbers.positive, {"1e-3": 1e-3}, ("0", "nan", "inf", "-1")),
        (numbers.not_negative, {"0": 0.0}, ("nan", "inf", "-1")),
        (numbers.finite, {"-1": -1.0}, ("nan", "inf", "")),
    ],
)
def test_a_number_without_meaning_is_refused_by_name(kind, fits, wrong):
    assert {text: kind(text) for text in fits} == fits
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f"must be .*, not '?{text}"):
            kind(text)


def test_the_command_line_names_the_option(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=numbers.count)
    with pytest.raises(SystemExit):
        parser.parse_args(["--updates", "0"])
    said = "argument --updates: must be a whole number, at least 1, not 0"
    assert said in capsys.readouterr().err
    assert parser.parse_args(["--updates", "3"]).updates == 3
