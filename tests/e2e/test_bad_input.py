"""Bad input: one clear line, exit code 1, no traceback, and no model read before it is said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.weights import save_weights


@pytest.fixture(autouse=True)
def no_model_is_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fails the test if weights are read into a network."""
    read: list[str] = []
    monkeypatch.setattr(SamSegmenter, "load", lambda *_: read.append("sam"))
    monkeypatch.setattr(ImageClassifier, "eval", lambda *_: read.append("classifier"))
    return read


def refused(done, message: str, read: list[str]) -> None:
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert line.startswith("gradsam_exp: ")
    assert re.search(message, line), line
    assert "Traceback" not in done.out + done.err
    assert not read
    assert not list(done.folder.glob("[!.]*/*")), "the folder of a run that was refused is not left behind"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pipeline=fgb"], r"pipeline='fgb' is not known; did you mean 'fgbg'\? Known: adaptive, .*, oracle, "),
        (["explainer=gradcm"], r"explainer='gradcm' is not known; did you mean 'gradcam'"),
        (["sam=vit_z"], r"sam='vit_z' is not known; did you mean 'vit_"),
        (["background=mixt"], r"background='mixt' is not known; did you mean 'mixed'"),
        (["task=evalute"], r"task='evalute' is not known; did you mean 'evaluate'"),
        (["piepline=fg"], r"'piepline' is not a configuration key; did you mean 'pipeline'"),
        (["bg_treshold=0.2"], r"'bg_treshold' is not a configuration key; did you mean 'bg_threshold'"),
        (["sam.ttta=2"], r"'sam\.ttta' is not a configuration key; did you mean 'tta'\? Known: checkpoint"),
        (["+bg=1"], r"bg is not a configuration key"),
        (["pipeline.tei=first"], r"pipeline\.tei is not a parameter|'pipeline.tei' is not a configuration key"),
        (["bg_threshold=low"], r"bg_threshold='low': must be a number between 0 and 1, otsu, or a quantile such"),
        (["fg_threshold=quantile:2"], r"fg_threshold='quantile:2': must lie between 0 and 1"),
        (["limit=many"], r"limit: Value 'many'.*Integer"),
        (["pipeline=fgbg", "pipeline.tie=last"], r"pipeline\.tie='last': .*'first', 'median' or 'farthest'"),
        (["fg_threshold=1.2"], r"fg_threshold=1\.2: must lie between 0 and 1"),
        (["bg_threshold=-0.1"], r"bg_threshold=-0\.1: must lie between 0 and 1"),
        (["pipeline=fgbg", "bg_threshold=0.9"], r"bg_threshold=0\.9 must be below fg_threshold=0\.8"),
        (["grid_size=4"], r"grid_size=4: must be odd"),
        (["split=tset"], r"split='tset' is not known; did you mean 'test'"),
        (["limit=0"], r"limit=0: must be at least 1"),
        (["model=null"], r"a group cannot be null: leave it out"),
        (["experiment=strategis"], r"experiment='strategis' is not known; did you mean 'strategies'"),
        (["pipeline=adaptive", "bg_threshold=0.9"], r"bg_threshold=0\.9 must be below fg_threshold=0\.8"),
        (["pipeline.bg_threshold=0.2"], r"of the chosen pipeline; adaptive.* fgbg.* have bg_threshold$"),
        (["pipeline", "=", "fg"], r"'pipeline' is not understood: write key=value without spaces"),
        (["pipeline=[fg,fgbg]"], r"pipeline=\[fg,fgbg\]: a run has one pipeline; to run with each"),
        (["pipeline=fg,fgbg"], r"Ambiguous value .*; to run with each of them add -m"),
        (["store.max_gb=inf"], r"store\.max_gb=inf: input should be a finite number"),
        (["output_root=/dev/null/runs"], r"/dev/null/runs/.*: Not a directory; give output_root=… a folder"),
        (["batch_size=0"], r"batch_size=0: must be positive"),
        (["device=cuda:7"], r"device=cuda:7 cannot be used here"),
        (["data=folder"], r"data\.root has no default: give data\.root="),
        (["data=synthetic_shapes", "data.root=/nowhere/at/all"], r"data\.root=/nowhere/at/all does not exist"),
        (["explainer.target_layers=[layer9.-1]"], r"no layer 'layer9' in ResNet; did you mean 'layer\d'"),
        (["explainer.target_layers=[fc]"], r"layers=fc \(Linear\) gives 5 numbers.*no rows and columns; take"),
        (
            ["explainer.target_layers=layer9.-1"],
            r"='layer9\.-1': there is no layer 'layer9' in.*maps: .*layer2 \(128×28×28\), ",
        ),
        (["explainer.target_layers=null"], r"explainer\.target_layers is null: name at least one layer"),
        (["explainer.target_layers=[]"], r"target_layers is empty: name at least one layer"),
        (
            ["explainer=ablationcam", "explainer.target_layers=[layer1.0.relu]"],
            r"target_layers=layer1\.0\.relu is used 2 times when the network runs.*: take the block",
        ),
        (
            ["explainer=ensemble", "explainer.of=[{name: gradcam, target_layers: fc}]"],
            r"target_layers=fc \(Linear\) gives 5 numbers",
        ),
        (["explainer.combine=median"], r"explainer\.combine='median': input should be 'mean', 'max' or 'product'"),
        (["explainer=rise", "explainer.masks=0"], r"explainer\.masks=0: .*greater than or equal to 1"),
        (["explainer=attention_rollout"], r"needs attention.* resnet18 has not: .*trained with model=vit_b_16"),
        (
            ["refine=affinity"],
            r"refine=affinity needs a transformer whose attention.*resnet18 is none\. Use model=vit_b_16, or",
        ),
        (["model.backbone=swin_t"], r"model\.backbone=swin_t, but model\.checkpoint=.* holds a resnet18"),
        (["model.size=[64,64]"], r"model\.size=\[64, 64\], but model\.checkpoint=.* takes images of any size"),
        (["model.pretrained=true"], r"model\.pretrained=true, but model\.checkpoint=.* has weights of its own"),
        (
            ["model=vit_b_16", "model.checkpoint=shipped:resnet18-shapes"],
            r"model\.backbone=vit_b_16, but model\.checkpoint=shipped:resnet18-shapes holds a resnet18",
        ),
        (
            ["task=train", "model.backbone=vit_b_16"],
            r"not take images of 48×64 px.*: give model\.size=\[224,224\]",
        ),
        (["task=train", "model.backbone=googlenet"], r"backbone=googlenet has auxiliary outputs.*choose another"),
        (["task=train", "model.backbone=resnet81"], r"backbone='resnet81' is not .*; did you mean 'resnet18'"),
        (["task=train", "model.size=224"], r"model\.size=224: .*; give \[height,width\] in pixels, or null"),
        (["explainer.target=both"], r"explainer\.target='both' is not known.*predicted, square"),
        (["model.checkpoint=/nowhere/model.ckpt"], r"model\.checkpoint=/nowhere/model\.ckpt does not exist; give"),
        (["model.checkpoint=shipped:resnet19"], r"no weights named 'resnet19' ship with gradsam_exp"),
        (
            ["sam.checkpoint=/nowhere/sam.safetensors"],
            r"sam\.checkpoint=/nowhere/sam\.safetensors does not exist; give",
        ),
        (["data.min_size=30", "data.max_size=20"], r"data: need 3 <= min_size <= max_size"),
        (["data.difficulty=hard"], r"data\.difficulty='hard': input should be 'standard', 'faint'"),
        (["task=export", "limit=null", "data.difficulty=crowded"], r"task=export writes one shape an image"),
        (["sam.max_queries=0"], r"sam\.max_queries=0: .*greater than or equal to 1"),
        (["logger.mode=sometimes"], r"logger|'logger.mode'"),
    ],
)
def test_refused_in_one_line(run, no_model_is_read, overrides: list[str], message: str):
    refused(run(*overrides), message, no_model_is_read)


