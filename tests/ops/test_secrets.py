"""Secrets are found by their names and in URLs, replaced by variables, and read back from the environment."""

from __future__ import annotations

import os
import sys
from copy import deepcopy

import pytest
from jsonargparse import Namespace

from lightning_ood.errors import InputError
from lightning_ood.ops.secrets import blank, blank_arguments, fill_in, hidden_arguments, is_secret, scrub
from lightning_ood.ops.secrets import without_secrets as starred

TREE = {
    "data": {
        "id": {"init_args": {"token": "hf_planted1", "url": "https://me:planted2@host/x?a=1&sig=planted3", "size": 3}},
        "list": [{"aws_secret_access_key": "planted4"}, {"password": "planted5"}, "ssh://u:planted6@h/p"],
    },
    "model": {"key": "planted7", "api_key": "planted8", "keys": "kept", "monkey": "kept", "token": None},
}


def test_names() -> None:
    for name in ("token", "key", "secret", "password", "api_key", "HF_TOKEN", "wandb-api-key", "credentials"):
        assert is_secret(name), name
    for name in ("keys", "tokens", "monkey", "sort_key", "tokenizer", "secretary", "size"):
        assert not is_secret(name), name


def test_blanked_and_filled_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = deepcopy(TREE)
    found = blank(tree, {"HF_TOKEN": "hf_planted1", "STAGE": "planted8"})
    assert "planted" not in repr(tree) and len(found) == 8
    assert tree["data"]["id"]["init_args"]["token"] == "${HF_TOKEN}"
    assert tree["model"]["api_key"] == "${LIGHTNING_OOD_MODEL_API_KEY}", "STAGE holds no secret by its name"
    assert tree["data"]["id"]["init_args"]["url"].startswith("https://me:${LIGHTNING_OOD_DATA_ID_URL_PASSWORD}@host/x?")
    assert tree["model"]["keys"] == "kept" and tree["data"]["id"]["init_args"]["size"] == 3
    again = deepcopy(tree)
    assert blank(again, {}) == {} and again == tree, "what is blank stays"
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    fill_in(tree)
    assert tree == TREE
    space = Namespace(data=Namespace(id={"token": "${HF_TOKEN}"}), other="${HF_TOKEN}")
    fill_in(space)
    assert space.data.id["token"] == "hf_planted1" and space.other == "${HF_TOKEN}", "only where a secret stands"


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(InputError, match=r"data\.token: the environment variable NO_SUCH_TOKEN is not set"):
        fill_in({"data": {"token": "${NO_SUCH_TOKEN}"}})


def test_stars() -> None:
    assert "planted" not in repr(starred(TREE)) and starred(TREE)["model"]["token"] is None
    assert starred({"a": [1, "b", {"c": None}]}) == {"a": [1, "b", {"c": None}]}


def test_arguments() -> None:
    given = [
        "fit",
        "--config",
        "a.yaml",
        "--data.id.train.token=planted1",
        "--model.password",
        "planted2",
        "--x.size=3",
    ]
    given += ["--data.ood.far/x", '{"init_args": {"secret": "planted3", "size": 2}}', "--url=http://a:planted4@b/"]
    out, found = blank_arguments(given)
    assert "planted" not in " ".join(out) and sorted(found.values()) == [f"planted{k}" for k in range(1, 5)]
    assert out[:3] == given[:3] and out[3] == "--data.id.train.token=${LIGHTNING_OOD_DATA_ID_TRAIN_TOKEN}"
    assert out[5] == "${LIGHTNING_OOD_MODEL_PASSWORD}" and out[6] == "--x.size=3"
    plain = ["--a", "{b: 1}", "--c", "[1, 2]", "-x", "y", "{", "--d.key="]
    assert blank_arguments(plain) == (plain, {})


def test_arguments_are_hidden_from_those_who_look(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--a.token", "planted9"]
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", *given])
    with pytest.raises(InputError) as error, hidden_arguments(given) as hidden:
        assert sys.argv == ["train.py", "fit", *hidden] and "planted9" not in repr(sys.argv)
        assert os.environ["LIGHTNING_OOD_A_TOKEN"] == "planted9"
        raise InputError("cannot log in with planted9")
    assert str(error.value) == "cannot log in with ***"
    assert sys.argv == ["train.py", "fit", *given] and "LIGHTNING_OOD_A_TOKEN" not in os.environ


def test_messages() -> None:
    said = scrub('Parser key "data": token: plantedA, got {"password": "plantedB"} of ftp://me:plantedC@host')
    assert "planted" not in said and said.startswith('Parser key "data": token: ***')
