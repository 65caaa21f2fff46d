"""Pages of runs: their numbers are those of the predictions, and what is missing is said."""

from __future__ import annotations

import csv
import dataclasses
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from report_runs import guess, make_run, with_settings
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from fashion_dist import tasks
from fashion_dist.commands.report import Args, main
from fashion_dist.errors import ConfigError
from fashion_dist.report import comparison, figure_writer, make, page
from fashion_dist.report.blocks import Page, Section, Table
from fashion_dist.report.figure_writer import FigureWriter
from fashion_dist.report.run_data import RunData, read_facts
from fashion_dist.report.table import rows_of, to_markdown
from fashion_dist.tasks import deepfashion, fashion_mnist
from shards import ShardSet

RECIPE = with_settings(deepfashion.RECIPE)


class Reader(HTMLParser):
    """The texts, tables and pictures of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.unnamed = 0
        self._rows: list[list[str]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.append(tag)
        self.unnamed += tag == "img" and values.get("alt") is None
        self.unnamed += values.get("role") == "img" and not values.get("aria-label")
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
            self._in_cell = True

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._in_cell:
            self._rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        return [tuple(cell.strip() for cell in row) for row in self._rows]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def read(page: Path) -> Reader:
    found = Reader()
    found.feed(page.read_text())
    return found


def facts_of(*folders: Path) -> list[RunData]:
    from fashion_dist.paths import RunDir

    return read_facts([RunDir(folder) for folder in folders])


@pytest.fixture(scope="module")
def shard_set(packed_home: Path) -> ShardSet:
    return ShardSet.open(packed_home / "shards" / "deep_fashion")


@pytest.fixture(scope="module")
def answers(shard_set: ShardSet) -> dict[str, dict[str, np.ndarray]]:
    return {"val": guess(shard_set, "val")}


def test_the_numbers_are_scikit_learn_s(
    shard_set: ShardSet, answers: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "runs" / "deepfashion-aaaa", RECIPE, shard_set, answers)
    page = make.report_run(facts_of(run.path)[0], quick=True).page
    found = read(page)
    facts = shard_set.split("val").columns("category", "attributes")
    truth, answer = facts["category"], answers["val"]["category"]
    rows = {row[:2]: row for row in found.rows}
    assert rows[("val", "accuracy")][2] == f"{accuracy_score(truth, answer):.4f}"
    assert rows[("val", "macro F1")][2] == f"{f1_score(truth, answer, average='macro'):.4f}"
    names = shard_set.schema.names["category"]
    expected = precision_recall_fscore_support(truth, answer, labels=range(len(names)), zero_division=0)
    for k, name in enumerate(names):
        if expected[3][k]:
            shown = (name, str(expected[3][k]), *(f"{expected[part][k]:.4f}" for part in range(3)))
            assert shown in found.rows, name
    with (page.parent / "figures" / "confusion.csv").open(newline="") as file:
        head, *body = list(csv.reader(file))
    order = [names.index(name) for name in head[1:]]
    cells = np.array([[int(cell) for cell in row[1:]] for row in body])
    assert np.array_equal(cells, confusion_matrix(truth, answer, labels=order))
    real, chosen = facts["attributes"], answers["val"]["attributes"]
    for a, name in enumerate(shard_set.schema.names["attributes"]):
        if (real[:, a] == 1).any():
            precision, recall, f1, _ = precision_recall_fscore_support(
                real[:, a], chosen[:, a], average="binary", zero_division=0
            )
            row = next(row for row in found.rows if row[0] == name and len(row) == 7)
            assert row[3:6] == (f"{precision:.4f}", f"{recall:.4f}", f"{f1:.4f}")


def test_a_page_stands_alone_and_every_picture_has_words(
    shard_set: ShardSet, answers: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "runs" / "deepfashion-aaaa", RECIPE, shard_set, answers, damaged=2)
    made = make.report_run(facts_of(run.path)[0], quick=True)
    found, text = read(made.page), made.page.read_text()
    assert made.page.stat().st_size < 10_000_000
    assert found.unnamed == 0
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert re.findall(r'(?:src|href)="(?!data:|#|figures/)([^"]*)"', text) == []
    for picture in made.album.pictures:
        assert picture.alt.endswith(".")
        for _, file in picture.files:
            assert (made.page.parent / file).stat().st_size > 0
    assert "2 lines of metrics.jsonl could not be read and are left out." in found.text
    assert "The labels of the test split are not known" in found.text or "has not been predicted" in found.text
    assert "taken up again 1 time" in found.text
    assert "60 s of CPU time" in found.text or "1 min 0 s of CPU time" in found.text


def test_training_and_validation_are_one_picture_and_the_gap_is_told(shard_set: ShardSet, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "deepfashion-aaaa", RECIPE, shard_set, {})
    made = make.report_run(facts_of(run.path)[0], quick=True)
    found = read(made.page).text
    assert "training had accuracy 0.3500, 0.1000 above validation's 0.2500 and loss 1.0000, 0.0500 below" in found
    assert "Validation score was best after epoch 2, at 0.5000; after the last, 3, it was 0.4000." in found
    lines = (made.page.parent / "figures" / "curve-accuracy.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in lines} == {"split", "train", "val"}
    assert len([picture for picture in made.album.pictures if picture.title == "Accuracy"]) == 1


def test_of_runs_that_watch_the_loss_the_lowest_is_best(shard_set: ShardSet, tmp_path: Path) -> None:
    folders = []
    for n, loss in enumerate((0.9, 0.3, 0.6)):
        config = with_settings(RECIPE, "train.monitor=loss", "train.mode=min", f"model.dropout={n / 10}")
        folders.append(tmp_path / "runs" / f"deepfashion-{n}")
        make_run(folders[-1], config, shard_set, {}, scores=(loss,), monitor="loss")
    found = read(make.report_runs(facts_of(*folders), tmp_path / "page", quick=True).page)
    assert "deepfashion-1 has the best validation loss, 0.3000, before deepfashion-2 with 0.6000." in found.text
    assert "Best in validation loss is dropout 0.1, at 0.3000." in found.text
    assert [row[0] for row in found.rows if row[0].startswith("deepfashion-")] == [
        f"deepfashion-{n}" for n in (1, 2, 0)
    ]


@pytest.mark.parametrize(
    ("state", "scores", "words"),
    [
        ("failed", (0.2, 0.5), ("The run failed", "the loss is not finite")),
        ("stopped", (0.2,), ("was stopped before its end, after 1 of 3 epochs", "launch again")),
        ("stopped", (), ("Nothing has been measured yet.", "no figures of a labelled split")),
    ],
)
def test_a_run_that_is_not_done_says_so_and_shows_what_there_is(
    shard_set: ShardSet, tmp_path: Path, state: str, scores: tuple[float, ...], words: tuple[str, str]
) -> None:
    message = "the loss is not finite" if state == "failed" else "cancelled; launch again to go on"
    run = make_run(
        tmp_path / "runs" / "deepfashion-bbbb", RECIPE, shard_set, {}, state=state, scores=scores, message=message
    )
    made = make.report_run(facts_of(run.path)[0], quick=True)
    found = read(made.page).text
    for word in words:
        assert word in found
    assert bool(made.album.pictures) == bool(scores)


def test_without_its_shard_set_a_run_shows_its_curves(shard_set: ShardSet, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "deepfashion-cccc", RECIPE, shard_set, {})
    run.run.write_text(run.run.read_text().replace(str(shard_set.path), str(tmp_path / "gone")))
    made = make.report_run(facts_of(run.path)[0], quick=True)
    assert "The shard set cannot be opened" in read(made.page).text
    assert made.album.pictures


def test_names_with_markup_are_text(shard_set: ShardSet, tmp_path: Path) -> None:
    schema = shard_set.schema
    names = ("<script>alert(1)</script>", 'a "b" & $x^2$ <i>', *schema.names["category"][2:])
    schema = dataclasses.replace(schema, names={**schema.names, "category": names})
    manifest = dataclasses.replace(shard_set.manifest, schema=schema)
    shard_set = dataclasses.replace(shard_set, manifest=manifest)
    run = make_run(
        tmp_path / "runs" / "deepfashion-dddd", RECIPE, shard_set, {"val": guess(shard_set, "val", right=0.3)}
    )
    (facts,) = facts_of(run.path)
    found = read(make.report_run(dataclasses.replace(facts, shard_set=shard_set), quick=True).page)
    assert "script" not in found.tags
    assert "i" not in found.tags
    assert "<script>alert(1)</script>" in found.text
    assert 'a "b" & $x^2$ <i>' in found.text


def test_names_of_200_letters_and_from_right_to_left(shard_set: ShardSet, tmp_path: Path) -> None:
    long, chinese = "a shirt " * 25, "\u9023\u8863\u88d9"
    hebrew = "\u05e9\u05de\u05dc\u05d4 12 (\u05e7\u05e6\u05e8\u05d4)"
    names = (long, hebrew, chinese, *shard_set.schema.names["category"][3:])
    schema = dataclasses.replace(shard_set.schema, names={**shard_set.schema.names, "category": names})
    renamed = dataclasses.replace(shard_set, manifest=dataclasses.replace(shard_set.manifest, schema=schema))
    answers = {"val": guess(shard_set, "val", right=0.3)}
    (facts,) = facts_of(make_run(tmp_path / "runs" / "deepfashion-1", RECIPE, shard_set, answers).path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of fonts without these letters nothing stands in a terminal
        made = make.report_run(dataclasses.replace(facts, shard_set=renamed), quick=True)
    text = made.page.read_text()
    sentences = re.findall(r"<(?:p|h3)>(.*?)</(?:p|h3)>", text)
    assert any(f"<bdi>{hebrew}</bdi>" in sentence for sentence in sentences)
    assert max(len(re.sub("<[^>]*>", "", sentence)) for sentence in sentences) < 300 and long.strip() in text
    assert f'dir="auto">{hebrew}</td>' in text
    assert long in (made.page.parent / "figures" / "confusion.csv").read_text()
    here = set(font_manager.get_font_names()) & set(figure_writer._OTHER_SCRIPTS)
    (picture,) = (picture for picture in made.album.pictures if picture.name == "confusion")
    assert (figure_writer.BOXES in picture.caption) == (not here)


def test_several_runs_are_folded_and_compared(
    shard_set: ShardSet, answers: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    base = with_settings(RECIPE, "model.dropout=0.5")
    made = []
    for n, (settings, score) in enumerate(
        ((("train.seed=0",), 0.50), (("train.seed=1",), 0.54), (("optim.name=sgd",), 0.4), (("model.pool=max",), 0.6))
    ):
        config = with_settings(base, *settings)
        given = {"val": guess(shard_set, "val", seed=n, right=0.9 if n < 3 else 0.2)}
        made.append(
            make_run(tmp_path / "runs" / f"deepfashion-{n}", config, shard_set, given, scores=(0.1, score)).path
        )
    page = make.report_runs(facts_of(*made), tmp_path / "page", quick=True).page
    found = read(page)
    assert "Over 2 seeds" in found.text
    assert "Confusion matrices, one scale" in found.text
    with (page.parent / "figures" / "confusions.csv").open() as file:
        counted = list(csv.DictReader(file))
    assert len({row["run"] for row in counted}) == 4 and len(counted) % 4 == 0
    assert f"{np.mean([0.5, 0.54]):.4f} ± {np.std([0.5, 0.54], ddof=1):.4f}" in found.text
    steps = {row[0]: row for row in found.rows if len(row) == 6 and row[0] in ("optim.name", "model.pool")}
    assert steps["optim.name"][1:4] == ("adamw", "sgd", "-0.1200")
    assert steps["model.pool"][1:4] == ("avg", "max", "+0.0800")
    truth = shard_set.split("val").columns("category")["category"]
    right = [(guess(shard_set, "val", seed=n, right=0.9 if n < 3 else 0.2)["category"] == truth) for n in range(4)]
    away = float(right[3].mean() - (right[0].mean() + right[1].mean()) / 2)
    assert steps["model.pool"][4].startswith(f"{away:+.4f}")
    head = next(row for row in found.rows if row[:2] == ("run", "state"))
    assert {"optim.name", "model.pool", "train.seed"} <= set(head)
    assert "model.dropout" not in head


def test_runs_of_different_tasks_are_compared_in_what_they_share(shard_set: ShardSet, tmp_path: Path) -> None:
    other = dataclasses.replace(fashion_mnist.RECIPE, dataset="deep_fashion")
    first = make_run(tmp_path / "runs" / "deepfashion-1", RECIPE, shard_set, {})
    second = make_run(tmp_path / "runs" / "fashion_mnist-1", other, shard_set, {}, monitor="macro_f1")
    found = read(make.report_runs(facts_of(first.path, second.path), tmp_path / "page", quick=True).page)
    assert "of 2 tasks (deepfashion, fashion_mnist) and compared in what they share: accuracy" in found.text
    assert "macro F1" not in next(row for row in found.rows if row[:2] == ("run", "state"))


def test_models_side_by_side_and_the_advantage_of_pretraining(shard_set: ShardSet, tmp_path: Path) -> None:
    kinds = (
        ("resnet18", "imagenet", (0.1, 0.8)),
        ("resnet18", "none", (0.3, 0.2)),
        ("fashionnet", "none", (0.4, 0.5, 0.6)),
    )
    runs = []
    for n, (network, weights, scores) in enumerate(kinds):
        config = with_settings(RECIPE, f"model.name={network}", f"model.weights={weights}")
        runs.append(make_run(tmp_path / "runs" / f"deepfashion-{n}", config, shard_set, {}, scores=scores))
    found = facts_of(*(run.path for run in runs))
    groups, shared = comparison.group(found), comparison.shared_metrics(found)
    sizes = {"resnet18": (11_200_000, 3_000_000_000), "fashionnet": (900_000, 400_000_000)}
    section = comparison.models(groups, shared, FigureWriter(tmp_path), lambda f: sizes[f.config.model.name])
    assert section is not None
    table = next(block for block in section.blocks if isinstance(block, Table))
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert [(row["network"], row["weights"], row["score"]) for row in rows] == [
        ("resnet18", "ImageNet", "0.8000"),
        ("fashionnet", "from scratch", "0.6000"),
        ("resnet18", "from scratch", "0.3000"),
    ]
    assert [row["parameters"] for row in rows] == ["11.20 M", "0.90 M", "11.20 M"]
    assert [row["FLOPs per image"] for row in rows] == ["3,000 M", "400 M", "3,000 M"]
    assert [(row["time per epoch"], row["epochs to best"]) for row in rows] == [
        ("1 min 0 s", "2"),
        ("1 min 0 s", "3"),
        ("1 min 0 s", "1"),
    ]
    words = " ".join(section.words)
    assert "Finetuned, resnet18 reaches 0.8000, 0.5000 more than from scratch (0.3000)." in words
    assert re.search(
        r"What is the advantage of the pretrained network over the custom one\? .* \(resnet18, ImageNet\) reaches "
        r"score 0\.8000, 0\.2000 more than .* \(fashionnet, from scratch\); it is at its best after epoch 2, the "
        r"custom one after 3; an epoch takes 1 min 0 s against 1 min 0 s; it has 11\.20 million parameters against "
        r"0\.90\. In score, pretraining brings an advantage here\.",
        words,
    )


def test_a_network_that_measured_nothing_is_in_no_sentence(shard_set: ShardSet, tmp_path: Path) -> None:
    """`reaches nan less` stood there of the smallest network, and of finetuning, where that run had failed."""
    kinds = (("resnet18", "none", (0.3,)), ("resnet18", "imagenet", ()), ("fashionnet", "none", ()))
    runs = []
    for n, (network, weights, scores) in enumerate(kinds):
        config = with_settings(RECIPE, f"model.name={network}", f"model.weights={weights}")
        state = "done" if scores else "failed"
        run = make_run(tmp_path / f"r{n}", config, shard_set, {}, scores=scores, state=state, message="no")
        runs.append(run.path)
    again = with_settings(RECIPE, "model.name=fashionnet", "train.seed=7")
    runs.append(make_run(tmp_path / "r3", again, shard_set, {}, scores=(), state="failed", message="no").path)
    found = facts_of(*runs)
    groups, shared = comparison.group(found), comparison.shared_metrics(found)
    section = comparison.models(groups, shared, FigureWriter(tmp_path), lambda f: (len(f.config.model.name), 1))
    assert section is not None and len(section.words) == 1
    assert section.words[0].endswith("is best, with score 0.3000.")
    folded = comparison.seeds(groups, shared)
    assert folded is not None and not folded.words  # of two failed seeds: "Over 0 seeds, ... reaches nan"
    assert comparison.models(groups[1:], shared, FigureWriter(tmp_path), lambda _: (1, 1)) is None


def test_two_finetuned_networks_of_a_kind_have_a_picture_and_a_sentence_each(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    """The second picture's files were those of the first."""
    runs = []
    for n, (weights, lr) in enumerate((("none", 0.1), ("imagenet", 0.1), ("imagenet", 0.2))):
        config = with_settings(RECIPE, "model.name=resnet18", f"model.weights={weights}", f"optim.lr={lr}")
        runs.append(make_run(tmp_path / f"r{n}", config, shard_set, {}, scores=(0.1 * (n + 1), 0.2 * (n + 1))).path)
    found = facts_of(*runs)
    groups, album = comparison.group(found), FigureWriter(tmp_path)
    section = comparison.models(groups, ["score"], album, lambda _: (1, 1))
    assert section is not None and len(set(album.paths)) == len(album.pictures) == 2
    for picture, tuned in zip(album.pictures, ("r1", "r2"), strict=True):
        with (tmp_path / "figures" / f"{picture.name}.csv").open(encoding="utf-8-sig") as file:
            assert {row["run"] for row in csv.DictReader(file)} == {"r0", tuned}
    said = [sentence for sentence in section.words if sentence.startswith("Finetuned")]
    assert ["lr 0.1;" in said[0], "lr 0.2;" in said[1]] == [True, True]