def test_bg_threshold_is_not_compared_where_it_is_not_used(run, monkeypatch):
    """fg takes no bg_threshold, so 0.9 is no error there: the run gets as far as reading models."""
    done = run("pipeline=fg", "bg_threshold=0.9", "model.checkpoint=/nowhere.ckpt")
    assert "bg_threshold" not in done.err


def test_a_truncated_picture_is_named(run, no_model_is_read, shape_files: Path):
    path = shape_files / "images/test/00003.png"
    path.write_bytes(path.read_bytes()[:300])
    done = run("data=synthetic_shapes", f"data.root={shape_files}")
    refused(done, r"images/test/00003\.png cannot be read as a picture", no_model_is_read)


def test_a_class_the_classifier_does_not_know_is_named(run, no_model_is_read, shape_files: Path):
    (shape_files / "labels/test/00003.txt").write_text("hexagon\n")
    names = "data.class_names=[circle,square,triangle,star,diamond,hexagon]"
    done = run("data=synthetic_shapes", f"data.root={shape_files}", names)
    refused(done, r"class 'hexagon' is not one the classifier knows", no_model_is_read)


def test_the_oracle_needs_masks(run, no_model_is_read, tmp_path: Path, shape_files: Path):
    for name in ("circle", "star"):
        (tmp_path / "own/images/test" / name).mkdir(parents=True)
    for number, path in enumerate(sorted((shape_files / "images/test").iterdir())):
        path.rename(tmp_path / "own/images/test" / ("circle", "star")[number % 2] / path.name)
    done = run("pipeline=oracle", "data=folder", f"data.root={tmp_path / 'own'}")
    refused(done, r"pipeline=oracle looks at the true masks, but the data set has none", no_model_is_read)


