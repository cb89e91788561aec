"""Checkpoints of a training: the saved model and the state for resuming."""

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import State

from segbundle.errors import CheckpointError, ConfigError, TrainingError
from segbundle.inference.evaluator import SegmentationEvaluator
from segbundle.inference.scoring import MeanDice, is_better
from segbundle.metrics import score_case
from segbundle.results.scores import CaseScores
from segbundle.training.resuming import Checkpoints
from segbundle.training.weight_average import WeightAverage

NAMES = ["background", "ball"]


def test_schedule_that_depends_on_validations_raises(tmp_path):
    trained = torch.nn.Conv3d(1, 2, 1)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(
        ConfigError, match=r"^lr_scheduler: ReduceLROnPlateau .* Use a schedule that depends on epochs only"
    ):
        Checkpoints(str(tmp_path), trained, optimizer, schedule, None, None, None, {})


class GivenDice(MeanDice):
    """Metric with scores that a test sets."""

    def iteration_completed(self, engine):
        self.cases.append(CaseScores("a", self.now, 1.0))


class Training:
    """Training of a convolution with checkpoints, run epoch by epoch."""

    def __init__(self, folder, resume=False, max_epochs=9):
        torch.manual_seed(0)
        self.network = torch.nn.Conv3d(1, 2, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1, 0.1, 10)
        self.metric = GivenDice(NAMES)
        self.validation = SegmentationEvaluator(
            device=torch.device("cpu"),
            val_data_loader=[None],
            epoch_length=1,
            network=self.network,
            iteration_update=lambda *_: None,
            key_val_metric={"dice": self.metric},
        )
        average = WeightAverage(self.network, None)
        parts = (self.network, self.optimizer, self.schedule, average, self.validation, self.metric)
        self.checkpoints = Checkpoints(str(folder), *parts, {"class_names": NAMES}, resume)
        self.engine = SimpleNamespace(
            state=State(epoch=0, iteration=0, max_epochs=max_epochs),
            data_loader=SimpleNamespace(dataset=SimpleNamespace(data=[{"case": "a"}])),
            has_event_handler=lambda *_: True,
        )
        self.checkpoints._start(self.engine)

    def epoch(self, ref=None, pred=None):
        """Run a step, and validate on a case of four voxels if a reference is given."""
        self.engine.state.epoch += 1
        self.optimizer.zero_grad()
        self.network(torch.ones(1, 1, 1, 1, 1)).sum().backward()
        self.optimizer.step()
        self.schedule.step()
        if ref is not None:
            self.metric.now = score_case(torch.tensor(pred), torch.tensor(ref), 2)
            self.validation.run(self.engine.state.epoch)
        self.checkpoints._save(self.engine)

    @property
    def weights(self):
        return {name: value.clone() for name, value in self.network.state_dict().items()}


def equal(weights, others):
    return all(torch.equal(weights[name], others[name]) for name in weights)


ABSENT, PRESENT = [0, 0, 0, 0], [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("validations", "kept", "reason"),
    [
        ([(ABSENT, ABSENT)] * 3, 2, "no held-out case contains any foreground class"),
        ([(ABSENT, PRESENT)] * 3, 2, "no held-out case contains any foreground class"),  # only false positives
        ([(PRESENT, ABSENT)] * 3, 2, "mean Dice is 0 so far"),
        ([(ABSENT, PRESENT), (ABSENT, ABSENT), (ABSENT, PRESENT)], 2, "no held-out case contains any foreground class"),
        ([(PRESENT, ABSENT), (PRESENT, PRESENT), (PRESENT, ABSENT)], 1, None),
        ([(PRESENT, PRESENT), (PRESENT, PRESENT), (PRESENT, [0, 0, 0, 1])], 0, None),
        ([(PRESENT, [0, 0, 0, 1]), (PRESENT, PRESENT)], 1, None),
    ],
)
def test_model_is_from_the_best_meaningful_validation(tmp_path, caplog, validations, kept, reason):
    training, weights = Training(tmp_path), []
    for ref, pred in validations:
        training.epoch(ref, pred)
        weights.append(training.weights)
    training.epoch()
    assert equal(torch.load(tmp_path / "model.pt", weights_only=True), weights[kept])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["epoch"] == kept + 1
    assert summary.get("model") == (reason and f"weights of the newest validation: {reason}")
    assert reason is None or f"{reason}, so model.pt contains the weights of the newest validation." in caplog.text


