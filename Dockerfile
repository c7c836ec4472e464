# The main job in a container, results in /results:
#     docker build -t lorasa . && docker run --rm -v "$PWD/results/runs:/results" lorasa
#     docker run --rm -v "$PWD/results/runs:/results" lorasa --scenario Ant-4x2 --methods ps lora --seeds 3
# The image of clusters on Kubernetes is another one: cluster/Dockerfile.
# By digest, of amd64 and arm64 alike: what a tag names may change overnight. PYTHON_IMAGE takes another one.
ARG PYTHON_IMAGE=python:3.11.14-slim@sha256:c8271b1f627d0068857dce5b53e14a9558603b527e46f1f901722f935b786a39
FROM ${PYTHON_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends g++ libegl1 libgl1 && rm -rf /var/lib/apt/lists/*
WORKDIR /lorasa-rllib
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY lorasa_rllib lorasa_rllib
RUN pip install --no-cache-dir -e . -c constraints.txt
COPY tune_configs tune_configs
ENV OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore
ENTRYPOINT ["python", "tune_configs/mamujoco.py", "--storage-path", "/results"]
CMD ["--scenario", "HalfCheetah-2x3", "--methods", "ps", "lora", "lora-joint", "--total-env-steps", "400000", "--phase-switch", "0.5", "--name", "docker", "--resume"]