@pytest.mark.parametrize("spoiled", ["truncated", "not ours", "classifier"])
def test_weights_files_that_cannot_be(run, no_model_is_read, tmp_path, random_weights, spoiled: str):
    good = Path(random_weights[1].partition("=")[2])
    path = tmp_path / "bad.safetensors"
    message = {
        "truncated": r"bad\.safetensors is not a whole safetensors file",
        "not ours": r"bad\.safetensors is not a whole safetensors file",
        "classifier": r"holds a 'classifier', not a compact SAM",
    }[spoiled]
    if spoiled == "truncated":
        path.write_bytes(good.read_bytes()[:100_000])
    elif spoiled == "not ours":
        path.write_bytes(b"hello")
    else:
        path = Path(random_weights[0].partition("=")[2])
    refused(run(f"sam.checkpoint={path}"), message, no_model_is_read)


def test_official_checkpoints_that_cannot_be(run, no_model_is_read, tmp_path: Path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 8, 8, 4)}, path)
    refused(run("sam=vit_b", f"sam.checkpoint={path}"), r"is of another architecture: \d+ tensors differ",
            no_model_is_read)  # fmt: skip
    refused(run("sam=vit_b", f"sam.checkpoint={path}", f"sam.sha256={'0' * 64}"), r"fails its check: SHA-256",
            no_model_is_read)  # fmt: skip
    path.write_bytes(path.read_bytes()[:200])
    refused(run("sam=vit_b", f"sam.checkpoint={path}"), r"is not a whole PyTorch state dict", no_model_is_read)


def test_a_lightning_checkpoint_that_cannot_be(run, no_model_is_read, tmp_path: Path):
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"PK\x03\x04 not really")
    refused(run(f"model.checkpoint={path}"), r"model\.ckpt is not a whole Lightning checkpoint", no_model_is_read)
    torch.save({"state_dict": {}}, path)
    refused(run(f"model.checkpoint={path}"), r"does not say which classes it knows", no_model_is_read)


def test_without_network_an_official_model_names_the_mend(run, no_model_is_read, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run("sam=vit_b", "sam.checkpoint=null", "sam.url=http://127.0.0.1:9/sam_vit_b_01ec64.pth")
    *announced, message = done.err.strip().splitlines()
    assert all(line.startswith("Downloading data from") for line in announced)
    refused(
        replace(done, err=message),
        r"could not be downloaded.*sam\.checkpoint=PATH, or use sam=compact",
        no_model_is_read,
    )


@pytest.mark.slow
def test_an_official_checkpoint_is_downloaded_checked_and_used(
    run, no_model_is_read, tmp_path, monkeypatch, served
):
    """The real path with a file of our own making: random vit_b weights, served from localhost."""
    www, url = served
    torch.save(sam_model_registry["vit_b"]().state_dict(), www / "sam_vit_b_01ec64.pth")
    done = run("sam=vit_b", "sam.checkpoint=null", f"sam.url={url}/sam_vit_b_01ec64.pth")
    refused(replace(done, err=done.err.strip().splitlines()[-1]), "could not be downloaded", no_model_is_read)
    assert not list((tmp_path / "cache").rglob("*.pth")), "a file that fails its digest does not stay"


def test_a_state_dict_that_runs_code_is_not_run(run, no_model_is_read, tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "evil.pth"
    torch.save({"x": Evil()}, path)
    refused(run("sam=vit_b", f"sam.checkpoint={path}"), r"is not a whole PyTorch state dict", no_model_is_read)
    assert not (tmp_path / "ran").exists()


def test_shipped_weights_are_checked(monkeypatch, tmp_path: Path):
    import json

    from gradsam_exp import weights
    from gradsam_exp.errors import InputError

    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    save_weights(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "compact"})
    (tmp_path / "index.json").write_text(json.dumps({"x": {"file": "x.safetensors", "sha256": "1" * 64}}))
    with pytest.raises(InputError, match="fails its check"):
        weights.shipped("x")
