"""Learning rate schedules end with the training, also if it is shortened or extended."""

import json

import pytest
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject

from commands import CONFIGS, TINY, invoke

COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "optimizer": "@optimizer", "T_max": "@max_epochs"}
CHAINED = {
    "_target_": "torch.optim.lr_scheduler.ChainedScheduler",
    "schedulers": [
        {"_target_": "torch.optim.lr_scheduler.PolynomialLR", "optimizer": "@optimizer", "total_iters": "@max_epochs"},
        {"_target_": "torch.optim.lr_scheduler.ConstantLR", "optimizer": "@optimizer", "factor": 0.5,
         "total_iters": "$@max_epochs + 1"},
    ],
}  # fmt: skip
POLY = [0.02 * (1 - epoch / 4) ** 0.9 for epoch in (1, 2, 3, 4)]


def workflow_of(dataset, output_dir, **overrides):
    return ConfigWorkflow(
        [str(CONFIGS / "train.yaml"), str(TINY)], str(CONFIGS / "metadata.json"), logging_file=False,
        dataset_dir=str(dataset), output_dir=str(output_dir), val_interval=4, **overrides,
    )  # fmt: skip


def rates_of(dataset, output_dir, epochs=None, **overrides):
    """Return the learning rate after every epoch of a training run like that of MONAI's clients."""
    workflow = workflow_of(dataset, output_dir, **overrides)
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
def test_schedule_follows_max_epochs_of_the_trainer(dataset, tmp_path, change):
    assert rates_of(dataset, tmp_path, **change) == pytest.approx(POLY)
    assert json.loads((tmp_path / "run.json").read_text())["config"]["max_epochs"] == 4


def test_any_schedule_of_max_epochs_follows(dataset, tmp_path):
    rates = rates_of(dataset, tmp_path, **{"train#trainer#max_epochs": 4, "lr_scheduler": COSINE})
    assert rates == pytest.approx([0.02 * factor for factor in (0.8535534, 0.5, 0.1464466, 0.0)], abs=1e-8)


def test_resumed_training_continues_its_schedule(dataset, tmp_path):
    rates_of(dataset, tmp_path, **{"train#trainer#max_epochs": 2})
    rates = rates_of(dataset, tmp_path, **{"train#trainer#max_epochs": 4, "resume": True})
    assert rates == pytest.approx(POLY[2:])


@pytest.mark.parametrize(
    ("overrides", "factors"),
    [
        ({}, [1, 0.5**0.9, 0.5**0.9, 0.25**0.9, (1 / 3) ** 0.9, (1 / 6) ** 0.9]),  # 2, 4 and 6 epochs in all
        ({"lr_scheduler": COSINE}, [1, 0.5, 0.5, 0.1464466, 0.25, 0.0669873]),
        ({"lr_scheduler": CHAINED}, [0.5, 0.25, 0.25, 0.125, 0.5 / 3, 0.5 / 6]),
    ],
    ids=["polynomial", "cosine", "chained"],
)
def test_federated_client_trains_in_every_round(dataset, tmp_path, overrides, factors):
    client = MonaiAlgo(
        str(CONFIGS.parent), local_epochs=2, config_evaluate_filename=None, config_filters_filename=None,
        train_workflow=workflow_of(dataset, tmp_path, run_name="client_1", **overrides),
    )  # fmt: skip
    client.initialize()
    rates, changes = [], []
    optimizer = client.trainer.optimizer
    client.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: rates.append(optimizer.param_groups[0]["lr"]))
    weights = {name: value.clone() for name, value in client.trainer.network.state_dict().items()}
    for _ in range(3):
        client.train(ExchangeObject(weights=weights))
        changes.append(sum(float(value.abs().sum()) for value in client.get_weights().weights.values()))
        weights = {name: value.clone() for name, value in client.trainer.network.state_dict().items()}
    assert rates == pytest.approx([0.02 * factor for factor in factors])
    assert min(changes) > 1


def test_extended_schedule_equals_that_of_a_long_training(dataset, tmp_path):
    workflow = workflow_of(dataset, tmp_path / "longer", max_epochs=2)
    workflow.initialize()
    trainer, rates = (
        workflow.parser.get_parsed_content("train#trainer"),
        [],
    )  # created by the parser, without a workflow
    groups = trainer.optimizer.param_groups
    trainer.state.max_epochs = 4
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: rates.append(groups[0]["lr"]))
    workflow.run()
    assert rates == rates_of(dataset, tmp_path / "planned", max_epochs=4)


def test_schedule_that_ends_early_is_reported(dataset, tmp_path):
    words = ["--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "out", "--max_epochs", 4]
    done = invoke("train", *words, "--val_interval", 4, "--lr_scheduler#total_iters", 2)
    assert done.exit_code == 0
    assert (
        done.stdout.count("epoch 3: the learning rate is 0, so the network does not learn; lr_scheduler ends before")
        == 1
    )
