from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods import METHODS, build_encoder, presets
from semaug.ssl_methods.presets import method_options, recipes, training_recipe

TABLES = tomllib.loads(Path(presets.__file__).with_name("presets.toml").read_text("utf-8"))
KNOWN = list(TABLES["methods"])
RECIPES = [(method, name) for method, table in TABLES["methods"].items() for name in table["recipes"]]


def built(method, name, device="meta", **changes):
    """The method of a recipe on a small encoder: without weights unless they are wanted, since some heads are wide."""
    recipe, kind = training_recipe(method, name), METHODS[method]
    vision = recipe.backbone if recipe.backbone.startswith("vit") else "small-cnn"
    head = recipe.projector or kind.default_projector
    with torch.device(device):
        encoder = build_encoder(vision, input_size=32, projector=head, options=recipe.backbone_options(vision))
        return kind.assemble(encoder, seed=0, **{**recipe.hyperparameters, **changes})


@pytest.mark.parametrize("method", KNOWN)
def test_every_method_has_a_paper_recipe_and_documented_options(method):
    assert set(METHODS) == set(KNOWN)
    assert next(iter(recipes(method))) == "paper"
    for option in method_options(method):
        assert TABLES["options"][option]["help"]
        assert TABLES["options"][option]["kind"] in ("float", "int", "flag", "text")
    for recipe in recipes(method).values():
        assert len(recipe.text) > 60
        assert set(recipe.hyperparameters) <= set(method_options(method))


@pytest.mark.parametrize(("method", "name"), RECIPES)
def test_a_recipe_builds_what_it_says(method, name):
    recipe, made = training_recipe(method, name), built(method, name)
    if recipe.projector is not None:
        assert made.encoder.spec.projector == recipe.projector
    said = made.settings()
    for key, value in recipe.hyperparameters.items():
        assert said[key] == value, key


SMALLER = {
    "dino": {"outputs": 64},
    "mae": {"decoder_width": 64, "decoder_depth": 1, "decoder_heads": 4},
    "moco-v2": {"queue": 64},
    "moco-v2plus": {"queue": 64},
    "adco": {"bank": 64},
    "swav": {"prototypes": 16},
}


@pytest.mark.parametrize("method", KNOWN)
def test_the_paper_recipe_trains(method):
    made = built(method, "paper", "cpu", **SMALLER.get(method, {}))
    made.before_forward(0, 100)
    loss = made([torch.randn(4, 3, 32, 32) for _ in range(made.views.least)])["loss"]
    loss.backward()
    assert torch.isfinite(loss)


def another(option, value):
    """A value that ``option`` may take and does not have."""
    table = TABLES["options"][option]
    if table["kind"] == "text":
        return next(choice for choice in table["choices"] if choice != value)
    if table["kind"] == "flag":
        return not value
    if table["kind"] == "int":
        return 2 * value
    return 0.5 if value is None else value * 0.9 + 0.01


@pytest.mark.parametrize("method", KNOWN)
def test_every_option_reaches_the_method(method):
    """Each option of the command line, changed alone, changes what the run records of its method."""
    plain = built(method, "paper").settings()
    for option in method_options(method):
        value = another(option, plain[option])
        assert built(method, "paper", **{option: value}).settings()[option] == value, option


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InvalidOption, match="no method is called 'simcrl'; did you mean 'simclr'"):
        recipes("simcrl")
    with pytest.raises(InvalidOption, match="simclr has no recipe 'mine'; choose one of paper, solo"):
        training_recipe("simclr", "mine")


def test_a_warm_up_is_a_share_of_the_steps():
    assert training_recipe("simclr", "solo").warmup_steps(1000) == 10
    assert training_recipe("simclr").warmup_steps(1000) == 0
