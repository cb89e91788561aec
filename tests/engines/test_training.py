from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader

from segbundle.data import labelled_data
from segbundle.engines import CachedCases, FinalValidation, SeedEpochs
from segbundle.errors import DataError, root_error
from segbundle.transforms import training_transforms
from tiny import TINY_CLASSES, write_nifti


def cached(dataset_dir):
    transform = training_transforms(TINY_CLASSES, (12, 12, 12), {"method": "zscore"})
    return CachedCases(labelled_data(dataset_dir, TINY_CLASSES), transform, copy_cache=False)


def batches_of_epochs(dataset, epochs, num_workers, start=0, seed=0):
    """What a trainer sees in each epoch, from `start` on as after resuming."""
    seen = {}
    engine = Engine(lambda engine, batch: seen.setdefault(engine.state.epoch, []).append(batch["image"]))
    SeedEpochs(seed, dataset.transform).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "epoch", start))
    engine.run(DataLoader(dataset, batch_size=4, shuffle=True, num_workers=num_workers), max_epochs=epochs)
    return {epoch: torch.cat(images) for epoch, images in seen.items()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_depends_on_seed_and_number_only(tiny_dataset, num_workers):
    dataset = cached(tiny_dataset)
    whole = batches_of_epochs(dataset, 3, num_workers)
    resumed = batches_of_epochs(dataset, 3, num_workers, start=1)
    assert list(resumed) == [2, 3]
    assert all(torch.equal(resumed[epoch], whole[epoch]) for epoch in (2, 3))
    assert not torch.equal(whole[1], whole[2])
    assert not torch.equal(batches_of_epochs(dataset, 1, num_workers, seed=1)[1], whole[1])


def test_caching_stops_at_a_bad_case_with_its_name(tiny_dataset):
    write_nifti(tiny_dataset / "imagesTr" / "case_04.nii.gz", torch.full((20, 18, 16), torch.nan).numpy())
    with pytest.raises(RuntimeError) as error:
        cached(tiny_dataset)
    assert isinstance(root_error(error.value), DataError)
    assert "case_04.nii.gz: holds 5760 NaN" in str(root_error(error.value))


@pytest.mark.parametrize(("epochs", "interval", "expected"), [(10, 5, []), (11, 5, [11]), (3, 5, [3])])
def test_the_last_epoch_is_validated_if_the_interval_leaves_it_out(epochs, interval, expected):
    validated = []
    validator = SimpleNamespace(run=validated.append)
    engine = Engine(lambda engine, batch: None)
    FinalValidation(validator, interval).attach(engine)
    engine.run([0], max_epochs=epochs)
    assert validated == expected
