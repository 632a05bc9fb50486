# %% [markdown]
# # Rows of numbers: DiffAug on a table
# DiffAug needs no augmentation by hand beyond mixing near rows, so it works where nobody knows what may be changed: on
# tables of cells, say. Here the rows are scikit-learn's digits, which are there everywhere; for an AnnData file write
# `open_table("cells.h5ad?label=cell_type")`. The settings are tiny: the notebook shows the way, and nothing of what
# DiffAug can do.

# %%
from semaug.artifacts.tables import open_table

table = open_table("sklearn:digits?split=train&share=0.3")
print(len(table), "rows of", table.features.shape[1], "columns;", len(table.class_names), "classes")

# %% [markdown]
# ## Train
# First the encoder alone, on mixed neighbours; then the generator; then both, with generated views among the encoder's.

# %%
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.diffaug_core.table_samples import TableSamples
from semaug.diffaug_core.training import train_diffaug

settings = DiffAugSettings(sampler_steps=5, refresh_every=5, alpha=0.15)
card = train_diffaug(TableSamples(table), "run", settings, epochs=10, batch_size=128, seed=0)
print(card.method, card.backbone)

# %% [markdown]
# ## Embed
# `encoder(x)` is the code that the generator is conditioned on, `encoder.project` the two-dimensional embedding.

# %%
import torch

from semaug.diffaug_core.runs import load_diffaug

run = load_diffaug("run")
with torch.inference_mode():
    embedding = run.encoder.project(run.encoder(torch.from_numpy(table.features))).numpy()
print(embedding.shape)

# %%
import matplotlib.pyplot as plt

from semaug.diffaug_core.projections import fit_projection

maps = {"DiffAug": embedding, "PCA": fit_projection("pca", table.features, 0).embedding}
figure, axes = plt.subplots(1, 2, figsize=(9, 4))
for axis, (title, points) in zip(axes, maps.items(), strict=True):
    axis.scatter(*points.T, c=table.labels, s=6, cmap="tab10")
    axis.set(title=title, xticks=[], yticks=[])
figure

# %% [markdown]
# ## Hand it over
# The embedding goes to a file, by the rows' names; into a copy of an AnnData file if the table came from one.

# %%
from semaug.artifacts.tables import write_embedding

print(write_embedding(None, "embedding.csv", "X_diffaug", embedding, table.keys).path)
