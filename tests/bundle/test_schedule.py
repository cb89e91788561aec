"""The schedule of the learning rate ends with the training, whoever shortens or lengthens it."""

import json

import pytest
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from commands import CONFIGS, TINY, invoke

COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "optimizer": "@optimizer", "T_max": "@max_epochs"}
POLY = [0.02 * (1 - epoch / 4) ** 0.9 for epoch in (1, 2, 3, 4)]


def rates_of(dataset, output_dir, epochs=None, **overrides):
    """The learning rate after every epoch of a training as MONAI's clients run it."""
    workflow = ConfigWorkflow(
        [str(CONFIGS / "train.yaml"), str(TINY)], str(CONFIGS / "metadata.json"), logging_file=False,
        dataset_dir=str(dataset), output_dir=str(output_dir), val_interval=4, **overrides,
    )  # fmt: skip
    if epochs is not None:
        workflow.max_epochs = epochs
    workflow.initialize()
    rates = []
    optimizer = workflow.parser.get_parsed_content("optimizer")
    workflow.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: rates.append(optimizer.param_groups[0]["lr"]))
    workflow.run()
    return rates


@pytest.mark.parametrize(
    "change", [{"train#trainer#max_epochs": 4}, {"max_epochs": 4}, {"epochs": 4}], ids=["client", "key", "property"]
)
def test_the_schedule_follows_the_trainer(dataset, tmp_path, change):
    assert rates_of(dataset, tmp_path, **change) == pytest.approx(POLY)
    assert json.loads((tmp_path / "run.json").read_text())["config"]["max_epochs"] == 4


def test_any_schedule_of_max_epochs_follows(dataset, tmp_path):
    rates = rates_of(dataset, tmp_path, **{"train#trainer#max_epochs": 4, "lr_scheduler": COSINE})
    assert rates == pytest.approx([0.02 * factor for factor in (0.8535534, 0.5, 0.1464466, 0.0)], abs=1e-8)


def test_a_resumed_training_goes_on_with_its_schedule(dataset, tmp_path):
    rates_of(dataset, tmp_path, **{"train#trainer#max_epochs": 2})
    rates = rates_of(dataset, tmp_path, **{"train#trainer#max_epochs": 4, "resume": True})
    assert rates == pytest.approx(POLY[2:])


def test_a_schedule_that_ends_early_is_reported(dataset, tmp_path):
    words = ["--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "out", "--max_epochs", 4]
    done = invoke("train", *words, "--val_interval", 4, "--lr_scheduler#total_iters", 2)
    assert done.exit_code == 0
    assert done.stdout.count("epoch 3: the learning rate is 0, so nothing is learned; lr_scheduler ends before") == 1
