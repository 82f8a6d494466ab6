"""Consistency training in the plane, from parts: iCT with minibatch optimal transport, without any file.

python examples/two_moons.py [STEPS]
"""

import sys
from copy import deepcopy

import torch
from sklearn.datasets import make_moons

import couplet
from couplet.couplings.base import Setting

STEPS, BATCH, SIGMA_DATA = int((*sys.argv, 3000)[1]), 256, 0.5
LEVELS = {"sigma_min": 0.002, "sigma_max": 80.0}

kernel = couplet.make("kernel", "ve", sigma_data=SIGMA_DATA, **LEVELS)
coupling = couplet.make("coupling", "ot", Setting(2, SIGMA_DATA, make_network=None))
network = couplet.make(
    "network",
    {"kind": "mlp", "model_channels": 128},
    in_channels=2,
    out_channels=2,
    resolution=1,
    num_classes=0,
)
schedule = couplet.make(
    "schedule", {"kind": "discretised", "s0": 10, "s1": 80}, max_level=80.0, total_steps=STEPS, **LEVELS
)
distance = couplet.make("distance", "pseudo_huber", dimensions=2)
weighting = couplet.make("weighting", "inverse_gap", sigma_data=SIGMA_DATA)

torch.manual_seed(0)
model = couplet.ConsistencyModel(network, coupling, kernel)
average = deepcopy(model).eval().requires_grad_(False)
optimizer = torch.optim.RAdam(model.parameters(), lr=1e-3)
generator = torch.Generator().manual_seed(0)
for step in range(STEPS):
    points = torch.tensor(make_moons(BATCH, noise=0.05, random_state=step)[0], dtype=torch.float32) - 0.25
    points = SIGMA_DATA * points.reshape(BATCH, 2, 1, 1)
    noise = coupling.arrange(points, torch.randn(points.shape, generator=generator))
    t, r = schedule.draw_pair(step, BATCH, generator)
    student = model(kernel.noise(points, noise, t), t, None, boundary=True)
    with torch.no_grad():
        target = model(kernel.noise(points, noise, r), r, None, boundary=True)
    loss = (weighting(t, r) * distance(student, target)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 0.01)

sigma = torch.tensor([80.0])
samples = average(sigma * torch.randn(1000, 2, 1, 1, generator=generator), sigma, None, boundary=True)
samples = samples.detach().flatten(1) / SIGMA_DATA + 0.25
truth = torch.tensor(make_moons(1000, noise=0.05, random_state=STEPS)[0], dtype=torch.float32)
print(
    f"distance of a sample to the nearest of 1,000 points: {torch.cdist(samples, truth).amin(1).mean():.3f}"
)
