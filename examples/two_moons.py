"""Consistency training in the plane, put together from parts: minibatch optimal transport, no parameter file.

python examples/two_moons.py [STEPS]
"""

import sys
from copy import deepcopy

import torch
from sklearn.datasets import make_moons

import couplet
from couplet.couplings.base import Setting

steps, batch, sigma_data = int((*sys.argv, 4000)[1]), 256, 0.5
levels = {"sigma_min": 0.002, "sigma_max": 10.0}
kernel = couplet.make("kernel", "ve", sigma_data=sigma_data, **levels)
coupling = couplet.make("coupling", "ot", Setting(2, sigma_data, make_network=None))
shape = {"in_channels": 2, "out_channels": 2, "resolution": 1, "num_classes": 0}
network = couplet.make("network", {"kind": "mlp", "model_channels": 128}, **shape)
grid = {"kind": "discretised", "s0": 10, "s1": 20}
schedule = couplet.make("schedule", grid, max_level=kernel.max_level, total_steps=steps, **levels)
distance = couplet.make("distance", {"kind": "pseudo_huber", "c": 0.0}, dimensions=2)
weighting = couplet.make("weighting", "inverse_gap", sigma_data=sigma_data)


def moons(count: int, seed: int) -> torch.Tensor:
    points, _ = make_moons(count, noise=0.05, random_state=seed)
    return torch.tensor(sigma_data * (points - 0.25), dtype=torch.float32).reshape(count, 2, 1, 1)


torch.manual_seed(0)
model = couplet.ConsistencyModel(network, coupling, kernel)
average = deepcopy(model).requires_grad_(False)
optimizer = torch.optim.RAdam(model.parameters(), lr=3e-3)
generator = torch.Generator().manual_seed(0)
for step in range(steps):
    points = moons(batch, seed=step)
    noise = coupling.arrange(points, torch.randn(points.shape, generator=generator))
    t, r = schedule.draw_pair(step, batch, generator)
    student = model(kernel.noise(points, noise, t), t, None, boundary=True)
    with torch.no_grad():
        target = model(kernel.noise(points, noise, r), r, None, boundary=True)
    loss = (weighting(t, r) * distance(student, target)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 0.01)

top = torch.tensor([levels["sigma_max"]])
samples = average(top * torch.randn(1000, 2, 1, 1, generator=generator), top, None, boundary=True)
distances = torch.cdist(samples.flatten(1), moons(1000, seed=steps).flatten(1)) / sigma_data
print(f"median distance of a point to the nearest of 1,000 samples: {distances.amin(0).median():.3f}")
