# %% [markdown]
# # A folder of images: objects, crops, and what crops hold
# Give `FOLDER` the path of images of yours. Here a small folder is made, so that the notebook runs anywhere: shapes on
# clutter, whose true boxes are known.

# %%
from pathlib import Path

from PIL import Image

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.sources import open_source

scenes = open_source("scenes:train?items=48")
FOLDER = Path("photos")
for i in range(len(scenes)):
    file = FOLDER / scenes.class_names[scenes.label(i)] / f"{i:03d}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scenes.read(i)).save(file)

images = open_source(FOLDER)
print(len(images), "images of", len(images.class_names), "classes; the first is", images.key(0))

# %% [markdown]
# ## Quality and routes
# Each image gets a score of resolution, clarity and diversity, and a policy turns it into a route: boxes, masks, or
# masks in boxes.

# %%
from semaug.quality_policy import QualityTable, make_policy, quality_report, score_source

score_source(images, "quality.zarr")
quality = QualityTable.open("quality.zarr")
quality_report(quality, make_policy("soft"))["routing"]

# %% [markdown]
# ## Guidance
# Two oracles that need no weights: saliency finds boxes, GrabCut the masks in them. On photographs
# `OracleSpec("objectness")` is the better detector.

# %%
from semaug.oracles.catalogue import OracleSpec
from semaug.oracles.contact_sheet import choose_tiles, draw_sheet
from semaug.oracles.extract import extract_guidance

extract_guidance(images, "guidance.zarr", detector=OracleSpec("saliency"), quality=quality)
guidance = GuidanceTable.open("guidance.zarr")
draw_sheet(choose_tiles(images, guidance, items=12), "What was found", columns=6, side=120)

# %% [markdown]
# ## Views
# `guided` cuts crops in the boxes; `random_box` has boxes of the same sizes at random places. What `guided` gains over
# `random_box` comes from meaning, what both gain over `standard` from the size of crops.

# %%
from semaug.pairs_dataset import make_pairs
from semaug.pairs_dataset.sheets import pair_sheet

options = {"size": 64, "guidance": guidance, "preset": "symmetric_weak"}
variants = {
    "standard": make_pairs("standard", images, size=64, preset="symmetric_weak"),
    "random_box": make_pairs("random_box", images, **options),
    "guided": make_pairs("guided", images, **options),
}
pair_sheet(variants, range(0, 48, 12), guidance=guidance, cell=96)

# %% [markdown]
# ## What crops hold
# Where true boxes are known, retention says whether a view keeps half of an object, is filled to 30% by it, and
# whether both views keep the same one.

# %%
from dataclasses import replace

from semaug.pairs_dataset import measure_retention

keys = [images.key(i) for i in range(len(images))]
truth = GuidanceTable.of([replace(scenes.guidance(int(Path(key).stem)), key=key) for key in keys])
for name, pairs in variants.items():
    found = measure_retention(pairs, truth, draws=5)
    print(f"{name:<12} keeps {found.keeps:.2f}  filled {found.filled:.2f}  same {found.same:.2f}")

# %% [markdown]
# The views of `variants["guided"]` are a plain PyTorch data set: `view_1, view_2, index = variants["guided"][0]`. The
# next step is to train on them, and on the controls: see *Does it help?*
