"""``semaug pretrain METHOD``."""

from __future__ import annotations

import difflib
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from semaug.artifacts.progress import ignore_progress
from semaug.cli.console import (
    Place,
    Verb,
    VerbGroup,
    emit,
    json_option,
    note,
    out_option,
    overwrite_option,
    pick_device,
    progress,
    settings,
)

PAIRS = (
    "standard", "duplicated", "guided", "cross", "inflated", "center", "random_box", "shuffled_box", "self", "semantic",
    "synthetic", "diffusion", "adainf",
)  # fmt: skip
MODES = ("a", "b", "c", "d", "e", "f", "g", "h", "g-pool", "h-distinct", "mix", "direct")
PRESETS = (
    "symmetric", "symmetric_weak", "asymmetric_cifar", "asymmetric_imagenet", "vicreg_cifar", "byol",
    "adainf_symmetric", "adainf_asymmetric", "diffaug", "crop_flip", "identity",
)  # fmt: skip
TRANSFORMS = (
    "full", "no_gray", "no_jitter", "no_blur", "no_flip", "no_rotation", "crop_only", "identity",
)  # fmt: skip
POSITIVES = ("drawn", "enlarged", "mixed")
EXPORT_FORMATS = ("torchvision", "timm", "onnx", "detectron2")
INIT_FORMATS = ("auto", "semaug", "torchvision", "timm", "lightly", "solo", "moco", "dino")
PAIR_OPTIONS = (
    "preset", "transforms", "rotation", "semantic", "synthetic", "mode", "direct_views", "similarity", "min_similarity",
    "augment", "positives", "alpha", "raw_positives", "generated", "real_copies", "crop", "scale", "box_scale",
    "margin", "tau", "tau_mask", "centre_beta", "p_guided", "guided_views", "box_select", "box_scope", "mask_mode",
    "copies", "materialized", "local_views", "local_size", "local_scale", "guided_locals", "neighbours", "components",
)  # fmt: skip


def _method_tables() -> Mapping[str, Any]:
    """``presets.toml`` of ssl-methods, found without importing it, since that imports torch."""
    found = find_spec("semaug.ssl_methods")
    assert found is not None
    assert found.submodule_search_locations
    return tomllib.loads(Path(found.submodule_search_locations[0], "presets.toml").read_text("utf-8"))


TABLES = _method_tables()
METHODS: Mapping[str, Any] = TABLES["methods"]


