# %% [markdown]
# # Consistency models in five minutes
#
# A consistency model turns noise into an image with one or two evaluations of a network. How well it learns
# this depends on how training pairs images with noise. Here two pairings are trained on 8×8 digits, watched,
# compared, and used to complete images. Everything runs on a laptop's CPU.

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import couplet


def show(images, title="", columns=16):
    """Draw images [n, h, w, 1] in rows, a grey line between them."""
    framed = np.pad(images[..., 0], ((0, 0), (0, 1), (0, 1)), constant_values=96)
    rows = [np.concatenate(list(framed[i : i + columns]), axis=1) for i in range(0, len(framed), columns)]
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(rows) + 0.3))
    axes.imshow(np.concatenate(rows), cmap="gray", interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.axis("off")
    display(figure)
    plt.close(figure)


# %% [markdown]
# ## Train, and watch samples form
#
# `couplet.train` gives an iterator of steps; its `model` are the averaged weights as they are now. The
# samples below always start from the same noise. `independent` pairs every image with noise as it is drawn.

# %%
STEPS = 600
runs = {
    name: couplet.train(changes={"coupling": name, "recipes.ict.steps": STEPS})
    for name in ("independent", "ot")
}
losses = {name: [] for name in runs}
for step in runs["independent"]:
    losses["independent"].append(step.loss)
    if step.step in (1, 50, 200, STEPS):
        show(runs["independent"].model.sample(16), f"after {step.step} steps")

# %% [markdown]
# ## Compare couplings
#
# `ot` exchanges the noises within a batch so that images and noises lie close. Both models below sample from
# the same noise with one evaluation, and are scored by the Fréchet distance of their pixels to the data's.
# Lower is better. One short run of each is no evidence for either: tables with several seeds are. For natural
# images take the extractor `inception-legacy`, which makes it the FID.

# %%
losses["ot"] = [step.loss for step in runs["ot"]]
for name, run in runs.items():
    samples = run.model.sample(500)
    show(samples[:32], name)
    [score] = couplet.score(samples, "data/digits", extractor="values", metrics=["fd"])
    print(f"{name}: Fréchet distance {score.value:.2f} ({score.protocol['samples']} samples, pixels)")

# %%
figure, axes = plt.subplots(figsize=(6, 2.5))
for name, values in losses.items():
    axes.plot(np.convolve(values, np.ones(25) / 25, "valid"), label=name)
axes.set(xlabel="training step", ylabel="loss, mean of 25", yscale="log")
axes.legend()
display(figure)
plt.close(figure)

# %% [markdown]
# ## Edit images
#
# A trained model completes what is only partly known, without further training: here the right half of digits
# that it has not seen.

# %%
model = runs["ot"].model
digits = np.load("data/digits/test-images.npy")[:16]
known = np.ones((8, 8), bool)
known[:, 4:] = False
show(digits, "digits")
show(np.where(known[..., None], digits, 0), "what is known")
show(couplet.editing.inpaint(model, digits, known), "completed")
show(couplet.editing.interpolate(model, 0, 5, 16), "from one sample to another")

# %% [markdown]
# ## Keep the model

# %%
runs["ot"].save("digits-ot.safetensors")
again = couplet.load("digits-ot.safetensors")
assert np.array_equal(again.sample(4), model.sample(4))
print(again)
