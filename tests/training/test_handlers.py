import functools
import logging
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader

from segbundle.datasets.datalist import labeled_data
from segbundle.errors import ConfigError, DataError, root_error
from segbundle.training import training_log
from segbundle.training.caching import CachedCases, PreparedCases
from segbundle.training.handlers import EarlyStopping, FinalValidation, SeedEpochs
from segbundle.training.patch_loading import patch_loader
from segbundle.transforms import PrepareCase, training_transforms
from tiny import TINY_CLASSES, write_nifti


def cached(dataset_dir):
    transform = training_transforms(TINY_CLASSES, (12, 12, 12), {"method": "zscore"})
    return CachedCases(labeled_data(dataset_dir, TINY_CLASSES), transform, copy_cache=False)


def monai_loader(dataset_dir, seed, num_workers=0):
    return DataLoader(cached(dataset_dir), batch_size=4, shuffle=True, num_workers=num_workers)


def patches(dataset_dir, seed):
    transform = PrepareCase(TINY_CLASSES, (12, 12, 12), {"method": "zscore"})
    return patch_loader(PreparedCases(labeled_data(dataset_dir, TINY_CLASSES), transform), (12, 12, 12), 4, seed=seed)


LOADERS = {
    "PatchLoader": patches,
    "MONAI": monai_loader,
    "MONAI with workers": functools.partial(monai_loader, num_workers=2),
}


def batches_of_epochs(loader, epochs, start=0, seed=0):
    """Return the images of each epoch, starting after epoch `start` as in a resumed training."""
    seen = {}
    engine = Engine(lambda engine, batch: seen.setdefault(engine.state.epoch, []).append(batch["image"]))
    SeedEpochs(seed, loader).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "epoch", start))
    engine.run(loader, max_epochs=epochs)
    return {epoch: torch.cat(images) for epoch, images in seen.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_epoch_depends_only_on_seed_and_number(tiny_dataset, name):
    make = LOADERS[name]
    whole = batches_of_epochs(make(tiny_dataset, 0), 3)
    resumed = batches_of_epochs(make(tiny_dataset, 0), 3, start=1)
    assert list(resumed) == [2, 3]
    assert all(torch.equal(resumed[epoch], whole[epoch]) for epoch in (2, 3))
    assert not torch.equal(whole[1], whole[2])
    assert not torch.equal(batches_of_epochs(make(tiny_dataset, 1), 1, seed=1)[1], whole[1])


def test_trainer_gets_the_batches_of_its_epoch(tiny_dataset):
    loader = patches(tiny_dataset, 0)
    seen = batches_of_epochs(loader, 2)
    for epoch in (1, 2):
        assert torch.equal(seen[epoch], torch.cat([loader.batch(epoch, step)["image"] for step in range(len(loader))]))


def test_augmentation_settings_are_validated(tiny_dataset):
    with pytest.raises(ConfigError, match="'rotation'"):
        patch_loader([], (8, 8, 8), 2, {"rotations": 3})
    with pytest.raises(ConfigError, match="augmentation: scaling"):
        patch_loader([], (8, 8, 8), 2, {"scaling": 3})


def test_caching_error_names_the_invalid_case(tiny_dataset):
    write_nifti(tiny_dataset / "imagesTr" / "case_04.nii.gz", torch.full((20, 18, 16), torch.nan).numpy())
    with pytest.raises(RuntimeError) as error:
        cached(tiny_dataset)
    assert isinstance(root_error(error.value), DataError)
    assert "case_04.nii.gz: contains 5760 NaN" in str(root_error(error.value))


@pytest.mark.parametrize(("epochs", "interval", "expected"), [(10, 5, []), (11, 5, [11]), (3, 5, [3])])
def test_last_epoch_is_always_validated(epochs, interval, expected):
    validated = []
    validator = SimpleNamespace(run=validated.append)
    engine = Engine(lambda engine, batch: None)
    FinalValidation(validator, interval).attach(engine)
    engine.run([0], max_epochs=epochs)
    assert validated == expected


@pytest.mark.parametrize(("patience", "last"), [(None, 9), (3, 5), (4, 5), (5, 7), (100, 9)])
def test_early_stopping(patience, last):
    validator = SimpleNamespace(state=SimpleNamespace(epoch=0, best_metric_epoch=-1))
    engine = Engine(lambda engine, batch: None)

    def validate(engine):
        if engine.state.epoch % 2:  # in epochs 1, 3, 5, ...; the first is the best
            validator.state.epoch = engine.state.epoch
            validator.state.best_metric_epoch = 1

    seen = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
    EarlyStopping(validator, patience).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(engine.state.epoch))  # saving is last
    engine.run([0], max_epochs=9)
    assert seen[-1] == last


def test_remaining_time_is_logged_once(tmp_path, monkeypatch, caplog):
    clock = iter(range(0, 1000, 6))  # seconds: at the start and after every epoch
    monkeypatch.setattr(training_log.time, "monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO)
    evaluator = Engine(lambda engine, batch: None)
    evaluator.data_loader = SimpleNamespace(dataset=[])
    engine = Engine(lambda engine, batch: {"loss": torch.zeros(())})
    engine.data_loader, engine.state.device, engine.state.gradient_norm = evaluator.data_loader, "cpu", torch.zeros(())
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    training_log.TrainingLog(str(tmp_path), optimizer, evaluator, None).attach(engine)
    engine.run([0], max_epochs=32)
    logged = [record.getMessage() for record in caplog.records if "per epoch" in record.getMessage()]
    assert logged == ["6.0 s per epoch: about 3 min for the remaining 30 epochs"]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([1.0] * 17 + [9e-4] * 3, ["epoch 20: the learning rate is 0.0009, so the network hardly learns; lr"]),
        ([1.0] * 9 + [9e-4] * 5 + [0.0] * 6, [
            "epoch 12: the learning rate is 0.0009, so the network hardly learns; lr",
            "epoch 15: the learning rate is 0, so the network does not learn; lr",
        ]),
        ([1.0] * 18 + [9e-4] * 2, []),  # 10% of 20 epochs
        ([9e-4] * 2 + [1.0] * 16 + [9e-4] * 2, []),  # warm-up
        ([1.0] * 10 + [1.1e-3] * 10, []),
    ],
)  # fmt: skip
def test_learning_rate_near_0_warns(tmp_path, caplog, rates, expected):
    evaluator = Engine(lambda engine, batch: None)
    evaluator.data_loader = SimpleNamespace(dataset=[])
    engine = Engine(lambda engine, batch: {"loss": torch.zeros(())})
    engine.data_loader, engine.state.device, engine.state.gradient_norm = evaluator.data_loader, "cpu", torch.zeros(())
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0  # set by schedules

    @engine.on(Events.EPOCH_STARTED)
    def follow_schedule():
        optimizer.param_groups[0]["lr"] = rates[engine.state.epoch - 1]

    training_log.TrainingLog(str(tmp_path), optimizer, evaluator, None).attach(engine)
    engine.run([0], max_epochs=20)
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(logged) == len(expected)
    assert all(message.startswith(start) for message, start in zip(logged, expected, strict=True))