class MethodGroup(VerbGroup):
    """A verb for each method; a misspelt one is answered with the nearest."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(self.list_commands(ctx))}"
            raise click.UsageError(f"no method is called {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=MethodGroup)
def group() -> None:
    """Train an encoder on positive pairs. Stopped at any moment, the same command goes on to the same weights."""


SHARED = (
    click.argument("folder"),
    out_option("the run: encoder, card, curves and logs"),
    click.option(
        "--pairs", type=click.Choice(PAIRS), default="standard", show_default=True, help="Where pairs come from."
    ),
    click.option("--guidance", type=Place(exists=True), help="Guidance made by `semaug guide extract`."),
    click.option(
        "--self-warmup", type=click.IntRange(0), help="Epochs before pairs `self` are guided (a fifth of all)."
    ),
    click.option(
        "--self-every", type=click.IntRange(1), help="Epochs between refreshes of their boxes (a fifth of all)."
    ),
    click.option(
        "--self-threshold",
        type=click.FloatRange(0, 1, max_open=True),
        help="Share of the heat that a cell of their boxes exceeds (0.1).",
    ),
    click.option("--preset", type=click.Choice(PRESETS), help="Augmentation (the recipe's)."),
    click.option("--transforms", type=click.Choice(TRANSFORMS), help="Which of its transforms are kept (full)."),
    click.option("--rotation", type=(float, float), help="Probability and degrees of a rotation (none)."),
    click.option(
        "--semantic", type=Place(exists=True), help="The set of pairs for `semantic`, by `semaug pairs build`."
    ),
    click.option("--synthetic", type=Place(exists=True), help="Images of `semaug synth run`, for `synthetic`."),
    click.option("--mode", type=click.Choice(MODES), help="How they meet real images (a)."),
    click.option("--direct-views", type=click.IntRange(2), help="Images of one caption in an item of `direct` (2)."),
    click.option("--similarity", type=Place(exists=True), help="Cosines of `semaug synth similarity`."),
    click.option(
        "--min-similarity",
        type=click.FloatRange(-1, 1),
        help="Below it the real image stands in for the synthetic one.",
    ),
    click.option("--augment", type=Place(exists=True), help="Positives of `semaug diffaug augment`, for `diffusion`."),
    click.option(
        "--positives",
        type=click.Choice(POSITIVES),
        help="One a pair, drawn anew every epoch; all k, as k times the pairs; or as images of their own (drawn).",
    ),
    click.option("--alpha", type=click.FloatRange(0, 1), help="Probability that view 2 is a positive (1)."),
    click.option("--raw-positives", is_flag=True, default=None, help="Show positives whole, without augmentation."),
    click.option("--generated", help="Generated images, for `adainf` (any image source)."),
    click.option("--real-copies", type=click.IntRange(1), help="Times each real image is seen for `adainf` (10)."),
    click.option(
        "--crop", type=click.Choice(["inside", "cover", "box_as_view"]), help="How a guided crop relates to the box."
    ),
    click.option("--scale", type=(float, float), help="A crop's share of the image (the preset's)."),
    click.option("--box-scale", type=(float, float), help="A guided crop's share of the box (that of --scale)."),
    click.option("--margin", type=click.FloatRange(0), help="How far a box is widened, as a share of its sides (0.1)."),
    click.option("--tau", type=click.FloatRange(0, 1), help="Share of a box or mask that a crop must keep (0.5)."),
    click.option(
        "--tau-mask", type=click.FloatRange(0, 1), help="Or the share of the crop that a mask must fill (0.3)."
    ),
    click.option(
        "--centre-beta",
        type=click.FloatRange(0, 1, min_open=True),
        help="Place crops by Beta(b, b), which shuns the centre below 1 (uniformly; 0.6 in ContrastiveCrop).",
    ),
    click.option("--p-guided", type=click.FloatRange(0, 1), help="Probability that a view is guided (1)."),
    click.option("--guided-views", type=click.Choice(["both", "one"]), help="Which views are guided (both)."),
    click.option(
        "--box-select", type=click.Choice(["random", "largest", "union", "all"]), help="Which object (random)."
    ),
    click.option(
        "--box-scope", type=click.Choice(["image", "view"]), help="One object an image, or one a view (image)."
    ),
    click.option(
        "--mask-mode", type=click.Choice(["crop_only", "bg_blur", "bg_fill"]), help="Use of masks (crop_only)."
    ),
    click.option("--copies", type=click.IntRange(1), help="Copies of every image for `duplicated` (2)."),
    click.option(
        "--materialized", type=click.Path(exists=True), help="Crops of `semaug views materialize`, for `inflated`."
    ),
    click.option(
        "--local-views", type=click.IntRange(0), help="Small views beside the two (multi-crop: swav, dino; 0)."
    ),
    click.option("--local-size", type=click.IntRange(8), help="Side of a small view in pixels (96 at --size 224)."),
    click.option("--local-scale", type=(float, float), help="A small view's share of the image or box (0.05 0.4)."),
    click.option("--guided-locals", is_flag=True, default=None, help="Cut small views inside the object's box too."),
    click.option(
        "--neighbours", type=click.IntRange(1), help="Near rows that a row of a table is mixed with (5; mlp alone)."
    ),
    click.option(
        "--components",
        type=click.IntRange(0),
        help="Principal components among which these are found (50; 0: all columns).",
    ),
    click.option(
        "--views",
        type=click.Choice(["auto", "cpu", "device"]),
        default="auto",
        show_default=True,
        help="Where views are made (auto: on a GPU where it can).",
    ),
    click.option(
        "--backbone",
        help="small-cnn, resnet18/34/50/101, mobilenetv2, vit-s16/s8/s4 or timm:NAME (the recipe's); mlp for tables.",
    ),
    click.option(
        "--backbone-option",
        "backbone_options",
        multiple=True,
        help="One of the backbone's own as name=value, say heads=12 (repeatable).",
    ),
    click.option(
        "--init", type=click.Path(), help="Weights to start from: a run, or a .pth, .ckpt or .safetensors file."
    ),
    click.option(
        "--init-format",
        type=click.Choice(INIT_FORMATS),
        default="auto",
        show_default=True,
        help="Whose file --init is.",
    ),
    click.option("--small-stem/--large-stem", default=None, help="3x3 stem without pooling (up to 64 px by itself)."),
    click.option("--size", type=click.IntRange(8), default=224, show_default=True, help="Side of a view in pixels."),
    click.option("--steps", type=click.IntRange(1), default=500, show_default=True, help="Optimizer steps."),
    click.option("--batch-size", type=click.IntRange(2), help="Pairs a step (the recipe's)."),
    click.option(
        "--optimizer",
        type=click.Choice(["paper", "solo", "adamw"]),
        help="SGD 0.03, LARS 0.4 or AdamW 0.001 (the recipe's).",
    ),
    click.option("--lr", type=float, help="Learning rate (the optimizer's)."),
    click.option("--warmup", type=click.IntRange(0), help="Steps of linear warm-up (the recipe's share of --steps)."),
    click.option(
        "--accumulate",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Forwards that make up a step's batch.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "fp16", "fp64"]),
        default="fp32",
        show_default=True,
        help="Numbers to compute in; weights are kept in fp32, those of fp64 in fp64.",
    ),
    click.option(
        "--devices", type=click.IntRange(1), default=1, show_default=True, help="Processes that share a batch."
    ),
    click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Machines of as many each."),
    click.option(
        "--peer-timeout",
        type=click.FloatRange(0, min_open=True),
        default=1800,
        show_default=True,
        help="Seconds that processes wait for one that does not answer.",
    ),
    click.option("--deterministic", is_flag=True, help="Take only kernels that give the same bits on a GPU too."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights, order and views."),
    click.option(
        "--checkpoint-every", type=click.IntRange(1), default=100, show_default=True, help="Steps between checkpoints."
    ),
    click.option(
        "--log-every", type=click.IntRange(1), default=10, show_default=True, help="Steps between rows of the curves."
    ),
    click.option("--knn-test", help="Labelled images to watch kNN accuracy on while training."),
    click.option("--knn-every", type=click.IntRange(1), default=100, show_default=True, help="Steps between these."),
    click.option("--online-linear", is_flag=True, help="Fit a linear probe then too, to the same images' features."),
    overwrite_option,
    json_option,
)
"""What every method takes."""


OPTIMIZERS = {"sgd": "SGD", "lars": "LARS", "adamw": "AdamW"}
KINDS: Mapping[str, Any] = {"float": float, "int": int, "text": str}


def _own_option(name: str, recipes: Mapping[str, Any]) -> Callable[..., Any]:
    """The flag of one hyperparameter; its help says what each recipe that names it takes."""
    option, dest = TABLES["options"][name], f"own_{name}"
    flag = option.get("flag", name.replace("_", "-"))
    said = {
        r: table["hyperparameters"][name] for r, table in recipes.items() if name in table.get("hyperparameters", {})
    }
    values = ", ".join(f"{recipe} {_plain(value)}" for recipe, value in said.items())
    text = f"{option['help']} ({values})." if values else f"{option['help']}."
    if option["kind"] == "flag":
        return click.option(f"--{flag}/--no-{flag}", dest, default=None, help=text)
    if "choices" in option:
        return click.option(f"--{flag}", dest, type=click.Choice(option["choices"]), help=text)
    return click.option(f"--{flag}", dest, type=KINDS[option["kind"]], help=text)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def recipe_line(table: Mapping[str, Any]) -> str:
    """One recipe in a line: what it says of itself, then its numbers."""
    optimizer = table["optimizer"]
    numbers = [
        f"{OPTIMIZERS[optimizer['name']]} {optimizer['lr']:g}", f"weight decay {optimizer['weight_decay']:g}",
        f"batch {table.get('batch_size', 256)}", f"warm-up {table.get('warmup', 0):.0%}",
        f"--preset {table.get('augmentation', 'symmetric')}",
        *(f"--{key.replace('_', '-')} {_plain(value)}" for key, value in table.get("views", {}).items()),
        f"--backbone {table.get('backbone', 'resnet18')}",
        *(f"{key} {_plain(value)}" for key, value in table.get("transformer", {}).items()),
    ]  # fmt: skip
    if projector := table.get("projector"):
        numbers.append("projector " + ", ".join(f"{k} {_plain(v)}" for k, v in projector.items()))
    return f"{table['text']} ({'; '.join(numbers)})"


def _recipe_text(name: str, table: Mapping[str, Any]) -> str:
    text = f"{name}: {recipe_line(table)}"
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _method_help(method: str, table: Mapping[str, Any]) -> str:
    recipes = "\n".join(_recipe_text(name, recipe) for name, recipe in table["recipes"].items())
    return (
        f"Pretrain on FOLDER (images of any kind `semaug data info` opens; with --backbone mlp a table) with "
        f"{table['title']}: {table['about']}.\n\n"
        f"\b\nExample:\n  semaug pretrain {method} photos/ --pairs guided --guidance guidance.zarr --steps 500 "
        f"--out run/\n\n\b\nRecipes (--recipe; a flag goes before the recipe's value):\n{recipes}"
    )


def _verb(method: str, table: Mapping[str, Any]) -> click.Command:
    recipes = table["recipes"]
    choice = click.option(
        "--recipe",
        type=click.Choice(list(recipes)),
        default=next(iter(recipes)),
        show_default=True,
        help="Whose settings train it.",
    )
    own = [choice, *(_own_option(name, recipes) for name in table["options"])]
    callback: Any = partial(_pretrain, method)
    callback.__name__ = method
    for decorate in reversed([*SHARED[:2], *own, *SHARED[2:]]):
        callback = decorate(callback)
    text, short = _method_help(method, table), f"{table['title']}: {table['about']}."
    verb: click.Command = click.command(method, cls=Verb, help=text, short_help=short)(callback)
    return verb


def _pretrain(
    method: str,
    folder: str,
    out: Path,
    as_json: bool,
    overwrite: bool,
    precision: str,
    devices: int,
    nodes: int,
    peer_timeout: float,
    deterministic: bool,
    **options: Any,
) -> None:
    from semaug.ssl_methods.pretrain import Hardware
    from semaug.studies.assemble import train

    hardware = Hardware(
        pick_device(), devices, nodes, settings().workers, precision, peer_timeout=peer_timeout,
        deterministic=deterministic,
    ).launched()  # fmt: skip
    with progress() as on_progress:
        plan = _plan(folder, method, options)
        told = ignore_progress if hardware.rank else on_progress
        card = train(plan, out, hardware=hardware, overwrite=overwrite, on_progress=told)
    if hardware.rank:  # one of several processes speaks for all
        return
    if plan.init is not None:
        note("started from " + _started_from(plan.init, card))
    result = {"run": str(out), "method": card.method, "steps": card.steps, "weights": card.weights_digest}
    emit(result, as_json, f"{out}: {card.method}, {card.steps} steps, weights {card.weights_digest}")


def _started_from(path: str, card: Any) -> str:
    from semaug.ssl_methods import Initialisation

    return str(Initialisation(path=path, digest=card.inputs["init"], **card.config["init"]))


def _plan(folder: str, method: str, options: dict[str, Any]) -> Any:
    from semaug.ssl_methods.backbones import read_options
    from semaug.studies.assemble import OnlineKnn, SelfOptions, TrainingPlan

    pair_options = {name: options.pop(name) for name in PAIR_OPTIONS}
    own = {name: options.pop(f"own_{name}") for name in METHODS[method]["options"]}
    test, every, linear = (options.pop(name) for name in ("knn_test", "knn_every", "online_linear"))
    own_guidance = {name: options.pop(f"self_{name}") for name in ("warmup", "every", "threshold")}
    return TrainingPlan(
        folder,
        method=method,
        hyperparameters={name: value for name, value in own.items() if value is not None},
        pair_options={name: value for name, value in pair_options.items() if value is not None},
        self_options=SelfOptions(**{name: value for name, value in own_guidance.items() if value is not None}),
        online_knn=OnlineKnn(folder, test, every, linear=linear) if test else None,
        backbone_options=read_options(options.pop("backbone_options")),
        **options,
    )


@group.command("export")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@out_option("the weights (.safetensors, .pth; .pkl for detectron2) or the model (.onnx)", file=True)
@click.option("--format", "format_", type=click.Choice(EXPORT_FORMATS), required=True, help="For which program.")
@json_option
def export(run: str, out: Path, format_: str, as_json: bool) -> None:
    """Write the backbone of RUN for another program: a state dict without classifier, or an ONNX model.

    \b
    Example:
      semaug pretrain export run/ --format torchvision --out resnet18.pth
    """
    from semaug.ssl_methods import export_encoder, load_encoder
    from semaug.studies.protocols.detection import export_for_detectron2

    encoder, card = load_encoder(run)
    notes = export_for_detectron2(encoder, out) if format_ == "detectron2" else export_encoder(encoder, format_, out)
    result = {"file": str(out), "format": format_, "backbone": card.backbone, "notes": list(notes)}
    emit(result, as_json, "\n".join([f"{out}: {card.backbone} for {format_}", *notes]))


for _name, _table in METHODS.items():
    group.add_command(_verb(_name, _table))
