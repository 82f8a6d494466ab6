#!/usr/bin/env bash
# Walk the README's commands on a fresh clone as three new users would, at scale smoke: some minutes.
#
#     bash benchmarks/newcomer.sh            # in an environment with couplet's packages
#
# Stops at the first command that fails, or that prints what it must not.
set -euo pipefail
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
place=$(mktemp -d)/"a folder with spaces"
trap 'rm -rf "$(dirname "$place")"' EXIT
git clone --quiet "$repository" "$place"
cd "$place"
export PYTHONPATH="$place/src" OMP_NUM_THREADS=1 DVC_NO_ANALYTICS=1
git config user.name newcomer && git config user.email newcomer@example.org
sed -i.bak 's/^scale: .*/scale: smoke/' params.yaml && rm params.yaml.bak
git commit --quiet --all --message "a small size"

step() { printf '\n$ %s\n' "$*"; "$@"; }
refused() { # a command that must end with one line of ours and exit code 2
    printf '\n$ %s\n' "$*"
    set +e; message=$("$@" 2>&1 >/dev/null); code=$?; set -e
    echo "$message"
    [ "$code" = 2 ] && [ "$(grep --count --invert-match '^Using workflow' <<< "$message")" = 1 ] \
        || { echo "exit code $code, not one line"; exit 1; }
}

echo "== somebody who knows PyTorch"
step make help
step couplet --help
step couplet run --coupling vae --set couplings.vae.kl_weight=30 --steps 20 --out adhoc/x
step couplet show adhoc/x
step couplet settings --coupling vae
step snakemake --cores all results/table1-smoke.csv
step couplet show results/table1-smoke.csv
step couplet why results/table1-smoke.csv --row vae,nfe=2
step couplet verify results
step couplet recipes
step couplet recipes gc/cifar10-gc-ict-ve-generator
refused couplet run --coupling vea --out adhoc/y
refused couplet run --set recipes.ict.optimizer.lrr=1 --out adhoc/y
refused snakemake -n results/table1.csv --config scale=smoke

echo "== somebody who knows DVC"
step dvc repro
git add --all && git commit --quiet --message "baseline"
step dvc exp run --name encoder -S coupling=vae -S recipes.ict.optimizer.lr=0.00001 2>&1 | tee exp.log
step dvc exp apply encoder 2>&1 | tee --append exp.log
if grep WARNING exp.log; then exit 1; fi
step dvc status
step dvc dag
step dvc params diff
step dvc metrics diff
step make experiments
step couplet show results/table1-smoke.csv > /dev/null # the grid's table is still there
git checkout --quiet .

echo "== somebody who adds a coupling and own images"
python - <<'PYTHON'
import re
from pathlib import Path

text = Path("CONTRIBUTING.md").read_text()
config, code = (re.sub("^   ", "", block, flags=re.M) for block in re.findall(r"```python\n(.*?)   ```", text, re.S)[:2])
path = Path("src/couplet/config/couplings.py")
path.write_text(f"{path.read_text()}\n\n{config}")
header = "import torch\nfrom torch import Tensor\n\nfrom couplet.couplings.minibatch import MinibatchCoupling\n\n\n"
Path("src/couplet/couplings/brightness.py").write_text(header + code)
path = Path("params.yaml")
path.write_text(path.read_text().replace("couplings: [independent, ot, vae, generator]", "couplings: [independent, ot, vae, generator, brightness]"))
PYTHON
step snakemake -n results/table1-smoke.csv | tee plan.log
grep "train digits-ict-ve-brightness-s0-" plan.log
if grep "Job .*\(independent\|ot\|vae\|generator\)-s0" plan.log; then exit 1; fi
python - <<'PYTHON'
from pathlib import Path

import numpy as np
from PIL import Image

draw = np.random.default_rng(0)
for number in range(64):
    path = Path(f"pictures/{number % 2}/{number}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw.integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(path)
PYTHON
step couplet prepare my-set --from pictures --resolution 8 --test-images 20
step couplet prepare digits --out x/data
step couplet features --data x/data --out x/features
step couplet reference --data x/data --features x/features --out x/reference
step couplet train --coupling brightness --data x/data --out x/train
step couplet select --train x/train --features x/features --reference x/reference --out x/selection.json
step couplet sample --train x/train --selection x/selection.json --out x/samples
step couplet evaluate --train x/train --features x/features --reference x/reference --selection x/selection.json \
    --samples x/samples --out x/evaluation.json
step couplet probe transport --train x/train --data x/data --out x/transport.csv
refused couplet train --dataset digits --data data/my-set --out x/wrong

echo
echo "every command did what the documentation says"