@pytest.mark.parametrize(
    ("current", "best", "kept"),
    [
        (0.5, 0.4, True),
        (0.5, 0.5, False),
        (0.4, 0.5, False),
        (0.0, 0.0, True),
        (math.nan, math.nan, True),
        (math.nan, 0.0, True),
        (0.1, math.nan, True),
        (math.nan, 0.1, False),
        (-0.4, -0.5, True),
        (math.nan, -0.5, False),
    ],
)
def test_comparison_of_scores(current, best, kept):
    assert is_better(current, best) is kept


def test_non_finite_weights_are_not_saved(tmp_path):
    training = Training(tmp_path)
    training.epoch(PRESENT, PRESENT)
    before = {name: (tmp_path / name).read_bytes() for name in ("last.pt", "model.pt")}
    with torch.no_grad():
        training.network.bias[1] = math.inf
    with pytest.raises(
        TrainingError, match=r"^after epoch 2, the weights contain NaN or Inf in 2 of 4 tensors \(bias, aver"
    ):
        training.epoch(PRESENT, PRESENT)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_resumed_run_has_the_complete_state(tmp_path):
    first = Training(tmp_path)
    first.epoch(PRESENT, [0, 0, 0, 1])
    first.epoch()
    second = Training(tmp_path, resume=True)
    assert second.engine.state.epoch == 2 and second.validation.state.best_metric_epoch == 1
    for training in (first, second):
        training.epoch(PRESENT, PRESENT)
    assert equal(first.weights, second.weights)
    assert second.schedule.last_epoch == 3


def damaged(state, path, value):
    state = copy.deepcopy(state)
    *keys, last = path
    part = state
    for key in keys:
        part = part[key]
    part[last] = value
    return state


def bomb():
    value = ["x"]
    for _ in range(60):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["epoch"], "3", r"cannot be resumed \(epoch is '3', not a number\)"),
        (["epoch"], -1, r"cannot be resumed \(epoch is -1\)"),
        (["epoch"], True, r"epoch is True"),
        (["best_metric"], None, r"best_metric is None"),
        (["network"], [1], r"network is \[1\], not a dict"),
        (["task"], "liver", r"task is 'liver', not a dict"),
        (["task", "training_cases"], 3, r"was trained with training_cases 3, but training_cases is now \['a'\]"),
        (["task", "class_names"], bomb(), r"was trained with class_names \[\["),
        (["network", "bias"], torch.zeros(3), r" \(network\): does not fit the network: .*bias is \(3,\)"),
        (["average", "bias"], torch.tensor([0, math.nan]), r" \(average\): contains NaN or Inf in 1 of 2"),
        (["average"], {}, r" \(average\): .*layers missing in the file: weight, bias"),
        (["optimizer"], {}, r"its optimizer differs from the configured one \('param_groups' is missing"),
        (["optimizer", "param_groups"], [], r"its optimizer differs from the configured one"),
        (["optimizer", "param_groups", 0, "params"], 3, r"its optimizer differs from the configured one"),
        (["optimizer", "state", 0, "exp_avg"], "x", r"configured one \(exp_avg does not fit the weights\)"),
        (["optimizer", "state", 1, "exp_avg"], torch.zeros(1).expand(10**12), r"exp_avg does not fit the weights"),
        (["optimizer", "state"], 3, r"its optimizer differs from the configured one"),
    ],
)
def test_damaged_checkpoint_error_has_one_line(tmp_path, path, value, message):
    Training(tmp_path).epoch(PRESENT, PRESENT)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save(damaged(state, path, value), tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/last\.pt.*{message}") as error:
        Training(tmp_path, resume=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


def test_epoch_beyond_max_epochs_is_not_replayed(tmp_path):
    Training(tmp_path).epoch(PRESENT, PRESENT)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**state, "epoch": 10**15}, tmp_path / "last.pt")
    assert Training(tmp_path, resume=True, max_epochs=3).schedule.last_epoch == 3


@pytest.mark.parametrize("content", [{}, {"network": {}}, [1], "text", 3.0, None])
def test_other_checkpoints_cannot_be_resumed(tmp_path, content):
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(
        CheckpointError, match=r"last\.pt: (cannot be resumed \(.*missing\)|contains a \w+ instead of a state dict)"
    ):
        Training(tmp_path, resume=True)
