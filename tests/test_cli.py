import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import kmeans_module
from kmeans_module import KMeansLayer, LitKMeans
from kmeans_module.__main__ import main as start
from kmeans_module.backends.native import library
from kmeans_module.cli import main
from kmeans_module.core.metrics import METRICS
from tests.conftest import blobs
from tests.end_to_end.helpers import ROOT, environment, run_script

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:The dirpath has changed",
)
QUIET = (
    "--trainer.enable_progress_bar=false",
    "--run_folder.summary=false",
    "--figures.projector=false",
    "--figures.every_n_iterations=1000",
)
SMALL = ("--trainer.max_epochs=2", "--data.samples_per_cluster=30")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_folder(version=0, name="blobs"):
    return Path("runs") / name / f"version_{version}"


def refused(capsys, *args):
    """(exit status, the one line on standard error)."""
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("kmeans: ")]
    assert len(lines) == 1, captured.err
    assert captured.err.rstrip().endswith(lines[0])
    assert "Traceback" not in captured.err
    return stopped.value.code, lines[0]


def printed_config(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        main([*args, "--print_config"])
    assert stopped.value.code in (0, None)
    return capsys.readouterr().out


COMMAND_LINE = {
    ("--trainer.max_epochs=3",): (
        "a subcommand is missing, one of fit, validate, test, predict: --trainer.max_epochs=3"
    ),
    ("--n_clusters", "3"): "a subcommand is missing, one of fit, validate, test, predict: --n_cl",
    ("fit", "--figures.every_n_iterations="): "figures.every_n_iterations cannot be ''",
    ("fit", "--data.samples_per_cluster="): "samples_per_cluster cannot be ''",
    ("fit", "--model.n_clusters="): "model.n_clusters\": Expected a int. Got value: ''",
    ("fit", "--data.init_args=5"): "data.init_args cannot be '5'",
    (
        "fit",
        "--model.n_cluster=3",
    ): "--model.n_cluster=3; did you mean --model.n_clusters?",
    ("fit", "--model.n_clusters=six"): 'model.n_clusters": Expected a int. Got value: six',
    ("fit", "--trainer.max_epoch=3"): "unrecognized arguments: --trainer.max_epoch=3",
    ("fit", "--trainer.max_epochs=many"): "trainer.max_epochs cannot be 'many'",
    ("fit", "--data=Blobs"): "data cannot be 'Blobs'; it is one of BlobDataModule, ArrayDataModule",
    ("fit", "--data=LitKMeans"): "data cannot be 'LitKMeans'; it is one of",
    ("fit", "--data.centers=3"): "'centers' is not accepted",
    ("fit", "--data=ArrayDataModule"): "required: path",
    ("fit", "--trainer.logger=NoLogger"): "trainer.logger cannot be 'NoLogger'",
    ("fit", "--trainer.precision=8"): "trainer.precision cannot be '8'",
    ("fit", "--config=missing.yaml"): "missing.yaml",
    ("fit", "--config=key.yaml"): "model.n_cluster",
    ("fit", "--config=broken.yaml"): "broken.yaml: not a YAML file",
    ("fot",): "invalid choice: 'fot'",
    ("fit", "extra"): "unrecognized arguments: extra; fit reads a file of .npy, ",
    ("fit", "--k", "5"): "unrecognized arguments: --k 5; did you mean --model.n_clusters?",
    ("fit", "--n_clusters=5"): "did you mean --model.n_clusters?",
    ("fit", "--trainer.max_epoch", "5"): "did you mean --trainer.max_epochs?",
    ("fit", "x.txt"): "unrecognized arguments: x.txt; fit reads a file of .npy, ",
    ("fit", "--model.n_clusters=3", "t.csv"): "t.csv; the file comes first: fit t.csv",
    ("fit", "t.csv", "u.csv"): "u.csv; fit takes one file, or one folder",
    ("validate", "t.csv"): "t.csv; data are named by --data t.csv",
    ("t.csv",): " fit t.csv?",
    ("fit", "--data.standardize"): "argument --data.standardize: expected one argument",
    ("fit", "t.csv", "--data.standardise=true"): "did you mean data.standardize?",
    ("fit", "-c", "key.yaml"): "'model.n_cluster'; did you mean model.n_clusters?",
}


@pytest.mark.parametrize("args", COMMAND_LINE, ids=" ".join)
def test_a_wrong_command_line_gives_one_line(args, capsys):
    Path("key.yaml").write_text("model:\n  n_cluster: 3\n")
    Path("broken.yaml").write_text("model: [1, 2\n")
    status, line = refused(capsys, *args)
    assert status == 2
    assert COMMAND_LINE[args] in line
    assert not Path("runs").exists()


VALUES = {
    ("--model.metric=l1",): f"metric should be one of {', '.join(METRICS)}; got 'l1'",
    ("--model.algorithm=em",): "algorithm should be one of lloyd, minibatch; got 'em'",
    ("--model.empty_cluster=no",): "empty_cluster should be one of relocate, split, keep, error",
    ("--model.init=kmeans",): "init should be one of k-means++, k-means||, random, or the path",
    ("--model.tol=-1",): "tol should be from 0 to inf; got -1.0",
    ("--model.seed=-1",): "seed should be >= 0; got -1",
    ("--model.n_clusters=0",): "n_clusters should be >= 1; got 0",
    ("--model.n_clusters=1501",): "n_samples=1500 should be >= n_clusters=1501",
    ("--data.variance=-1",): "kmeans: variance should be from 0 to inf; got -1.0",
    ("--data.batch_size=0",): "kmeans: batch_size should be >= 1; got 0",
    ("--data.samples_per_cluster=[1,2]",): "kmeans: samples_per_cluster should be one number or",
    ("--figures.every_n_iterations=0",): "every_n_iterations should be >= 1; got 0",
    ("--checkpoints.every_n_iterations=0",): "every_n_iterations should be >= 1; got 0",
    ("--checkpoints.save_top_k=-2",): "save_top_k should be >= -1; got -2",
    ("--trainer.accelerator=abacus",): "accelerator='abacus'",
    ("--trainer.devices=0",): "devices='0'",
    ("--trainer.devices=-3",): "should be an int > 0",
    ("--trainer.strategy=no",): "strategy='no'",
    ("--data=ArrayDataModule", "--data.path=no.npy"): "no.npy: no such file",
    ("--data=ArrayDataModule", "--data.path=short.npy"): "short.npy: ",
    ("--data=ArrayDataModule", "--data.path=objects.npy"): "objects.npy: ",
    ("--data=ArrayDataModule", "--data.path=key.yaml"): "key.yaml: unknown suffix",
    ("--data=ArrayDataModule", "--data.path=nan.npy"): "1 row holds NaN or infinity, .* row 7",
    ("--data=ImageDataModule", "--data.path=short.npy"): "short.npy: not a readable image",
    ("--ckpt_path=missing.ckpt",): "missing.ckpt",
    ("--ckpt_path=short.npy",): "short.npy: not a checkpoint of LitKMeans",
    ("--ckpt_path=foreign.ckpt",): "foreign.ckpt: not a checkpoint of LitKMeans",
    ("--trainer.logger.save_dir=key.yaml",): "Not a directory: .*key.yaml",
    ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=key.yaml/x"): "Not a directory",
    ("--trainer.logger=false", "--trainer.default_root_dir=key.yaml/x"): "Not a directory",
    ("--model.n_features=3",): "x should have shape (n_samples, 3); got (1500, 2)",
}


@pytest.mark.parametrize("args", VALUES, ids=" ".join)
def test_bad_values_and_files_give_one_line(args, capsys):
    Path("key.yaml").write_text("model: 3\n")
    Path("short.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00")
    np.save("objects.npy", np.array([{}, []], dtype=object))
    x = blobs(50, 3)
    x[7, 1] = torch.nan
    np.save("nan.npy", x.numpy())
    torch.save({"state_dict": {}}, "foreign.ckpt")
    status, line = refused(capsys, "fit", *QUIET, *args)
    assert status == 1
    expected = VALUES[args]
    assert expected in line or re.search(expected, line), line


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_without_a_checkpoint_there_is_nothing_to_apply(command, capsys):
    args = [arg for arg in QUIET if "figures" not in arg]
    status, line = refused(capsys, command, *args)
    assert (status, "ckpt_path should be a checkpoint of a fit" in line) == (1, True)
    assert not Path("runs").exists()


CONFIGS = {
    "broken.yaml": ("model: [1, 2\n", "broken.yaml: not a YAML file (while parsing a flow"),
    "bytes.yaml": (b"\xff\xfe\x00", "bytes.yaml: not a text file of UTF-8"),
    "key.yaml": ("nope: 3\n", "key.yaml: Subcommand 'fit' does not accept option 'nope'"),
    "type.yaml": ("model:\n  n_clusters: six\n", 'type.yaml: "model.n_clusters": Expected'),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("flags", [["--config={}"], ["--config", "{}"], ["-c", "{}"]])
def test_a_configuration_file_that_is_none_is_named(name, flags, capsys):
    content, expected = CONFIGS[name]
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    status, line = refused(capsys, "fit", *(flag.format(name) for flag in flags))
    assert (status, line.startswith(f"kmeans: {expected}")) == (2, True), line


def test_a_run_leaves_its_folder():
    main(["fit", *QUIET, *SMALL])
    names = {str(path.relative_to(run_folder())) for path in run_folder().rglob("*")}
    assert names >= {
        "config.yaml",
        "centroids.safetensors",
        "labels.npy",
        "clusters.png",
        "animation.html",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    }
    assert sum("tfevents" in name for name in names) == 1
    assert not [name for name in names if name.endswith(".tmp") or "writable" in name]


def test_the_four_commands_work_on_one_checkpoint(capsys):
    main(["fit", *QUIET, *SMALL])
    path = run_folder() / "checkpoints" / "last.ckpt"
    rows = ("--data.samples_per_cluster=30", f"--ckpt_path={path}")
    capsys.readouterr()
    for stage, command in (("val", "validate"), ("test", "test")):
        main([command, *QUIET[:2], *rows])
        shown = capsys.readouterr().out
        for name in ("inertia", "adjusted_rand", "normalized_mutual_info"):
            assert f"{stage}/{name}" in shown
    main(["predict", *QUIET[:2], *rows, "--trainer.logger=false", "--trainer.default_root_dir=p"])
    fitted = np.load(run_folder() / "labels.npy")
    np.testing.assert_array_equal(np.load("p/labels.npy"), fitted)
    assert len(fitted) == 180


def test_a_folder_of_features_becomes_a_file_of_codes_for_each(capsys):
    sizes = {"one/b.npy": 40, "one/a.npy": 70, "two/a.npy": 55}
    for name, n in sizes.items():
        (Path("features") / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(Path("features") / name, blobs(n, 4, seed=n).numpy())
    config = (
        "--config",
        str(ROOT / "configs" / "features.yaml"),
        "--model.n_clusters=9",
        "--data.init_args.path=features",
        "--data.init_args.batch_size=64",
    )
    main(["fit", *config, *QUIET])
    fitted = run_folder(name="features")
    main(
        [
            "predict",
            *config,
            QUIET[0],
            "--trainer.logger=false",
            "--trainer.default_root_dir=p",
            f"--ckpt_path={fitted}/checkpoints/last.ckpt",
        ]
    )
    assert "labels of 165 rows in p/codes" in " ".join(capsys.readouterr().out.split())
    layer = KMeansLayer.from_file(fitted / "centroids.safetensors")
    for folder in (fitted, Path("p")):
        assert len(np.load(folder / "labels.npy")) == 165
        names = [str(path.relative_to(folder / "codes")) for path in folder.rglob("codes/*/*")]
        assert sorted(names) == sorted(sizes)
        for name in sizes:
            codes = np.load(folder / "codes" / name)
            assert codes.dtype == np.int64
            x = torch.from_numpy(np.load(Path("features") / name))
            np.testing.assert_array_equal(codes, layer(x))


def test_config_yaml_reproduces_the_run():
    main(["fit", *QUIET, *SMALL, "--model.n_clusters=9", "--model.init=random", "--data.seed=5"])
    main(["fit", f"--config={run_folder() / 'config.yaml'}"])
    first, second = run_folder(0), run_folder(1)
    for name in ("labels.npy", "centroids.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    first, second = ((folder / "config.yaml").read_text() for folder in (first, second))
    assert yaml.safe_load(first) == yaml.safe_load(second)


def test_the_printed_config_is_a_config(capsys):
    args = ["fit", "--model.n_clusters=9", "--data.variance=7", "--trainer.max_epochs=3"]
    printed = printed_config(capsys, *args)
    config = yaml.safe_load(printed)
    assert config["model"]["n_clusters"] == 9
    assert config["data"]["init_args"]["variance"] == 7
    assert config["trainer"]["max_epochs"] == 3
    Path("printed.yaml").write_text(printed)
    assert yaml.safe_load(printed_config(capsys, "fit", "--config=printed.yaml")) == config


def test_flags_win_over_the_config(capsys):
    Path("flags.yaml").write_text("model:\n  n_clusters: 4\n  tol: 0.5\n")
    args = ["fit", "--config=flags.yaml", "--model.n_clusters=5"]
    config = yaml.safe_load(printed_config(capsys, *args))
    assert (config["model"]["n_clusters"], config["model"]["tol"]) == (5, 0.5)


def test_the_features_of_the_model_are_those_of_the_data():
    np.save("x.npy", blobs(60, 5).numpy())
    main(["fit", *QUIET, "--data=ArrayDataModule", "--data.path=x.npy", "--trainer.max_epochs=1"])
    layer = KMeansLayer.from_file(run_folder() / "centroids.safetensors")
    assert layer.centroids.shape == (6, 5)


def test_checkpoints_and_logger_can_be_switched_off(tmp_path):
    off = ("--trainer.enable_checkpointing=false", "--trainer.logger=false")
    main(["fit", *QUIET, *SMALL, *off, "--trainer.default_root_dir=out"])
    assert (tmp_path / "out" / "labels.npy").exists()
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("*tfevents*"))


def test_init_from_the_result_of_another_run():
    main(["fit", *QUIET, "--data.samples_per_cluster=30"])
    init = run_folder() / "centroids.safetensors"
    main(["fit", *QUIET, "--data.samples_per_cluster=30", f"--model.init={init}"])
    lit = LitKMeans.load_from_checkpoint(
        run_folder(1) / "checkpoints" / "last.ckpt", weights_only=True
    )
    assert lit.converged
    assert int(lit.kmeans.n_iter) == 1


def test_nothing_is_seeded():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    main(["fit", *QUIET, *SMALL])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("option", ["-h", "--help", "help"])
def test_the_help_is_a_screen(option, capsys):
    main([option])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 24
    for word in ("fit", "predict RUN DATA", "validate", "test", "fit --help", "--print_config"):
        assert word in shown, word
    assert len(re.findall(r"^  .* fit \w+\.\w+ --", shown, flags=re.MULTILINE)) >= 2


def test_the_help_of_a_command_has_all_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for word in (
        "--model.n_clusters",
        "--model.n_init",
        "number of centroids, k",
        "--data",
        "--trainer.max_epochs",
        "--figures.every_n_iterations",
        "--ckpt_path",
        "BlobDataModule",
    ):
        assert word in shown, word


def test_the_help_of_predict_knows_both_of_its_forms(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/kmeans_module/__main__.py"])
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m kmeans_module [options] predict")
    assert "python -m kmeans_module predict RUN DATA" in shown
    assert "--ckpt_path" in shown


def test_an_interrupt_before_anything_runs_is_one_line(capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("kmeans_module.__main__.answer", interrupted)
    with pytest.raises(SystemExit) as stopped:
        start()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "kmeans: interrupted\n"


@pytest.mark.parametrize("args", [["--version"], ["-V"], ["--version", "fit"]])
@pytest.mark.parametrize("installed", [True, False])
def test_the_version_is_the_package(args, installed, capsys, monkeypatch):
    library = sys.modules["kmeans_module.backends.native.library"]  # a function has its name too
    monkeypatch.setattr(library, "INSTALLED", installed)
    main(args)
    shown = capsys.readouterr().out
    without = ", without its native kernel: no C++ compiler built it"
    assert shown == f"kmeans_module {kmeans_module.__version__}{'' if installed else without}\n"


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/usr/bin/kmeans", "usage: kmeans COMMAND"),
        ("/x/kmeans_module/__main__.py", "usage: python -m kmeans_module COMMAND"),
        ("train.py", "usage: python train.py COMMAND"),
    ],
)
def test_the_help_names_the_program_as_it_was_called(path, named, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    main()
    assert named in capsys.readouterr().out


def test_help_does_not_wait_for_lightning():
    code = (
        "import sys; sys.argv[1:] = ['--help']; import kmeans_module.__main__ as m; m.main(); "
        "sys.exit('lightning' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), check=False
    )
    assert finished.returncode == 0


def _write_data(name):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    if path.suffix == ".jpg":
        Image.fromarray(pixels).save(path)
    elif path.suffix == ".npy":
        np.save(path, blobs(40, 3).numpy())
    else:
        np.savetxt(path, blobs(40, 2).numpy(), delimiter=",", header="a,b", comments="")


@pytest.mark.parametrize(
    ("file", "given", "name", "module"),
    [
        ("my table.csv", "--data=my table.csv", "my table", "ArrayDataModule"),
        ("features.npy", "--data features.npy", "features", "ArrayDataModule"),
        ("utterances/a.npy", "--data utterances", "utterances", "ArrayDataModule"),
        ("photos/a.jpg", "--data=photos", "photos", "ImageDataModule"),
        ("photo.jpg", "--data photo.jpg", "photo", "ImageDataModule"),
        ("table.csv", "table.csv", "table", "ArrayDataModule"),
    ],
)
def test_a_file_is_data(file, given, name, module, capsys):
    _write_data(file)
    data = [given] if "=" in given else given.split()
    used = yaml.safe_load(printed_config(capsys, "fit", *data))
    assert used["data"]["class_path"].endswith(module)
    assert used["trainer"]["logger"]["init_args"]["name"] == name
    assert used["data"]["init_args"]["path"] == re.sub("--data[ =]", "", given)
    named = yaml.safe_load(printed_config(capsys, "fit", *data, "--trainer.logger.name=mine"))
    assert named["trainer"]["logger"]["init_args"]["name"] == "mine"


def test_a_missing_file_of_data_is_named(capsys):
    assert refused(capsys, "fit", *QUIET, "--data=none.csv") == (
        1,
        "kmeans: none.csv: no such file",
    )


def said(capsys, *args):
    main(["fit", "--trainer.max_epochs=1", *QUIET[2:], "--trainer.logger=false", *args])
    return [line.split(" (0.")[0] for line in capsys.readouterr().err.splitlines()]


def test_a_fit_says_what_it_does(capsys):
    rows = blobs(40, 3)
    rows[:, 0] = torch.arange(40)
    rows[:, 1] *= 1000
    np.savetxt("t.csv", rows.numpy(), delimiter=",", header="id,income,age", comments="")
    lines = said(capsys, "--data=t.csv", "--model.n_clusters=3")
    assert lines[0] == "k-means: 40 rows of 3 features (id, income, age) in t.csv"
    assert lines[1].startswith("k-means: the column id counts the rows, and takes part")
    assert "--data.standardize true" in lines[2]
    doing = [
        "looking at all rows",
        "seeding by k-means++: 3/3 centers",
        "iteration 1 of 1, inertia",
    ]
    for line, words in zip(lines[3:], doing, strict=False):
        assert words in line
    lines = said(capsys, "--data=t.csv", "--data.columns=age,income", "--data.standardize=true")
    assert lines[0].startswith("k-means: 40 rows of 2 features (age, income)")
    assert "looking at all rows" in lines[1], "no advice that was followed"


def test_example_data_are_called_so(capsys):
    (first, *_) = said(capsys)
    assert "rows of 2 features, drawn as example data" in first


def test_a_fit_is_quiet_where_it_is_told_to_be(capsys):
    np.savetxt("t.csv", blobs(40, 2).numpy() * [1, 1e4], delimiter=",", header="a,b", comments="")
    main(["fit", *QUIET, "--trainer.max_epochs=1", "--data=t.csv"])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_text_beside_numbers_is_refused_with_the_columns_of_numbers(capsys):
    Path("t.csv").write_text("id,name,age\n1,Ann,40\n2,Bob,50\n")
    _, line = refused(capsys, "fit", *QUIET, "--data=t.csv")
    assert line == (
        "kmeans: t.csv: line 2: could not convert string 'Ann' to a number in column "
        "name; the columns of numbers are id, age: choose features by --data.columns id,age"
    )
    Path("t.csv").write_text("my id,name,no\n1,Ann,40\n2,Bob,50\n")
    _, line = refused(capsys, "fit", *QUIET, "--data=t.csv")
    assert line.endswith("""--data.columns '["my id", "no"]'""")
    columns = """--data.columns=["my id", "no"]"""
    used = yaml.safe_load(printed_config(capsys, "fit", "--data=t.csv", columns))
    assert used["data"]["init_args"]["columns"] == ["my id", "no"]


def test_a_run_says_where_to_look(capsys):
    main(["fit", *QUIET[2:], "--trainer.enable_progress_bar=false", *SMALL, "--model.n_init=3"])
    shown = capsys.readouterr().out
    assert "look at runs/blobs/version_0/animation.html\n" in shown
    assert "--logdir runs\n" in shown
    assert "of 3 is the best" in " ".join(shown.split())


def test_restarts_of_the_command_line_keep_the_best():
    main(
        ["fit", *QUIET, "--model.n_init=4", "--model.init=random", "--data.samples_per_cluster=30"]
    )
    found = KMeansLayer.from_file(run_folder() / "centroids.safetensors")
    x = kmeans_module.BlobDataModule(samples_per_cluster=30).x
    layer = KMeansLayer(6, 2, dtype=x.dtype)
    layer.fit(x, init="random", n_init=4, seed=0)
    torch.testing.assert_close(found.centroids, layer.centroids)


LEFT = {
    "fit": {".kmeans_run", "animation.html", "centroids.safetensors", "checkpoints",
            "checkpoints/best.ckpt", "checkpoints/last.ckpt", "clusters.png", "config.yaml",
            "events", "labels.npy", "projector", "projector/metadata.tsv",
            "projector/tensors.tsv", "projector_config.pbtxt"},
    "predict": {".kmeans_run", "config.yaml", "labels.npy"},
    "validate": None,
    "test": None,
    "test, logged": {".kmeans_run", "config.yaml", "events"},
    "fit, fast": None,
}  # fmt: skip


def test_runs_leave_what_the_page_says_and_nothing_else():
    main(["fit", *SMALL, QUIET[0]])
    rows = ("--data.samples_per_cluster=30", QUIET[0])
    checkpoint = f"--ckpt_path={run_folder() / 'checkpoints' / 'last.ckpt'}"
    page = (ROOT / "docs" / "runs.md").read_text()
    number = 0
    for run, expected in LEFT.items():
        command, _, how = run.partition(", ")
        extra = {"logged": ["--trainer.logger.name=blobs"], "fast": ["--trainer.fast_dev_run=true"]}
        if run != "fit":
            where = [checkpoint] if command != "fit" else []
            main([command, *rows, *where, *extra.get(how, [])])
        if expected is None:
            assert not run_folder(number).exists(), run
            continue
        left = {str(path.relative_to(run_folder(number))) for path in run_folder(number).rglob("*")}
        left = {"events" if "tfevents" in name else name for name in left}
        assert left == expected, run
        for name in left:
            assert f"`{name.split('/')[0]}" in page, name
        number += 1
    assert [str(path) for path in Path().iterdir()] == ["runs"]


def test_the_console_script_and_train_py_are_main(tmp_path):
    console = Path(sys.executable).with_name("kmeans")
    finished = subprocess.run(
        [console, "--help"], capture_output=True, text=True, env=environment(), check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "usage: kmeans COMMAND" in finished.stdout
    finished = run_script("fit", "--model.n_cluster=3", cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1] == (
        "kmeans: unrecognized arguments: --model.n_cluster=3; did you mean --model.n_clusters?"
    )
    assert "Traceback" not in finished.stderr


def test_train_py_says_what_is_not_installed():
    finished = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / "train.py")],  # without installed packages
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 1
    assert finished.stderr.startswith("train.py: torch is not installed here; `make train` makes")
    assert len(finished.stderr.splitlines()) == 1


def test_without_arguments_it_fits_the_blobs(tmp_path, capsys):
    finished = run_script(cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "cluster sizes" in finished.stdout
    assert "Traceback" not in finished.stderr
    if library() is not None:
        assert "Warning" not in finished.stderr
    used = yaml.safe_load((run_folder() / "config.yaml").read_text())
    config = f"--config={ROOT / 'configs' / 'blobs.yaml'}"
    assert used == yaml.safe_load(printed_config(capsys, "fit", config))


def test_flags_hold_against_the_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["fit", "--trainer.max_epochs", "1", "--figures.projector", "false"])
    checkpoint = ["--ckpt_path", "runs/blobs/version_0/checkpoints/last.ckpt"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["predict", "--model.n_clusters", "9", *checkpoint])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "the checkpoint does not fit the configuration: it is of n_clusters=6; got n_cl" in error
    assert error.endswith("of its run: --config runs/blobs/version_0/config.yaml\n")
    assert error.count("\n") == 1
    np.savetxt("t.csv", np.eye(9), delimiter=",")
    _, line = refused(capsys, "fit", "--data=t.csv", *checkpoint)
    assert "it is of n_features=2; got n_features=9; repeat the configuration" in line
    main(["fit", "--model.tol", "0", *checkpoint])
    assert "the centroids stand still" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option",
    [
        ("--model.n_clusters=" + "x y" * 400,),
        ("--model.seed=" + "x" * 1000,),
        ("--model.metric=" + "x" * 1000,),
        ("--data.samples_per_cluster=[" + "1," * 400 + "a]",),
        ("--" + "x" * 1000,),
        ("--data=ArrayDataModule", "--data.path=" + "x" * 300 + ".csv"),
    ],
)
def test_a_long_value_is_cut_in_the_message(option, capsys):
    _, line = refused(capsys, "fit", *option)
    assert len(line) < 200
    assert "..." in line


def _write_pipe():
    os.mkfifo("pipe.csv")


def _write_dangling():
    Path("rows").mkdir()
    np.save("rows/a.npy", np.zeros((9, 2)))
    Path("rows/b.npy").symlink_to("nowhere.npy")


@pytest.mark.parametrize(
    ("make", "path", "reason"),
    [
        (None, "none.csv", "none.csv: no such file"),
        (lambda: Path("a.csv").write_text("1,2\n3,x\n"), "a.csv", "a.csv: line 2"),
        (_write_pipe, "pipe.csv", "pipe.csv: is a pipe or a device, expected a file"),
        (_write_dangling, "rows", "rows/b.npy: no such file"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "predict"])
def test_a_refused_file_of_data_leaves_no_run_folder(make, path, reason, command, capsys):
    if make is not None:
        make()
    before = sorted(Path().rglob("*"))
    status, line = refused(capsys, command, "--data=ArrayDataModule", f"--data.path={path}")
    assert (status, reason in line) == (1, True), line
    assert sorted(Path().rglob("*")) == before


def test_a_missing_checkpoint_leaves_no_run_folder(capsys):
    status, line = refused(capsys, "fit", "--ckpt_path=none.ckpt")
    assert (status, line) == (1, "kmeans: none.ckpt: no such file")
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["metrics.csv", "hparams.yaml"])
def test_a_log_of_no_run_is_not_replaced(name, capsys):
    Path(name).write_text("mine")
    logger = ("CSVLogger", "save_dir=.", "name=", "version=")
    options = ["--trainer.logger=" + logger[0], *("--trainer.logger." + x for x in logger[1:])]
    status, line = refused(capsys, "fit", *options)
    assert (status, line.startswith(f"kmeans: {name}: is no result of a run")) == (1, True)
    assert Path(name).read_text() == "mine"
    assert sorted(Path().iterdir()) == [Path(name)]


def test_a_refusal_where_nothing_is_written_is_one_line(capsys, caplog):
    np.save("a.npy", np.full((9, 2), np.nan))
    data = ("--data=ArrayDataModule", "--data.path=a.npy")
    refused(capsys, "fit", "--trainer.logger=false", *data)
    refused(capsys, "predict", "--trainer.logger=false")
    assert not [record for record in caplog.records if "no results" in record.message]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("fit", "metric=cosine"),
        ("predict", "metric=cosine"),
        ("validate", "metric=cosine"),
        ("fit", "algorithm=minibatch"),
    ],
)
def test_a_checkpoint_of_another_metric_or_algorithm_is_refused(command, option, capsys):
    plain = (*QUIET, *SMALL, "--trainer.logger=false", "--trainer.default_root_dir=out")
    main(["fit", *plain])
    capsys.readouterr()
    checkpoint = "--ckpt_path=out/checkpoints/last.ckpt"
    options = plain if command == "fit" else SMALL
    status, line = refused(capsys, command, *options, checkpoint, f"--model.{option}")
    name, value = option.split("=")
    assert status == 1
    assert f"got {name}={value!r}; repeat the configuration of its run: --config out/conf" in line


def test_a_pickle_is_refused_as_a_checkpoint_in_one_line(capsys, recwarn):
    Path("a.ckpt").write_bytes(pickle.dumps({"state_dict": {}}, protocol=4))
    status, line = refused(capsys, "fit", "--ckpt_path=a.ckpt")
    assert (status, line) == (1, "kmeans: a.ckpt: not a checkpoint of LitKMeans")
    assert not recwarn


def test_an_early_stopping_without_its_metric_is_refused_in_one_line(capsys):
    stopping = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=nothing")
    status, line = refused(capsys, "fit", *QUIET, *SMALL, *stopping)
    assert status == 1
    assert "metric `nothing`" in line
