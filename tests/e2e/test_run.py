"""One run, from the command to what it leaves behind."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco

from gradsam_exp.data.backgrounds import Mixed, MixedMore
from gradsam_exp.data.shapes import Crowded, Shapes
from tests.faults.counts import only_soaking


def metrics_of(finished) -> dict:
    (folder,) = finished.runs
    return json.loads((folder / "metrics.json").read_text())


def test_a_run_leaves_everything_behind(run):
    done = run("pipeline=fgbg", "bg_threshold=0.2", "task.figures=auto")
    assert done.code == 0, done.err
    (folder,) = done.runs
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        ".hydra/config.yaml", "metrics.json", "per_image.parquet", "predictions.parquet", "provenance.json",
        "run.log", "figures/figure1.png", "figures/figure1.pdf", "figures/worst.png", "figures/scores.png",
    } <= left  # fmt: skip
    assert not [name for name in left if name.endswith(".partial")]
    for word in ("fg hit rate", "bg hit rate", "distance px", "mIoU", "95 % interval", "encode"):
        assert word in done.out


def test_metrics_are_the_per_image_tables_means(run):
    done = run("pipeline=fgbg", "task.faithfulness=true")
    (folder,) = done.runs
    table = pd.read_parquet(folder / "per_image.parquet")
    metrics = metrics_of(done)["metrics"]
    assert len(table) == 8
    assert metrics["miou"]["n"] == 8
    same = ("fg_hit_rate", "distance_px", "deletion_auc", "insertion_auc", "road")
    for name, column in (("miou", "iou"), *zip(same, same, strict=True)):
        assert metrics[name]["mean"] == pytest.approx(table[column].mean())
        low, high = metrics[name]["ci95"]
        assert low <= metrics[name]["mean"] <= high
    assert metrics["accuracy"]["mean"] == (table["class_name"] == table["predicted_class"]).mean()


def test_predictions_can_be_scored_again_without_the_run(run):
    done = run("pipeline=fgbg")
    (folder,) = done.runs
    table = pd.read_parquet(folder / "per_image.parquet").set_index("image_id")
    shapes = Shapes("test", Mixed("test"))
    for row in pd.read_parquet(folder / "predictions.parquet").itertuples():
        mask = coco.decode({"size": [row.height, row.width], "counts": row.mask_rle.encode()}).astype(bool)
        truth = shapes[int(row.image_id.rsplit("-", 1)[1])].examples[0].mask.numpy()
        iou = (mask & truth).sum() / (mask | truth).sum()
        assert iou == pytest.approx(table.loc[row.image_id, "iou"])
        (query,) = json.loads(row.prompts)
        labels = np.array(query["labels"])
        assert (labels == 1).sum() == table.loc[row.image_id, "fg_points"] == 9
        assert (labels == 0).sum() == table.loc[row.image_id, "bg_points"] == 4


def test_the_table_names_the_photograph_behind_every_example(run):
    (folder,) = run("data.difficulty=crowded", "background=mixed_more", "explainer.target=label", "limit=3").runs
    table = pd.read_parquet(folder / "per_image.parquet")
    data = Crowded("test", MixedMore("test"), **Crowded.sizes)
    samples = [data[index] for index in range(3)]
    expected = {s.example_id(one): s.group or s.image_id for s in samples for one in s.examples}
    assert dict(zip(table["example_id"], table["group"], strict=True)) == expected


def test_a_run_says_if_its_intervals_hold_for_a_few_photographs(run):
    done = run("pipeline=center", "background=mixed", "limit=32")
    note = json.loads((done.runs[0] / "metrics.json").read_text())["note"]
    assert "of the 32 images are on only 2 photographs: intervals and p are over images and hold for these" in note
    assert f"note: {note}" in done.out
    done = run("pipeline=center", "background=noise", "limit=16")
    assert "intervals and p are" not in done.out
    assert "note" not in json.loads((done.runs[-1] / "metrics.json").read_text())


@pytest.mark.parametrize("size", [pytest.param(1, marks=only_soaking), 5])
def test_results_depend_on_the_batch_size_by_rounding_only(run, size: int):
    """Where nothing between layer and score has a kink.

    A gradient that comes through a ReLU jumps where rounding moves the ReLU's input across zero: of these eight
    images and this untrained network, the sixth has such an input, and its Grad-CAM of layer2 moves by 0.3 %.
    From layer4 on there is only the mean and a linear layer.
    """
    smooth = ["pipeline=fg", "store.enabled=false", "explainer.target_layers=[layer4.-1]"]
    one, other = (run(f"batch_size={n}", *smooth) for n in (8, size))
    assert one.code == other.code == 0
    first, second = (pd.read_parquet(folder / "per_image.parquet") for folder in other.runs)
    pd.testing.assert_frame_equal(first, second, rtol=1e-5, atol=1e-5)
    assert (first["iou"] == second["iou"]).all()


def test_the_same_command_gives_the_same_bytes(run):
    run("pipeline=fgbg", "seed=3")
    first, second = run("pipeline=fgbg", "seed=3").runs
    for name in ("metrics.json", "per_image.parquet", "predictions.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.slow
def test_identity_follows_what_the_results_depend_on(run):
    identities = []
    for overrides in (["pipeline=fg"], ["pipeline=fg", "bg_threshold=0.3"], ["pipeline=fg", "fg_threshold=0.7"],
                      ["pipeline=fg", "batch_size=3"], ["pipeline=fg", "data.seed=1"],
                      ["grid_size=1", "grid_offset=1"], ["grid_size=1", "grid_offset=2"]):  # fmt: skip
        done = run(*overrides)
        identities.append(json.loads((done.runs[-1] / "metrics.json").read_text())["identity"])
    plain, other_bg, other_fg, other_batch, other_data, *single = identities
    assert plain == other_bg == other_batch, "fg does not depend on bg_threshold, nor anything on the batch size"
    assert single[0] == single[1], "a single point has no neighbours"
    assert len({plain, other_fg, other_data, single[0]}) == 4


def test_the_oracle_is_stamped_as_an_upper_bound(run):
    done = run("pipeline=oracle")
    assert metrics_of(done)["upper_bound"] is True
    assert metrics_of(done)["metrics"]["distance_px"]["mean"] == pytest.approx(0, abs=1e-6)
    assert "upper bound" in done.out


def test_a_run_on_files_is_the_run_on_the_drawn_images(run, tmp_path):
    drawn = run("pipeline=fg")
    exported = run("task=export", f"task.to={tmp_path / 'files'}", "task.splits=[test]", "limit=null",
                   "data.lengths.test=8")  # fmt: skip
    assert exported.code == 0, exported.err
    read = run("pipeline=fg", "data=synthetic_shapes", f"data.root={tmp_path / 'files'}")
    assert read.code == 0, read.err
    first, second = drawn.runs[0], read.runs[-1]
    columns = ["iou", "fg_hit_rate", "distance_px", "predicted_class"]
    pd.testing.assert_frame_equal(
        pd.read_parquet(first / "per_image.parquet")[columns],
        pd.read_parquet(second / "per_image.parquet")[columns],
    )


def test_explaining_the_true_class(run):
    predicted, true = run("explainer.target=predicted"), run("explainer.target=label")
    assert predicted.code == true.code == 0
    tables = [pd.read_parquet(folder / "per_image.parquet") for folder in true.runs]
    wrong = ~tables[0]["correct"].astype(bool)
    assert wrong.any()
    assert not tables[0]["distance_px"].equals(tables[1]["distance_px"])


def test_provenance_says_where_it_comes_from(run):
    done = run()
    (folder,) = done.runs
    facts = json.loads((folder / "provenance.json").read_text())
    assert {"created", "command", "git", "versions", "device", "seeds", "digests", "seconds"} <= facts.keys()
    assert {"data", "classifier", "sam", "config"} <= facts["digests"].keys()
    assert facts["backbone"] == "resnet18"
    assert {"check", "explain", "encode", "segment", "score", "data"} == facts["seconds"].keys()


def test_every_stage_can_be_exchanged(run):
    done = run("explainer=ensemble", "explainer.augment=mirror", "refine=guided", "pipeline=adaptive",
               "selector=hybrid")  # fmt: skip
    assert done.code == 0, done.err
    plain = run("pipeline=adaptive", "selector=hybrid")
    first, second = (pd.read_parquet(folder / "per_image.parquet") for folder in (done.runs[0], plain.runs[-1]))
    assert not np.allclose(first["energy_in_mask"], second["energy_in_mask"])
    assert json.loads((done.runs[0] / "metrics.json").read_text())["metrics"]["sparsity"]["n"] > 0


def test_an_explainer_that_does_not_fit_the_network_is_refused_in_one_line(run):
    done = run("explainer=attention_rollout")
    assert done.code == 1
    assert done.err.startswith("gradsam_exp: this explainer needs attention")
    assert "which resnet18 has not: use it with a classifier that was trained with model=vit_b_16" in done.err


def test_a_second_run_reads_what_the_first_prepared(run, monkeypatch: pytest.MonkeyPatch):
    from gradsam_exp.classifiers.checkpoints import ClassifierFile
    from gradsam_exp.segmenters.sam import SamSegmenter

    first = metrics_of(run("pipeline=fg", "refine=guided"))

    def never(*_: object) -> None:
        raise AssertionError("everything is stored")

    monkeypatch.setattr(ClassifierFile, "load", never)
    monkeypatch.setattr(SamSegmenter, "encode", never)
    monkeypatch.setattr("gradsam_exp.segmenters.checkpoints.load_encoder", never)
    monkeypatch.setattr("gradsam_exp.refiners.edges.Guided.refine", never)
    again = run("pipeline=fg", "refine=guided")
    assert again.code == 0, again.err
    assert {json.loads((folder / "metrics.json").read_text())["identity"] for folder in again.runs} == {
        first["identity"]
    }
    assert len({(folder / "metrics.json").read_bytes() for folder in again.runs}) == 1
    assert len({(folder / "per_image.parquet").read_bytes() for folder in again.runs}) == 1
    with pytest.raises(AssertionError, match="everything is stored"):
        run("pipeline=fg", "refine=guided", "explainer.target_layers=[layer3.-1]")


def test_the_store_changes_no_result(run):
    run("pipeline=fgbg", "store.enabled=false")
    assert not list(run("pipeline=fgbg", "store.enabled=false").folder.rglob("*.safetensors"))
    run("pipeline=fgbg")
    done = run("pipeline=fgbg")
    assert done.code == 0, done.err
    assert list(done.folder.rglob("*.safetensors"))
    assert len(done.runs) == 4
    assert len({(folder / "per_image.parquet").read_bytes() for folder in done.runs}) == 1


def test_a_figure_that_cannot_be_drawn_costs_no_run(run, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gradsam_exp.tasks.evaluate.figure1", broken)
    done = run("task.figures=true", "task.worst=0")
    assert done.code == 0, done.err
    assert metrics_of(done)["status"] == "finished"
    said = "figure1.png was not drawn (ZeroDivisionError: a bug); all else is whole"
    assert done.err.strip() == f"gradsam_exp: {said}"
    assert (done.runs[0] / "figures" / "scores.png").is_file(), "the others are drawn"
