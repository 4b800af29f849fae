# Build and train (needs the NVIDIA container toolkit for a GPU):
#   docker build -t vtblender-nemo .
#   docker run --rm --gpus all --shm-size 8g -u "$(id -u):$(id -g)" -v "$PWD:/work" vtblender-nemo \
#     /opt/vtblender_nemo/examples/train_vtb.py output_dir=/work/results
ARG BASE=nvcr.io/nvidia/pytorch:25.09-py3
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

WORKDIR /opt/vtblender_nemo

# The container's own torch, built for its CUDA, is held in place by a constraints file.
RUN pip list --format=freeze | grep -iE '^(torch|torchvision|torchaudio|triton|pytorch-triton|transformer[-_]engine)==' \
    > /opt/own-torch.txt

COPY setup.py README.md LICENSE ./
COPY vtblender_nemo vtblender_nemo
COPY conf conf
COPY examples examples

# Editable, so that a mounted source tree can take the place of this one. The container's PIP_CONSTRAINT also pins packages
# that have nothing to do with its torch, to versions older than those needed here.
RUN PIP_CONSTRAINT='' pip install --no-cache-dir --constraint /opt/own-torch.txt --editable . \
    && chmod -R a+rX /opt/vtblender_nemo

# Any user id may run it: caches go where everyone may write, results to the working directory.
ENV HOME=/tmp \
    HF_HOME=/tmp/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONUNBUFFERED=1
RUN mkdir -p /work && chmod 1777 /work
WORKDIR /work
USER 1000

ENTRYPOINT ["python"]
CMD ["/opt/vtblender_nemo/examples/train_vtb.py"]
