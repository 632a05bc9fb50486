# %% [markdown]
# # Does it help? Variants, controls, paired seeds
# Guidance is worth what it gains over the best control, trained like for like. This notebook does the whole comparison
# at a size that takes a minute; with these few steps its verdict means nothing, and it will say so. For your own
# images give `TRAIN` and `TEST` their folders, more `STEPS` and five `SEEDS`.

# %%
TRAIN, TEST = "scenes:train?items=128", "scenes:test?items=96"
STEPS, SEEDS = 8, (0, 1)

# %% [markdown]
# ## Guidance, once

# %%
from pathlib import Path

from semaug.artifacts.sources import open_source
from semaug.oracles.extract import extract_guidance

summary = extract_guidance(open_source(TRAIN), "guidance.zarr", granularity="object")
print(f"{summary.costs.seconds_per_1000:.1f} s per 1,000 images")

# %% [markdown]
# ## One job a variant and seed
# The jobs of a seed share first weights, order, flips and colours. A job that is done is not run again, so the cell can
# be stopped and run once more.

# %%
from semaug.studies.assemble import TrainingPlan
from semaug.studies.jobs import TrainAndScore
from semaug.studies.runner import run_jobs

VARIANTS = ("standard", "random_box", "guided")
jobs = [
    TrainAndScore(
        name=f"{variant} seed {seed}",
        out=Path("runs") / f"{variant}-{seed}",
        plan=TrainingPlan(
            TRAIN,
            pairs=variant,
            guidance=None if variant == "standard" else str(Path("guidance.zarr").resolve()),
            pair_options={"preset": "symmetric_weak"} | ({} if variant == "standard" else {"p_guided": 0.7}),
            backbone="small-cnn",
            size=32,
            steps=STEPS,
            batch_size=64,
            seed=seed,
        ),
        train=TRAIN,
        test=TEST,
    )
    for seed in SEEDS
    for variant in VARIANTS
]
outcomes = run_jobs(jobs)
print([outcome.error for outcome in outcomes if outcome.error])

# %% [markdown]
# ## Paired differences and the verdict

# %%
from semaug.studies.comparison import best_control, compare, verdict_of

METRIC = "linear/top1"
scores = {
    variant: compare([o for j, o in zip(jobs, outcomes, strict=True) if j.plan.pairs == variant], [METRIC])
    for variant in VARIANTS
}
controls = ("standard", "random_box")
best = best_control(scores, controls, METRIC)
for variant, compared in scores.items():
    found = compared.summary(METRIC)
    mark = "  best control" if variant == best else ""
    print(f"{variant:<12} {100 * found.mean:5.1f} ± {100 * found.sd:.1f}{mark}")
print()
print(verdict_of(scores, "guided", controls, METRIC))

# %% [markdown]
# The command line does the same with more evaluations, costs and a report: `semaug quickstart`, and
# `semaug study list`.