def test_runs_that_learn_other_columns_of_a_set_are_ranked_apart(shard_set: ShardSet, tmp_path: Path) -> None:
    folders = []
    for n, (column, score) in enumerate((("wool", 0.2), ("wool", 0.4), ("warm", 0.6), ("warm", 0.8))):
        recipe = tasks.load("classification").recipe
        config = dataclasses.replace(recipe, dataset="set", options={**recipe.options, "label": column})
        config = with_settings(config, f"optim.lr={0.1 * (n + 1)}")
        run = make_run(tmp_path / f"r{n}", config, shard_set, {}, scores=(score,), monitor="accuracy")
        folders.append(run.path)
    parts = comparison.by_data(facts_of(*folders))
    assert {name: [f.run_id for f in part] for name, part in parts.items()} == {
        "set (wool)": ["r0", "r1"],
        "set (warm)": ["r2", "r3"],
    }
    page = read(make.report_runs(facts_of(*folders), tmp_path / "page", quick=True).page)
    assert "The runs are on different data (set (wool), set (warm))" in page.text
    assert "On set (wool), r1 has the best" in page.text and "On set (warm), r3 has the best" in page.text


def test_what_a_report_prints_can_be_done(shard_set: ShardSet, tmp_path: Path) -> None:
    failed = make_run(tmp_path / "runs" / "r0", RECIPE, shard_set, {}, scores=(), state="failed", message="no")
    asked = Args(runs=(str(failed.path),), home=str(tmp_path), quick=True)
    (name, hint), *others = main(asked).next.items()
    assert name == "look" and "status" in hint and not others  # there is nothing to collect
    with pytest.raises(ConfigError, match="run r0 has no best weights yet, so there is no model to hand in"):
        main(dataclasses.replace(asked, archive=True, out=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()
    for also in ({"archive": True}, {"notebook": "a.ipynb"}, {"wandb": "offline"}):
        with pytest.raises(ConfigError, match="--table makes no page, so --archive, --notebook and --wandb are not"):
            main(dataclasses.replace(asked, table=True, **also))


def test_of_ten_runs_what_is_damaged_is_told_and_the_rest_stands(
    shard_set: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for n in range(10):
        given = {"val": guess(shard_set, "val", seed=n)} if n < 3 or n == 8 else {}
        if n == 8:
            given["val"]["attribute_probability"][3] = np.nan
        config = with_settings(RECIPE, f"train.seed={n}")
        folders.append(make_run(tmp_path / "runs" / f"deepfashion-{n}", config, shard_set, given).path)
    (folders[4] / "config.json").write_text('{"train": ')
    (folders[5] / "state.json").write_text("[[")
    (folders[6] / "run.json").unlink()
    (folders[7] / "metrics.jsonl").write_bytes(b"\xff\x00 no line\n")
    rotten = next((folders[1] / "predictions" / "val").glob("*.parquet"))
    rotten.write_bytes(rotten.read_bytes()[:-40])
    named = tuple(map(str, folders))
    asked = Args(runs=named, out=str(tmp_path / "page"), quick=True, home=str(tmp_path))
    result = main(asked)
    page = read(tmp_path / "page" / "index.html")
    assert (result.headline, result.exit_status, len(result.data["runs"])) == ("8 runs on one page", 1, 8)
    assert sorted(result.data["left_out"]) == ["deepfashion-4", "deepfashion-5"]
    for told in (page.text, capsys.readouterr().err):
        for run, file in (("deepfashion-4", "config.json"), ("deepfashion-5", "state.json")):
            assert re.search(rf"left out, because it cannot be read: .*{run}.*{file}", told)
    assert "deepfashion-6: The shard set cannot be opened" in page.text
    assert "deepfashion-7: 1 line of metrics.jsonl could not be read and is left out." in page.text
    assert "deepfashion-8: The predictions of val are not shown: deepfashion-8: its network answered NaN" in page.text
    assert re.search("deepfashion-1: The predictions of val are not shown: .* cannot be read", page.text)
    assert [row[0] for row in page.rows if row[:1] and row[0].startswith("deepfashion-0")]
    table = main(dataclasses.replace(asked, table=True, out=""))
    assert len(table.data["rows"]) == 8 and table.exit_status == 1
    with pytest.raises(ConfigError, match=r"deepfashion-4.*config\.json"):  # nothing is handed in without it
        main(dataclasses.replace(asked, archive=True, out=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()
    alone = main(dataclasses.replace(asked, runs=(named[0], named[4])))
    assert alone.headline == "1 run on one page"


def test_a_run_that_has_only_just_begun_is_shown(shard_set: ShardSet, tmp_path: Path) -> None:
    begun = make_run(tmp_path / "runs" / "deepfashion-0", RECIPE, shard_set, {}, scores=())
    for file in (begun.state, begun.metrics, begun.attempts):
        file.unlink()
    done = make_run(tmp_path / "runs" / "deepfashion-1", RECIPE, shard_set, {"val": guess(shard_set, "val")})
    one = read(make.report_run(facts_of(begun.path)[0]).page)
    assert "Nothing has been measured yet." in one.text and "has not begun" in one.text
    both = read(make.report_runs(facts_of(begun.path, done.path), tmp_path / "page").page)
    assert "Not done: deepfashion-0" in both.text
    assert {row[0] for row in both.rows} >= {"deepfashion-0", "deepfashion-1"}


def test_runs_on_different_data_are_ranked_apart_and_keep_their_colours(shard_set: ShardSet, tmp_path: Path) -> None:
    folders = []
    for n, (pool, score) in enumerate((("avg", 0.2), ("max", 0.4), ("avg", 0.6), ("max", 0.8))):
        config = with_settings(RECIPE, f"model.pool={pool}")
        folders.append(make_run(tmp_path / "runs" / f"deepfashion-{n}", config, shard_set, {}, scores=(score,)).path)
    found = facts_of(*folders)
    made = dataclasses.replace(found[2].made, data_hash="f" * 64)
    found[2:] = [dataclasses.replace(f, shard_set=None, made=made) for f in found[2:]]
    page = read(make.report_runs(found, tmp_path / "page", quick=True).page)
    assert "The runs are on different data" in page.text
    assert page.text.count("has the best validation") == 2
    assert "deepfashion-1 has the best" in page.text and "deepfashion-3 has the best" in page.text
    assert sorted(g.place for g in comparison.group(found)) == [0, 1, 2, 3]


def test_the_trials_of_a_sweep_are_one_readable_page(shard_set: ShardSet, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folders = []
    for n in range(60):
        lr, pool = 10 ** rng.uniform(-4, -1), rng.choice(["avg", "max"])
        config = with_settings(RECIPE, f"optim.lr={lr:.6f}", f"model.pool={pool}")
        score = 0.9 - 0.1 * (np.log10(lr) + 2.5) ** 2 + 0.02 * (pool == "max")
        folders.append(
            make_run(tmp_path / "runs" / f"deepfashion-{n:03d}", config, shard_set, {}, scores=(score,)).path
        )
    made = make.report_runs(facts_of(*folders), tmp_path / "page")
    found = read(made.page)
    assert made.page.stat().st_size < 10_000_000
    best = max(facts_of(*folders), key=lambda f: f.view.progress.best["value"])
    assert f"{best.run_id} has the best validation score" in found.text
    head, first, *_ = (row for row in found.rows if len(row) == 8)
    assert head[-2:] == ("model.pool", "optim.lr")
    assert first[0] == best.run_id and len([row for row in found.rows if len(row) == 8]) == 61


def test_the_table_of_results_is_markdown(shard_set: ShardSet, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "deepfashion-1", RECIPE, shard_set, {})
    run.run.write_text(run.run.read_text().replace("--task deepfashion", "--home '/x y' --task deepfashion --wait"))
    other = make_run(tmp_path / "runs" / "deepfashion-2", with_settings(RECIPE, "model.pool=max"), shard_set, {})
    rows = rows_of(facts_of(run.path, other.path))
    head, rule, row, second = to_markdown(rows).splitlines()
    assert [(line[0], line[2]) for line in rows] == [
        ("run", "model.pool"), ("deepfashion-1", "avg"), ("deepfashion-2", "max")
    ]  # fmt: skip
    assert "| max |" in second
    assert head.count("|") == rule.count("|") == row.count("|")
    assert "`python jobs/launch.py --task deepfashion`" in row
    assert "score 0.5000, accuracy 0.2500" in row
    assert "| 3 min 0 s | 1 min 0 s |" in row


def test_the_folder_of_a_page_does_not_depend_on_the_order(shard_set: ShardSet, tmp_path: Path) -> None:
    from fashion_dist.paths import Home

    runs = [make_run(tmp_path / "runs" / f"deepfashion-{n}", RECIPE, shard_set, {}).path for n in range(2)]
    home = Home(tmp_path)
    assert make.folder_of(home, facts_of(*runs)) == make.folder_of(home, facts_of(*reversed(runs)))


def test_a_set_without_a_test_split_is_said_to_have_none(shard_set: ShardSet, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "deepfashion-eeee", RECIPE, shard_set, {})
    (facts,) = facts_of(run.path)
    kept = tuple(shard for shard in shard_set.manifest.shards if shard.split != "test")
    manifest = dataclasses.replace(shard_set.manifest, shards=kept)
    facts = dataclasses.replace(facts, shard_set=dataclasses.replace(shard_set, manifest=manifest))
    assert "The shard set has no test split." in read(make.report_run(facts, quick=True).page).text


def test_offline_the_pictures_lie_in_a_wandb_run(shard_set: ShardSet, tmp_path: Path) -> None:
    (facts,) = facts_of(make_run(tmp_path / "runs" / "deepfashion-wandb", RECIPE, shard_set, {}).path)
    made = make.report_run(facts, quick=True)
    assert not make.share(facts, made.album, "off")
    assert make.share(facts, made.album, "offline")
    (stored,) = (facts.run.path / "wandb").glob("offline-run-*")
    pictures = sorted(path.name for path in (stored / "files" / "media" / "images" / "report").glob("*.png"))
    assert [re.sub(r"_\d+_[0-9a-f]+\.png$", "", name) for name in pictures] == sorted(made.album.paths)
    assert "curve-loss" in made.album.paths


def test_a_table_s_cells_are_looked_at_twice_whatever_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    text_of = page.cell_text

    def counted(cell: object) -> str:
        looked.append(cell)
        return text_of(cell)

    monkeypatch.setattr(page, "cell_text", counted)
    rows = [(f"c{k}", k, f"{k / 7:.3f}") for k in range(300)]
    html = page.render(Page("p", "", [Section("s", "S", [], [Table("t", ("class", "images", "share"), rows)])]))
    assert len(looked) <= 2 * 3 * 300 and html.count('<td class="n"') == 600 and html.count('<td class="t"') == 300
