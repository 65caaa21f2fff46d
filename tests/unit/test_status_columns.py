"""`status --columns`, `--where` and `--sort`: a table of one's choice, which fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_runs import make_run, with_settings

from fashion_dist.commands.status import Args, main
from fashion_dist.errors import ConfigError
from fashion_dist.tasks import deepfashion
from shards import ShardSet


def test_a_table_of_ones_choice(packed_home: Path, tmp_path: Path) -> None:
    shard_set = ShardSet.open(packed_home / "shards" / "deep_fashion")
    for n, (rate, network) in enumerate(((0.1, "resnet18"), (0.3, "fashionnet"), (0.2, "fashionnet"))):
        config = with_settings(deepfashion.RECIPE, f"optim.lr={rate}", f"model.name={network}")
        make_run(tmp_path / "runs" / f"deepfashion-{n}", config, shard_set, {}, scores=(0.5 + n / 10,))

    def table(**flags: object) -> list[list[str]]:
        text = main(Args(home=str(tmp_path), columns="run,model,optim.lr,best", **flags)).text  # type: ignore[arg-type]
        return [line.split() for line in text.split("\n\n")[0].splitlines()]

    assert table(sort="best") == [
        ["RUN", "MODEL", "OPTIM.LR", "BEST"],
        ["deepfashion-2", "fashionnet", "0.2", "0.7000"],
        ["deepfashion-1", "fashionnet", "0.3", "0.6000"],
        ["deepfashion-0", "resnet18", "0.1", "0.5000"],
    ]
    chosen = table(where=(("model.name=fashionnet",),), sort="optim.lr")
    assert [row[0] for row in chosen[1:]] == ["deepfashion-2", "deepfashion-1"]
    for value in ("0.2", "2e-1", ".20"):
        assert [row[0] for row in table(where=((f"optim.lr={value}",),))[1:]] == ["deepfashion-2"]
    assert len(table(where=(("train.deterministic=False",), ("data.class_balanced=",)))) == 4
    for flags in ({"where": (("optim.lr=7",),)}, {"state": "failed"}):
        assert main(Args(home=str(tmp_path), **flags)).text == f"none of the runs in {tmp_path}/runs is as asked"
    with pytest.raises(ConfigError, match=r"unknown column 'optim\.l'; nearest: optim\.lr"):
        main(Args(home=str(tmp_path), columns="optim.l"))
    with pytest.raises(ConfigError, match="--where takes key=value, not 'fashionnet'"):
        table(where=(("fashionnet",),))


def test_settings_have_today_s_names_and_a_network_s_are_columns(packed_home: Path, tmp_path: Path) -> None:
    shard_set = ShardSet.open(packed_home / "shards" / "deep_fashion")
    for n, norm in enumerate(("none", "batch")):
        config = with_settings(deepfashion.RECIPE, "model.name=mlp", f"model.norm={norm}", f"train.mix_prob=0.{n + 1}")
        run = make_run(tmp_path / "runs" / f"deepfashion-{n}", config, shard_set, {})
    stored = json.loads(run.config.read_text())
    stored["train"]["mix"] = stored["train"].pop("mix_prob")  # as runs were stored when it had another name
    run.config.write_text(json.dumps(stored))

    def found(where: str) -> list[str]:
        text = main(Args(home=str(tmp_path), columns="run", where=((where,),))).text
        return text.split("\n\n")[0].split()[1:]

    assert found("model.norm=none") == ["deepfashion-0"]
    assert found("train.mix_prob=0.2") == ["deepfashion-1"]
