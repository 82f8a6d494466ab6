# What images of Containerfile and couplet.def have in common: Python with the pinned packages in /opt/couplet.
# EXTRAS of pyproject.toml; further PACKAGES of Debian; TORCH, a name of uv's for a build of PyTorch.
set -eu
cd /source
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends ca-certificates git python3 python3-venv ${PACKAGES-}
apt-get clean
rm -rf /var/lib/apt/lists/*
python3 -m venv /opt/couplet
/opt/couplet/bin/pip install uv
/opt/couplet/bin/uv pip install --python /opt/couplet --link-mode copy --compile-bytecode --constraint requirements.txt \
    --requirements pyproject.toml $(printf -- '--extra %s ' ${EXTRAS:-pipeline dinov2 lion lmdb}) \
    ${TORCH:+--torch-backend "$TORCH"}
find /opt/couplet -name '*.a' -delete # libraries to link against: no program here does
