"""Store a run as a model that comes with the package, measure it, and write its card.

    jaxdiff train digits
    python -m experiments.shipped --run runs/digits --name digits
    jaxdiff train mnist-small --data.path mnist.npz
    python -m experiments.shipped --run runs/mnist-small --name mnist

Writes ``jaxdiff/pretrained/shipped/NAME.safetensors``, the averaged parameters as they were trained
(float32), with what makes them a model in its header, and the card ``NAME.json`` beside it: data
and licences, the command and the seed of the training, version, and scores by ``dpmpp`` in 8 and 12
steps with guidance 2 on the levels of the run: the Frechet distance of a classifier's features to
images of the test part, beside draws of real images, and how many samples the classifier reads as
the class that was requested, beside how many test images it reads as theirs. With --page the cards
of all models make a page.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import jaxdiff
from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app.config_data import OtherData
from jaxdiff.app.evaluate import evaluate
from jaxdiff.app.load_run import load_run
from jaxdiff.files import read_json, write_text
from jaxdiff.networks import count_parameters
from jaxdiff.pretrained.cards import SHIPPED
from jaxdiff.pretrained.saving import save_safetensors

STEPS, GUIDANCE, SAMPLES = (8, 12), 2.0, 1000
FACTS: dict[str, dict[str, str]] = {
    "digits": {
        "data": "the training part of scikit-learn's handwritten digits, 1438 images of 8x8",
        "data_source": "https://archive.ics.uci.edu/dataset/80",
        "data_licence": "CC BY 4.0",
        "command": "jaxdiff train digits",
        "data_path": "digits",
    },
    "mnist": {
        "data": "the training part of MNIST, 60000 images of 28x28",
        "data_source": "https://github.com/rasbt/mnist-pngs",
        "data_licence": "MIT",
        "command": "jaxdiff train mnist-small --data.path mnist.npz",
    },
}


def store(run: str, name: str) -> dict[str, Any]:
    """Write the model of a run as the package's, and return what its card says, scores apart."""
    model, (config, _) = load_run(run), config_file.load_known(run)
    assert isinstance(config, configs.Train)
    known = {
        "name": name, "licence": "Apache-2.0", **FACTS[name], "seed": config.seed,
        "updates": config.updates, "version": jaxdiff.__version__,
        "class_names": list(model.metadata["class_names"]),
    }  # fmt: skip
    path = SHIPPED / f"{name}.safetensors"
    save_safetensors(model.__class__(**{**vars(model), "metadata": known}), path)
    return {
        **known, "shape": list(model.shape), "classes": model.classes,
        "prediction": model.prediction, "process": type(model.process).__name__,
        "parameters": count_parameters(model.params), "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }  # fmt: skip


def scores(run: str, data: str | None, out: Path) -> list[dict[str, Any]]:
    """Return the scores of a run, one row for each number of steps."""
    config = configs.Evaluate(
        run, OtherData(path=data, split="test" if data else None), solver="dpmpp", num_steps=STEPS,
        guidance=GUIDANCE, count=SAMPLES, out=str(out),
    )  # fmt: skip
    evaluate(config)
    rows = []
    for name, each in read_json(out.with_suffix(".json"))["scores"].items():
        distance, agreement = each["Frechet distance"], each["agreement"]
        rows.append({
            "sampler": name, "guidance": GUIDANCE, "nfe": each["nfe"], "samples": SAMPLES,
            "frechet_distance": distance["value"], "reference": distance["reference"],
            "real_images": distance["real_data"]["value"],
            "real_images_std": distance["real_data"]["std"],
            "class_agreement": agreement["value"],
            "classifier_accuracy": agreement["real_data"]["value"],
        })  # fmt: skip
    return rows


def page() -> str:
    """Return the page of all models that come with the package."""
    lines = [
        "# Models that come with the package", "",
        "Small class-conditional teachers for examples, tests of an installation and the demo; "
        '`jd.load_pretrained("mnist")` opens one. Each is the averaged parameters of a preset, '
        "trained on the CPU by the command in its row, in float32. Scores are by `dpmpp` with "
        f"guidance {GUIDANCE:g}, of {SAMPLES} samples: the Frechet distance between features of a "
        "small classifier and those of images of the test part (beside draws of real images), "
        "and the share of samples that the classifier reads as the class that was requested "
        "(beside its accuracy on the test images). The classifier has seen half of the training "
        "images; its distances compare with each other, not with anything published. "
        "`python -m experiments.shipped` makes all of it.", "",
        "| model | steps (evaluations) | Frechet distance | real images | read as their class "
        "| test images |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    cards = [read_json(path) for path in sorted(SHIPPED.glob("*.json"))]
    for card in cards:
        for row in card["scores"]:
            lines.append(
                f"| {card['name']} | {row['sampler'].split(', ')[1]} ({row['nfe']}) "
                f"| {row['frechet_distance']:.2f} "
                f"| {row['real_images']:.2f} ± {row['real_images_std']:.2f} "
                f"| {row['class_agreement']:.1%} | {row['classifier_accuracy']:.1%} |"
            )
    lines += [
        "",
        "| model | shape | parameters | bytes | trained on | their licence | command, seed |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for card in cards:
        lines.append(
            f"| {card['name']} | {'x'.join(map(str, card['shape']))} | {card['parameters']:,} "
            f"| {card['bytes']:,} | [{card['data']}]({card['data_source']}) "
            f"| {card['data_licence']} | `{card['command']}`, {card['seed']} |"
        )
    return "\n".join([*lines, "", "The weights are licensed as the package is, Apache-2.0.", ""])


def main() -> None:
    """Store and measure a run, or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", help="the trained run")
    parser.add_argument("--name", choices=[*FACTS], help="of the model in the package")
    parser.add_argument("--data", help="where the run's data are now, if they have been moved")
    parser.add_argument("--page", type=Path, help="write the page of all cards to this file")
    options = parser.parse_args()
    if (options.run is None) != (options.name is None):
        parser.error("--run and --name go together")
    if options.run is not None:
        card = store(options.run, options.name)
        card["scores"] = scores(options.run, options.data, Path(options.run) / "shipped.html")
        write_text(SHIPPED / f"{options.name}.json", json.dumps(card, indent=1) + "\n")
    if options.page is not None:
        write_text(options.page, page())


if __name__ == "__main__":
    main()
